# SPDX-License-Identifier: Apache-2.0
"""The shipped model: loads offline, is an ordinary Qwen2.5-VL, and answers held-out questions."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from prunevid.builtin import model as builtin_model
from prunevid.builtin.clips import make_clip
from prunevid.builtin.evaluate import answer, evaluate, main, straight
from prunevid.builtin.model import PATCH, build_processor, load
from prunevid.builtin.scenes import SIZE
from prunevid.builtin.scoring import scores
from prunevid.errors import PruneVidError


@pytest.fixture(scope="module")
def shipped():
    return load()


def test_it_is_a_small_ordinary_model(shipped) -> None:
    model, processor = shipped
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert type(processor) is Qwen2_5_VLProcessor
    assert not model.training
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert builtin_model.WEIGHTS.stat().st_size < 16_000_000
    assert 4e6 < sum(weight.numel() for weight in model.parameters()) < 6e6


@pytest.mark.parametrize("file", [False, True])
def test_it_answers_held_out_questions(shipped, file: bool) -> None:
    model, processor = shipped
    asked = evaluate(model, processor, 12, first=7000, file=file)
    assert len(asked) > 90
    assert scores(asked)["all"].accuracy > 0.85


def test_an_answer_is_one_word_and_then_the_end(shipped) -> None:
    model, processor = shipped
    clip = make_clip(1)
    frames, metadata = straight(clip)
    together = answer(model, processor, [question.text for question in clip.questions], frames, metadata)
    assert all(len(text.split()) == 1 for text in together)
    for question, said in list(zip(clip.questions, together, strict=True))[:3]:
        assert answer(model, processor, [question.text], frames, metadata) == [said]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_dtypes_and_kernels_agree(shipped, dtype: torch.dtype, attention: str) -> None:
    clip = make_clip(2)
    frames, metadata = straight(clip)
    texts = [question.text for question in clip.questions]
    reference = answer(*shipped, texts, frames, metadata)
    model, processor = load(dtype=dtype, attn_implementation=attention)
    assert model.dtype == dtype
    same = [a == b for a, b in zip(answer(model, processor, texts, frames, metadata), reference, strict=True)]
    assert sum(same) >= len(same) - (1 if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize(("height", "width"), [(80, 80), (320, 320), (512, 512), (360, 640), (100, 40)])
def test_frames_of_any_size_become_as_many_pixels_as_a_clip_s(height: int, width: int) -> None:
    processor = build_processor()
    out = processor.video_processor(videos=[torch.zeros(4, 3, height, width, dtype=torch.uint8)], return_tensors="pt")
    _, rows, columns = out["video_grid_thw"][0].tolist()
    # Small narrow frames grow until both sides fit whole tokens, so they end a little above that.
    side = SIZE // PATCH
    assert side**2 / 2 <= rows * columns <= 1.5 * side**2
    if height == width:
        assert (rows, columns) == (side, side)


def test_images_work_too(shipped) -> None:
    model, processor = shipped
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color is the circle?"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    inputs = processor(text=[text], images=[make_clip(0).frames[0]], return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=2)
    assert made.shape[1] > inputs["input_ids"].shape[1]


def test_missing_weights_are_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(builtin_model, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(PruneVidError, match="missing"):
        load()


def test_the_evaluation_prints_json(capsys) -> None:
    main(["--clips", "2", "--memory", "--no-baselines", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["clips"] == 2
    assert 0 <= shown["accuracy"]["all"]["low"] <= shown["accuracy"]["all"]["high"] <= 1
