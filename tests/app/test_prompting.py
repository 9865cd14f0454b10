# SPDX-License-Identifier: Apache-2.0
"""Prompts: true times reach the model, and later questions reuse the first one's tensors."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app import tiny_qwen
from app.conftest import OTHER, QUESTION
from prunevid.errors import InputError, UnsupportedModelError
from prunevid.prompting import Prompter, VideoPrompt, true_metadata, truncates_seconds
from prunevid.video import load_clip

CUTS: list[dict[str, Any]] = [
    {},
    {"max_frames": 8},
    {"max_frames": 7},
    {"sampling": "fps", "fps": 2.0},
    {"start": 1.0, "end": 2.1},
    {"start": 1.5, "sampling": "fps", "fps": 8.0, "max_frames": 5},
    {"max_frames": 1},
]


@pytest.fixture
def prompter() -> Prompter:
    return Prompter(tiny_qwen.processor(), "cpu")


@pytest.mark.parametrize("cut", CUTS)
def test_seconds_per_grid_step_are_what_the_times_say(prompter: Prompter, clip_file: Path, cut: dict[str, Any]) -> None:
    clip = load_clip(clip_file, **cut)
    inputs = prompter.encode([clip], [QUESTION])
    seconds = inputs["second_per_grid_ts"].item()
    assert seconds == pytest.approx(2 / clip.sampled_fps, rel=1e-5)
    if len(clip.times) > 2:
        spacing = (clip.times[-1] - clip.times[0]) / (len(clip.times) - 1)
        assert seconds == pytest.approx(2 * spacing, rel=1 / len(clip.times))


@pytest.mark.parametrize("cut", CUTS)
def test_timestamps_of_the_metadata_are_the_clips_times(clip_file: Path, cut: dict[str, Any]) -> None:
    clip = load_clip(clip_file, **cut)
    metadata = true_metadata(clip)
    assert metadata.timestamps == pytest.approx(list(clip.times), abs=1e-3)
    assert metadata.sampled_fps == pytest.approx(clip.sampled_fps, rel=1e-5)
    assert (metadata.width, metadata.height) == (64, 48)


def test_each_clip_of_a_batch_keeps_its_own_rate(prompter: Prompter, clip_file: Path, other_file: Path) -> None:
    clips = [load_clip(clip_file, max_frames=8), load_clip(other_file, max_frames=8)]
    seconds = prompter.encode(clips, [QUESTION, OTHER])["second_per_grid_ts"].tolist()
    assert seconds == pytest.approx([2 * 3 / 8, 2 * 8 / 8], rel=1e-4)


def temporal_steps(base: Any, inputs: dict[str, Any]) -> list[int]:
    """Temporal positions of the visual tokens, each once, counted from the first."""
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    positions = base.get_rope_index(**{name: inputs[name] for name in names})[0]
    steps = positions[0, 0, inputs["mm_token_type_ids"][0] == 2].unique()
    return (steps - steps[0]).tolist()


def test_temporal_positions_are_whole_steps_and_do_not_collapse(clip_file: Path) -> None:
    base = tiny_qwen.model().model
    rounded = truncates_seconds(base)
    prompter = Prompter(tiny_qwen.processor(), "cpu", whole_seconds=rounded)
    clip = load_clip(clip_file, sampling="fps", fps=4.0, max_frames=12)
    steps = temporal_steps(base, prompter.encode([clip], [QUESTION]))
    # half a second at two positions a second; where the library cuts to whole seconds, a second is the least
    assert steps == ([0, 2, 4, 6, 8, 10] if rounded else [0, 1, 2, 3, 4, 5])
    clip = load_clip(clip_file, sampling="fps", fps=2.0)
    assert temporal_steps(base, prompter.encode([clip], [QUESTION])) == [0, 2, 4]


def test_a_model_that_cuts_seconds_is_found_out_and_gets_whole_ones(clip_file: Path) -> None:
    base = tiny_qwen.model().model
    numbering = base.get_rope_index

    def cutting(second_per_grid_ts: torch.Tensor, **others: Any) -> Any:
        return numbering(second_per_grid_ts=second_per_grid_ts.floor(), **others)

    base.get_rope_index = cutting
    assert truncates_seconds(base)
    assert not truncates_seconds(tiny_qwen.model("qwen2_vl").model)
    prompter = Prompter(tiny_qwen.processor(), "cpu", whole_seconds=True)
    clip = load_clip(clip_file, sampling="fps", fps=8.0, max_frames=24)
    assert temporal_steps(base, prompter.encode([clip], [QUESTION])) == [2 * step for step in range(12)]


def test_rows_are_padded_on_the_left(prompter: Prompter, clip_file: Path) -> None:
    clip = load_clip(clip_file, max_frames=4)
    inputs = prompter.encode([clip, clip], ["what moves", "what is the colour the circle the square ?"])
    assert inputs["attention_mask"][0, 0].item() == 0
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]


def test_an_odd_number_of_frames_is_filled_up(prompter: Prompter, clip_file: Path) -> None:
    inputs = prompter.encode([load_clip(clip_file, max_frames=5)], [QUESTION])
    assert inputs["video_grid_thw"][0, 0].item() == 3


def test_frames_three_pixels_high_are_no_channels(prompter: Prompter) -> None:
    clip = load_clip([frame[:3] for frame in tiny_qwen.frames(4)])
    assert prompter.encode([clip], [QUESTION])["video_grid_thw"][0, 0].item() == 2


def test_pixels_take_the_models_dtype_and_times_keep_theirs(clip_file: Path) -> None:
    half = Prompter(tiny_qwen.processor(), "cpu", torch.bfloat16)
    inputs = half.encode([load_clip(clip_file)], [QUESTION])
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16
    assert inputs["second_per_grid_ts"].dtype == torch.float32


def test_qwen2_vl_has_no_seconds(clip_file: Path) -> None:
    inputs = Prompter(tiny_qwen.processor("qwen2_vl"), "cpu").encode([load_clip(clip_file)], [QUESTION])
    assert "second_per_grid_ts" not in inputs
    assert "video_grid_thw" in inputs


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_later_questions_get_the_same_tensors_as_a_fresh_prompt(clip_file: Path, family: str) -> None:
    prompter = Prompter(tiny_qwen.processor(family), "cpu")
    clip = load_clip(clip_file, max_frames=6)
    prompt = VideoPrompt(prompter, clip)
    first = prompt.encode(QUESTION)
    for question in (OTHER, QUESTION, "what happens . "):
        again, fresh = prompt.encode(question), prompter.encode([clip], [question])
        assert again.keys() == fresh.keys()
        for name, value in fresh.items():
            assert torch.equal(again[name], value), name
        assert again["pixel_values_videos"] is first["pixel_values_videos"]
        assert again["video_grid_thw"] is first["video_grid_thw"]


def test_a_tokenizer_that_joins_over_the_border_is_not_cut_there(clip_file: Path) -> None:
    prompter = Prompter(tiny_qwen.processor(), "cpu")
    clip = load_clip(clip_file, max_frames=6)
    prompt = VideoPrompt(prompter, clip)
    prompt._tokens = lambda text: torch.tensor([1, 1])  # type: ignore[method-assign]
    first = prompt.encode(QUESTION)
    again, fresh = prompt.encode(OTHER), prompter.encode([clip], [OTHER])
    assert torch.equal(again["input_ids"], fresh["input_ids"])
    assert again["pixel_values_videos"] is first["pixel_values_videos"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "question is empty"),
        (" \n\t", "question is empty"),
        (None, "must be text"),
        (3, "must be text"),
        ("what <|video_pad|> is", "stands for frames"),
        ("<|image_pad|>", "stands for frames"),
    ],
)
def test_questions_that_are_none(prompter: Prompter, question: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prompter.check(question)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, "must be text"),
        ("", "holds 0 times '<|video_pad|>'"),
        ("<|video_pad|> and <|video_pad|>", "holds 2 times"),
        ("<|video_pad|> <|image_pad|>", "stands for a picture"),
    ],
)
def test_prompts_that_are_none(prompter: Prompter, prompt: Any, message: str) -> None:
    clip = load_clip(tiny_qwen.frames(2))
    with pytest.raises(InputError, match=re.escape(message) if "<" in message else message):
        prompter.encode([clip], [QUESTION], [prompt])
    with pytest.raises(InputError):
        VideoPrompt(prompter, clip).encode(QUESTION, prompt)


def test_a_border_that_swallows_space_is_not_reused(clip_file: Path) -> None:
    """A placeholder that takes the space behind it: what follows it can't always be tokenised on its own."""
    prompter = Prompter(tiny_qwen.processor(), "cpu")
    clip = load_clip(clip_file, max_frames=4)
    prompt = VideoPrompt(prompter, clip)
    apart = prompt._tokens

    def keeping(text: str) -> torch.Tensor:  # on its own, space in front becomes a token
        ids = apart(text)
        return torch.cat([ids.new_tensor([1]), ids]) if text.startswith(" ") else ids

    prompt._tokens = keeping  # type: ignore[method-assign]
    for text in ("<|video_pad|>what moves", "<|video_pad|> what moves", "<|video_pad|>what is"):
        fresh, again = prompter.encode([clip], [""], [text]), prompt.encode("", text)
        assert torch.equal(fresh["input_ids"], again["input_ids"]), text


def test_processors_that_take_no_videos_or_chat() -> None:
    with pytest.raises(UnsupportedModelError, match="takes no videos"):
        Prompter(SimpleNamespace(chat_template="x"), "cpu")
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        Prompter(SimpleNamespace(video_processor=object(), chat_template=None), "cpu")
