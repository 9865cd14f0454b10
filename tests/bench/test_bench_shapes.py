# SPDX-License-Identifier: Apache-2.0
"""Shapes have the published numbers of weights; scaled ones run; weights are made quickly and hold no odd numbers."""

from __future__ import annotations

import pytest
import torch

import prunevid
from bench.tiny_subjects import CPU, subject
from prunevid.bench import clips, shapes, weights
from prunevid.errors import ConfigError

# Billions of weights as the checkpoints have them; ST-LLM's language model, tower and Q-Former together.
PUBLISHED = {
    "qwen2.5-vl-7b": 8.29,
    "qwen2.5-vl-3b": 3.75,
    "qwen2-vl-7b": 8.29,
    "qwen3-vl-8b": 8.77,
    "llava-onevision-7b": 8.03,
    "llava-next-video-7b": 7.06,
    "internvl3-8b": 7.94,
    "pllava-7b": 7.06,
    "st-llm-7b": 7.91,
}


def test_every_shape_is_checked() -> None:
    assert shapes.names() == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size(name: str) -> None:
    model = weights.empty_model(shapes.get(name).config(), torch.device("meta"), torch.bfloat16)
    count = sum(weight.numel() for weight in model.parameters())
    assert count / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", PUBLISHED)
def test_scaled_shapes_answer_pruned_and_not(name: str) -> None:
    made = subject(name)
    frames = [clips.make_frames(4, 112, 112)]
    inputs = made.encode(frames)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    length = inputs["input_ids"].shape[1]
    assert made.model.generate(**inputs, **options).shape[1] == length + 3
    with prunevid.attach(
        made.model, "prunevid", retention_ratio=0.25, frames_per_video=made.frames_per_video(frames)
    ) as pruning:
        assert made.model.generate(**inputs, **options).shape[1] == length + 3
        assert pruning.stats[0]["total"]["retained_ratio"] == pytest.approx(0.25, abs=0.02)
    assert made.model.generate(**made.text(20), **options).shape[1] == 23


def test_proportions_stay() -> None:
    full = shapes.get("qwen2.5-vl-7b").config()
    small = shapes.scaled(full, width=512)
    text, before = small.text_config, full.text_config
    assert (before.hidden_size, before.num_hidden_layers) == (3584, 28), "the original stays as it is"
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (512, 28, 4)
    assert text.intermediate_size / 512 == pytest.approx(before.intermediate_size / 3584, rel=0.02)
    assert small.vision_config.out_hidden_size == 512 and max(small.vision_config.fullatt_block_indexes) < 32
    half = shapes.scaled(full, scale=0.5)
    assert (half.text_config.num_hidden_layers, half.text_config.hidden_size) == (14, 1792)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 100}, "width is 100, but must be a multiple of 128"),
        ({"width": 0}, "width is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"scale": 1.5}, "scale is 1.5"),
    ],
)
def test_bad_sizes_are_named(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        shapes.scaled(shapes.get("qwen2.5-vl-7b").config(), **change)


def test_an_unknown_shape_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'gpt-9'.*pllava-7b"):
        shapes.get("gpt-9")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_hold_no_odd_numbers(dtype: torch.dtype) -> None:
    config = shapes.scaled(shapes.get("llava-onevision-7b").config(), layers=1, width=128)
    model = weights.random_model(config, CPU, dtype)
    for name, weight in model.named_parameters():
        assert weight.dtype == dtype and weight.isfinite().all(), name
        if weight.dim() > 1:
            assert weight.abs().min() >= torch.finfo(dtype).tiny, name
            inputs = weight[0].numel()
            assert weight.float().std() == pytest.approx(inputs**-0.5, rel=0.35), name
    assert all(buffer.isfinite().all() for _, buffer in model.named_buffers() if buffer.is_floating_point())
    again = weights.random_model(config, CPU, dtype)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


def test_initialisation_draws_nothing() -> None:
    """A module's own draws would take minutes at full size; they leave the generator where it was."""
    config = shapes.scaled(shapes.get("qwen2.5-vl-7b").config(), layers=1, width=128)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    weights.empty_model(config, CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_frames_have_scenes_and_motion() -> None:
    frames = clips.make_frames(2 * clips.SCENE, 64, 48)
    assert frames.shape == (2 * clips.SCENE, 48, 64, 3)
    still = (frames[0] == frames[clips.SCENE - 1]).all(-1).mean()
    assert 0.2 < still < 0.8
    assert (frames[0] == frames[clips.SCENE]).all(-1).mean() < 0.05
    for bad in ({"frames": 0}, {"width": 15}, {"height": 8}):
        with pytest.raises(ConfigError, match="must be"):
            clips.make_frames(**{"frames": 2, "width": 32, "height": 32, **bad})
