# SPDX-License-Identifier: Apache-2.0
"""A clip that is held open: the answers of `ask`, conversations, bytes that are told and bounded, and nothing left."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from app import tiny_qwen
from app.conftest import OTHER, QUESTION
from app.test_qa import plain, same
from prunevid import PruneVidConfig
from prunevid.engine.record import tensors_in
from prunevid.errors import InputError
from prunevid.qa import VideoQA

THIRD = "who happens the square ?"


def encodings(qa: VideoQA) -> list[int]:
    """Grows by one at every run of the vision tower."""
    counted: list[int] = []
    qa.model.model.visual.register_forward_hook(lambda *_: counted.append(1))
    return counted


@pytest.mark.parametrize("ahead", [True, False])
def test_answers_are_those_of_ask(qa: VideoQA, clip_file: Path, ahead: bool) -> None:
    asked = (QUESTION, OTHER, QUESTION, THIRD)
    alone = [qa.ask(clip_file, question, max_new_tokens=6) for question in asked]
    beams = qa.ask(clip_file, OTHER, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    runs = encodings(qa)
    with qa.open(clip_file, prefill=ahead) as video:
        assert len(runs) == int(ahead) and (video.memory["prefix"] > 0) is ahead
        held = [video.ask(question, max_new_tokens=6) for question in asked]
        wide = video.ask(OTHER, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    assert all(same(one, two) for one, two in zip([*held, wide], [*alone, beams]))
    assert wide.texts == beams.texts
    opened = [answer.stats["open"] for answer in held]
    whole = opened[-1]["prefix_tokens"]
    assert whole > 80 and [one["prefix_tokens"] for one in opened] == [whole if ahead else 0, whole, whole, whole]
    assert {one["why"] for one in opened} == {None}
    first, second = (answer.stats["milliseconds"] for answer in held[:2])
    assert all(first[name] > 0 for name in ("decode_video", "vision", "merge", "prefill", "decode"))
    assert second["decode_video"] == second["vision"] == 0


def test_a_conversation_is_that_of_the_whole_prompt(qa: VideoQA, clip_file: Path) -> None:
    """Every turn chooses anew from all merged tokens, and costs no video again."""
    turns: list[tuple[str, str]] = []
    kept = []
    with qa.open(clip_file) as video:
        for question in (QUESTION, OTHER, THIRD):
            answer = video.ask(question, history=turns, max_new_tokens=5)
            assert same(answer, qa.ask(clip_file, question, history=turns, max_new_tokens=5))
            assert answer.stats["open"]["prefix_tokens"] > 0 and answer.question == question
            assert answer.stats["stage2"]["original_tokens"] == answer.stats["stage1"]["compressed_tokens"]
            kept.append(answer.maps[0].kept.tolist())
            turns.append((question, answer.text))
        alone = video.ask(THIRD, max_new_tokens=5)
        prompt = qa._answering.prompter.conversation(THIRD, turns[:2])
        known, fresh = video._prompt.encode("", prompt), qa._answering.prompter.encode([video.clip], [""], [prompt])
    assert len({tuple(one) for one in kept}) > 1 and alone.maps[0].kept.tolist() != kept[2]
    assert torch.equal(known["input_ids"], fresh["input_ids"])
    said = [text for pair in turns[:2] for text in pair]
    pieces = (piece.split("assistant")[-1].strip() for piece in str(prompt).split("<|im_end|>"))
    shown = [piece.split("<|vision_end|>")[-1].removeprefix("<|im_start|> user").strip() for piece in pieces]
    assert [text for text in shown if text in said] == said and str(prompt).count("<|video_pad|>") == 1


def test_histories_that_can_not_be_shown(qa: VideoQA, clip_file: Path) -> None:
    history = [(QUESTION, "red")]
    with qa.open(clip_file, prefill=False) as video:
        for ask in (lambda **more: qa.ask(clip_file, OTHER, **more), lambda **more: video.ask(OTHER, **more)):
            with pytest.raises(InputError, match="not both"):
                ask(history=history, prompt="<|video_pad|>")
            with pytest.raises(InputError, match="stands for frames"):
                ask(history=[(QUESTION, "<|video_pad|>")])
            with pytest.raises(InputError, match="must be text"):
                ask(history=[(QUESTION, 3)])
        qa.processor.chat_template = "<|video_pad|>{{ messages[-1]['content'][-1]['text'] }}"
        with pytest.raises(InputError, match="no place for earlier turns"):
            video.ask(OTHER, history=history)


def test_bytes_are_those_of_the_tensors(qa: VideoQA, clip_file: Path) -> None:
    with qa.open(clip_file) as video:
        prefix, inputs = video._held.prefix, video._prompt.inputs()
        assert prefix is not None and prefix.hidden is not None
        memory, n = video.memory, prefix.hidden.shape[1]
        d, kv, half = 32, 16, 8
        numbers = 2 * (2 * n * kv) + n * d + n * kv + 2 * n * half  # two layers; after them; keys; rotary tables
        assert memory["prefix"] == 4 * numbers + 8 * (len(prefix.ids) + prefix.positions.numel())
        assert memory["inputs"] == sum(tensor.nbytes for tensor in tensors_in(inputs))
        answer = video.ask(QUESTION, max_new_tokens=1)
        merged = answer.stats["stage1"]
        assert memory["encoded"] >= 4 * d * (merged["original_tokens"] + merged["compressed_tokens"])
        assert answer.stats["open"]["bytes"] == video.bytes == sum(memory.values())
        for tensor in tensors_in(prefix):  # no view that keeps a larger tensor alive
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("bound", ["no prefix", "nothing but the inputs"])
def test_what_does_not_fit_is_not_held_and_answers_stay(qa: VideoQA, clip_file: Path, bound: str) -> None:
    alone = [qa.ask(clip_file, question, max_new_tokens=5) for question in (QUESTION, OTHER)]
    with qa.open(clip_file) as video:
        memory = video.memory
    fits = memory["inputs"] + (memory["encoded"] + memory["prefix"] - 1 if bound == "no prefix" else 0)
    runs = encodings(qa)
    with qa.open(clip_file, max_open_bytes=fits) as video:
        for question, expected in zip((QUESTION, OTHER), alone):
            answer = video.ask(question, max_new_tokens=5)
            assert same(answer, expected) and video.bytes <= fits
            assert answer.stats["open"]["prefix_tokens"] == 0
            assert str(fits) in answer.stats["open"]["why"] and "max_open_bytes" in answer.stats["open"]["why"]
        assert video.memory["prefix"] == 0
    assert len(runs) == (1 if bound == "no prefix" else 3)
    with qa.open(clip_file, max_open_bytes=sum(memory.values())) as video:
        assert video.memory == memory


def test_bounds_that_nothing_meets(qa: VideoQA, clip_file: Path) -> None:
    with (
        pytest.raises(InputError, match="above max_open_bytes 1000; look at fewer frames"),
        qa.open(clip_file, max_open_bytes=1000),
    ):
        pass
    with pytest.raises(InputError, match="max_open_bytes is 0"), qa.open(clip_file, max_open_bytes=0):
        pass
    assert plain(qa.model)
    with qa.open(clip_file, max_open_bytes=None) as video:
        assert video.memory["prefix"] > 0


def test_closing_frees_everything(qa: VideoQA, clip_file: Path, other_file: Path) -> None:
    """While another clip stays open, and while the closed object is still at hand."""
    with qa.open(other_file) as other:
        with qa.open(clip_file) as video:
            video.ask(QUESTION, max_new_tokens=2)
            held = [video._held.prefix, video._prompt.inputs(), list(video._held.encodings.contents())]
            kept = [weakref.ref(tensor) for tensor in tensors_in(held)]
            assert len(kept) > 15
            del held
        gc.collect()
        assert not any(one() is not None for one in kept)
        assert video.bytes == 0 and other.bytes > 0
        with pytest.raises(InputError, match="was closed"):
            video.ask(QUESTION)
        assert other.ask(QUESTION, max_new_tokens=2).stats["open"]["prefix_tokens"] > 0
    assert plain(qa.model)


def test_a_question_that_fails_midway_leaves_the_clip_as_it_was(qa: VideoQA, clip_file: Path) -> None:
    expected = [qa.ask(clip_file, question, max_new_tokens=5) for question in (QUESTION, OTHER)]

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    with qa.open(clip_file) as video:
        memory = video.memory
        for question, known in zip((QUESTION, OTHER), expected):
            handle = qa.model.model.language_model.layers[3].register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="broken"):
                video.ask(question)
            handle.remove()
            assert video.memory == memory
            answer = video.ask(question, max_new_tokens=5)
            assert same(answer, known) and answer.stats["open"]["prefix_tokens"] > 0
    assert plain(qa.model)


def test_threads_take_turns_at_one_clip(qa: VideoQA, clip_file: Path) -> None:
    asked = (QUESTION, OTHER, THIRD, QUESTION)
    expected = [qa.ask(clip_file, question, max_new_tokens=4) for question in asked]
    found: dict[int, Any] = {}
    with qa.open(clip_file, prefill=False) as video:
        threads = [
            threading.Thread(target=lambda at=at: found.update({at: video.ask(asked[at], max_new_tokens=4)}))
            for at in range(len(asked))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(same(found[at], expected[at]) for at in range(len(asked)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_no_reports(clip_file: Path, dtype: torch.dtype) -> None:
    config = PruneVidConfig(pruning_layer=1, max_frames=8, collect_stats=False)
    qa = VideoQA(tiny_qwen.model().to(dtype), tiny_qwen.processor(), config=config)
    with qa.open(clip_file) as video:
        answer = video.ask(QUESTION, max_new_tokens=3)
        assert answer.stats["open"]["prefix_tokens"] > 0 and answer.text
