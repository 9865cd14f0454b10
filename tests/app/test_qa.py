# SPDX-License-Identifier: Apache-2.0
"""VideoQA on a tiny random model and real clip files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TextStreamer

from app import tiny_qwen
from app.conftest import OTHER, QUESTION
from app.test_stats import KEYS
from prunevid import PruneVidConfig, attach
from prunevid.errors import ConfigError, InputError, UnsupportedError, UnsupportedModelError
from prunevid.generation import _continuation
from prunevid.qa import Answer, VideoQA
from prunevid.video import load_clip


def plain(model: Any) -> bool:
    """Whether nothing hangs on the model."""
    modules = model.modules()
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules) and (
        "get_video_features" not in model.model.__dict__
    )


def same(one: Answer, two: Answer) -> bool:
    """Equal but for the times."""
    drop = lambda stats: {name: part for name, part in stats.items() if name not in ("milliseconds", "open")}  # noqa: E731
    return one.text == two.text and drop(one.stats) == drop(two.stats)


def test_an_answer_is_what_the_model_says_under_attach(qa: VideoQA, clip_file: Path, settings: PruneVidConfig) -> None:
    answer = qa.ask(clip_file, QUESTION, max_new_tokens=6)
    inputs = qa._answering.prompter.encode([load_clip(clip_file, max_frames=8)], [QUESTION])
    with attach(qa.model, settings) as pruning:
        ids = qa.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        expected = pruning.stats[0]
    words = qa.processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.text == words[0].strip()
    assert {name: answer.stats[name] for name in ("stage1", "stage2", "stage3", "total")} == {
        name: expected[name] for name in ("stage1", "stage2", "stage3", "total")
    }


def test_the_stats_have_the_contracts_keys_and_every_stage_drops_something(qa: VideoQA, clip_file: Path) -> None:
    answer = qa.ask(str(clip_file), QUESTION, max_new_tokens=3)
    assert {name: set(part) for name, part in answer.stats.items()} == KEYS
    counts = [
        answer.stats["stage1"]["original_tokens"],
        answer.stats["stage1"]["compressed_tokens"],
        answer.stats["stage2"]["compressed_tokens"],
    ]
    assert counts[0] > counts[1] > counts[2] > 0
    assert 0 < answer.stats["total"]["flops_ratio"] < 1
    assert answer.stats["stage3"]["compressed_bytes"] < answer.stats["stage3"]["original_bytes"]
    times = answer.stats["milliseconds"]
    assert all(times[name] > 0 for name in ("decode_video", "vision", "merge", "prefill", "decode"))


def test_an_answer_says_which_frames_were_seen(qa: VideoQA, clip_file: Path) -> None:
    answer = qa.ask(clip_file, QUESTION, max_frames=4, start=1.0, end=2.0, max_new_tokens=1)
    assert answer.question == QUESTION
    assert answer.clip.source == str(clip_file)
    assert len(answer.clip.times) == 4
    assert all(1.0 <= moment < 2.0 for moment in answer.clip.times)
    assert (answer.clip.width, answer.clip.height, answer.clip.fps) == (64, 48, 8.0)
    assert len(answer.maps) == 1 and answer.maps[0].layout.frames == 2


def test_the_configs_frames_are_taken_unless_the_call_says_otherwise(clip_file: Path, settings: PruneVidConfig) -> None:
    config = settings.replace(video_sampling="fps", max_frames=2)
    qa = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), config=config)
    assert qa.load_clip(clip_file).times == (0.0, 2.0)
    assert len(qa.load_clip(clip_file, max_frames=16).times) == 3
    assert len(qa.load_clip(clip_file, max_frames=16, fps=4.0).times) == 12
    assert len(qa.load_clip(clip_file, max_frames=16, sampling="uniform").times) == 16


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_a_batch_gives_what_its_rows_give_alone(
    family: str, clip_file: Path, other_file: Path, settings: PruneVidConfig
) -> None:
    qa = VideoQA(tiny_qwen.model(family), tiny_qwen.processor(family), config=settings)
    pairs = [(clip_file, QUESTION), (other_file, "who happens the square the circle ?"), (str(clip_file), OTHER)]
    together = qa.ask_batch(pairs, max_new_tokens=5)
    alone = [qa.ask(clip, question, max_new_tokens=5) for clip, question in pairs]
    assert all(same(one, two) for one, two in zip(together, alone))
    assert [answer.question for answer in together] == [question for _, question in pairs]
    assert qa.ask_batch([]) == []


@pytest.mark.parametrize(
    ("prompt", "new", "expected"), [("best (", "b foo", " b foo"), ("best (", ") b", ") b"), ("", "b", "b")]
)
def test_a_continuation_keeps_its_first_space(prompt: str, new: str, expected: str) -> None:
    """With a tokenizer that marks where words start, as Llama's does; alone, "b" and " b" are the same."""
    vocabulary = {
        token: number for number, token in enumerate(("<s>", "\u2581best", "\u2581(", "\u2581b", "\u2581foo", ")"))
    }
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<s>"))
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", clean_up_tokenization_spaces=False)
    ids = [vocabulary.get(f"\u2581{word}", vocabulary.get(word)) for word in f"{prompt} {new}".split()]
    size = 1 + len(prompt.split())
    assert _continuation(tokenizer, torch.tensor([0, *ids]), size) == expected
    assert tokenizer.decode(ids[size - 1 :]) == new


def test_prompts_of_a_batch_are_one_for_each_pair(qa: VideoQA, clip_file: Path) -> None:
    with pytest.raises(InputError, match="1 prompts for 2 questions"):
        qa.ask_batch([(clip_file, QUESTION), (clip_file, OTHER)], prompts=["<|video_pad|>"])


def test_a_clip_that_occurs_often_in_a_batch_is_read_once(
    qa: VideoQA, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = qa.load_clip
    monkeypatch.setattr(qa, "load_clip", lambda clip, **options: read.append(clip) or original(clip, **options))
    qa.ask_batch([(clip_file, QUESTION), (str(clip_file), OTHER)], max_new_tokens=1)
    assert len(read) == 1


def test_an_open_clip_is_encoded_and_merged_once(qa: VideoQA, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [qa.ask(clip_file, question, max_new_tokens=5) for question in (QUESTION, OTHER, QUESTION)]
    encoded = []
    qa.model.model.visual.register_forward_hook(lambda *_: encoded.append(1))
    with qa.open(clip_file) as video:
        answers = [video.ask(question, max_new_tokens=5) for question in (QUESTION, OTHER, QUESTION)]
    assert len(encoded) == 1
    assert all(same(one, two) for one, two in zip(answers, alone))
    first, second, _ = (answer.stats["milliseconds"] for answer in answers)
    assert first["decode_video"] > 0 and first["vision"] > 0
    assert second["decode_video"] == 0 and second["vision"] == 0


def test_open_clips_side_by_side_and_questions_beside_them(qa: VideoQA, clip_file: Path, other_file: Path) -> None:
    expected = [qa.ask(clip, QUESTION, max_new_tokens=4) for clip in (clip_file, other_file)]
    with qa.open(clip_file) as one:
        with qa.open(other_file) as two:
            answers = [one.ask(QUESTION, max_new_tokens=4), two.ask(QUESTION, max_new_tokens=4)]
            beside = qa.ask(other_file, QUESTION, max_new_tokens=4)
        again = one.ask(QUESTION, max_new_tokens=4)
    assert all(same(*pair) for pair in zip([*answers, beside, again], [*expected, expected[1], expected[0]]))
    assert plain(qa.model)
    with pytest.raises(InputError, match="was closed"):
        one.ask(QUESTION)


def test_the_model_is_the_users_own_between_calls(qa: VideoQA, clip_file: Path) -> None:
    assert plain(qa.model)
    qa.ask(clip_file, QUESTION, max_new_tokens=1)
    assert plain(qa.model)
    with pytest.raises(ZeroDivisionError), qa.open(clip_file) as video:
        video.ask(QUESTION, max_new_tokens=1)
        assert not plain(qa.model)
        _ = 1 / 0
    assert plain(qa.model)

    class Broken(TextStreamer):
        def put(self, value: torch.Tensor) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        qa.ask(clip_file, QUESTION, streamer=Broken(qa.processor.tokenizer))
    assert plain(qa.model)


def test_compare_gives_the_plain_models_answer_and_the_pruned_one(qa: VideoQA, clip_file: Path) -> None:
    unpruned, pruned = qa.compare(clip_file, QUESTION, max_new_tokens=5, max_frames=8)
    inputs = qa._answering.prompter.encode([load_clip(clip_file, max_frames=8)], [QUESTION])
    ids = qa.model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert unpruned.text == qa.processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert unpruned.stats["total"] == {"retained_ratio": 1.0, "flops_ratio": 1.0}
    assert same(pruned, qa.ask(clip_file, QUESTION, max_new_tokens=5))
    with qa.open(clip_file), pytest.raises(UnsupportedError, match="held open"):
        qa.compare(clip_file, QUESTION)


@pytest.mark.parametrize("method", ["none", None])
def test_without_a_method_everything_stays(method: str | None, clip_file: Path) -> None:
    qa = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), method=method)
    answer = qa.ask(clip_file, QUESTION, max_new_tokens=2)
    assert answer.stats["total"] == {"retained_ratio": 1.0, "flops_ratio": 1.0}
    assert len(answer.clip.times) == 16


def test_measured_flops_fall_with_the_tokens(qa: VideoQA, clip_file: Path) -> None:
    total = qa.ask(clip_file, QUESTION, max_new_tokens=3, measure_flops=True).stats["total"]
    assert 0 < total["flops_measured"] < total["flops_measured_unpruned"]
    assert total["flops_measured_ratio"] == pytest.approx(total["flops_measured"] / total["flops_measured_unpruned"])
    untouched = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), method="none")
    total = untouched.ask(clip_file, QUESTION, max_new_tokens=3, measure_flops=True).stats["total"]
    assert total["flops_measured_ratio"] == 1.0


def test_the_measured_count_is_that_of_the_decoders_matrices(clip_file: Path) -> None:
    qa = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), method="none")
    inputs = qa._answering.prompter.encode([load_clip(clip_file)], [QUESTION])
    measured = qa.ask(clip_file, QUESTION, max_new_tokens=1, measure_flops=True).stats["total"]["flops_measured"]
    n, d, m, kv = inputs["input_ids"].shape[1], 32, 64, 16
    projections = 2 * n * d * (2 * d + 2 * kv) + 2 * n * d * m * 3
    attention = 2 * 2 * n * n * d
    assert measured == pytest.approx(tiny_qwen.LAYERS * (projections + attention), rel=0.02)


def test_streamers_and_generate_arguments_pass_through(qa: VideoQA, clip_file: Path, capsys: Any) -> None:
    answer = qa.ask(
        clip_file, QUESTION, max_new_tokens=4, streamer=TextStreamer(qa.processor.tokenizer, skip_prompt=True)
    )
    assert capsys.readouterr().out.split()[: len(answer.text.split())] == answer.text.split()
    beams = qa.ask(clip_file, QUESTION, max_new_tokens=4, num_beams=3, num_return_sequences=2)
    assert len(beams.texts) == 2 and beams.text == beams.texts[0]
    assert {name: set(part) for name, part in beams.stats.items()} == KEYS
    bare = qa.ask(clip_file, QUESTION, max_new_tokens=4, return_dict_in_generate=True)
    assert bare.text == answer.text


def test_sampling_is_greedy_unless_asked_for(qa: VideoQA, clip_file: Path) -> None:
    seen: list[dict[str, Any]] = []
    original = qa.model.generate
    qa.model.generate = lambda **options: seen.append(options) or original(**options)
    try:
        qa.ask(clip_file, QUESTION, max_new_tokens=1)
        qa.ask(clip_file, QUESTION, max_new_tokens=1, temperature=0.7)
        qa.ask(clip_file, QUESTION, max_new_tokens=1, do_sample=False, temperature=None)
    finally:
        del qa.model.generate
    assert [options["do_sample"] for options in seen] == [False, True, False]
    assert seen[1]["temperature"] == 0.7


def test_pictures_instead_of_a_file(qa: VideoQA) -> None:
    pictures = list(tiny_qwen.frames(6))
    answer = qa.ask(None, QUESTION, images=pictures, max_new_tokens=2)
    assert len(answer.clip.times) == 6
    assert same(answer, qa.ask(pictures, QUESTION, max_new_tokens=2))
    assert qa.ask(load_clip(pictures), QUESTION, max_new_tokens=2).text == answer.text
    assert same(answer, qa.ask(np.stack(pictures), QUESTION, max_new_tokens=2))


def test_threads_take_turns(qa: VideoQA, clip_file: Path, other_file: Path) -> None:
    jobs = [(clip_file, QUESTION), (other_file, OTHER), (clip_file, OTHER), (other_file, QUESTION)]
    expected = [qa.ask(*job, max_new_tokens=4) for job in jobs]
    found: dict[int, Answer] = {}
    threads = [
        threading.Thread(target=lambda index=index: found.update({index: qa.ask(*jobs[index], max_new_tokens=4)}))
        for index in range(len(jobs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[index], expected[index]) for index in range(len(jobs)))
    assert plain(qa.model)


def test_reports_can_be_left_out(clip_file: Path, settings: PruneVidConfig) -> None:
    qa = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), config=settings.replace(collect_stats=False))
    loud = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), config=settings)
    assert qa.ask(clip_file, QUESTION, max_new_tokens=3).text == loud.ask(clip_file, QUESTION, max_new_tokens=3).text


def test_from_pretrained_is_the_same_model(
    folder: Path, qa: VideoQA, clip_file: Path, settings: PruneVidConfig
) -> None:
    loaded = VideoQA.from_pretrained(folder, config=settings, device="cpu")
    assert loaded.config == settings
    assert same(loaded.ask(clip_file, QUESTION, max_new_tokens=4), qa.ask(clip_file, QUESTION, max_new_tokens=4))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(folder: Path, clip_file: Path, settings: PruneVidConfig, dtype: str) -> None:
    qa = VideoQA.from_pretrained(str(folder), config=settings, device="cpu", dtype=dtype)
    answer = qa.ask(clip_file, QUESTION, max_new_tokens=2)
    assert answer.stats["total"]["retained_ratio"] < 1


def test_bad_questions_and_clips(qa: VideoQA, clip_file: Path, tmp_path: Path) -> None:
    for question in ("", "  "):
        with pytest.raises(InputError, match="question is empty"):
            qa.ask(clip_file, question)
        with pytest.raises(InputError, match="question is empty"):
            qa.ask_batch([(clip_file, QUESTION), (clip_file, question)])
        with pytest.raises(InputError, match="question is empty"), qa.open(clip_file) as video:
            video.ask(question)
    with pytest.raises(InputError, match="not both"):
        qa.ask(clip_file, QUESTION, images=[tiny_qwen.frames(1)[0]])
    with pytest.raises(InputError, match="not both"):
        qa.ask(None, QUESTION)
    with pytest.raises(InputError, match=r"gone\.mp4"):
        qa.ask(tmp_path / "gone.mp4", QUESTION)
    with pytest.raises(InputError, match="start"):
        qa.ask(clip_file, QUESTION, start=2.0, end=1.0)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        qa.ask(clip_file, QUESTION, max_new_tokens=0)
    assert plain(qa.model)


def test_settings_that_do_not_fit_the_model_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="pruning_layer is 10"):
        VideoQA(tiny_qwen.model(), tiny_qwen.processor(), config=PruneVidConfig(pruning_layer=10))
    with pytest.raises(UnsupportedModelError, match="qwen2_5_vl"):
        VideoQA(torch.nn.Linear(2, 2), tiny_qwen.processor())
    for nothing in ({"method": "none"}, {"preset": "baseline"}):
        with pytest.raises(ConfigError, match=r"retention_ratio is 0.1, but .* prunes nothing"):
            VideoQA(tiny_qwen.model(), tiny_qwen.processor(), retention_ratio=0.1, **nothing)
