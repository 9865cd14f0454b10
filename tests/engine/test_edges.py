# SPDX-License-Identifier: Apache-2.0
"""Unusual prompts, ways to call and caches, each against the reference or the plain model."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import prunevid
from engine.masked_reference import compare, plain_copy, reference
from engine.prompts import CLIP, ONE, OTHER, SHORT, TEXT, settings
from engine.tiny import (
    FAMILIES,
    SPECIAL,
    build,
    generate,
    make_clip,
    make_inputs,
    make_prompt,
)
from prunevid.errors import AlreadyAttachedError, UnprunedWarning, UnsupportedModelError

PROMPTS = {
    "one frame": [make_prompt(3, make_clip((1,), (6, 6)), 4)],
    "one cell": [make_prompt(2, make_clip((1,), (1, 1)), 3), make_prompt(2, make_clip((3,), (1, 1)), 3)],
    "few tokens": [make_prompt(3, make_clip((2, 2), (2, 3)), 4), ONE],
    "video first, nothing asked": [make_prompt(CLIP)],
    "the same clip twice": [make_prompt(2, SHORT, 1, SHORT, 4), make_prompt(SHORT, 3)],
    "long question": [make_prompt(2, SHORT, 40), make_prompt(30, SHORT, 1)],
    "three videos": [make_prompt(1, SHORT, 1, make_clip((2,), (3, 3), seed=6), 1, SHORT, 2), TEXT],
    "one long scene": [make_prompt(2, make_clip((9,), (6, 6), static_share=0.9, seed=7), 4)],
}


@pytest.mark.parametrize("order", ["raster", "merged"])
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_unusual_prompts(family: str, name: str, order: str) -> None:
    model, config = build(family), settings(family, token_order=order)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(*PROMPTS[name]), 3)
    compare(plain_copy(model), PROMPTS[name], out, config, order)


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_on_one_axis_when_the_kinds_of_tokens_are_not_given(family: str) -> None:
    """Without mm_token_type_ids transformers numbers all tokens on one axis; so does the pruned model."""
    model, config = build(family), settings(family)
    inputs = make_inputs(ONE)
    del inputs["mm_token_type_ids"]
    with prunevid.attach(model, config):
        out = generate(model, inputs, 3)
    new = out.sequences[0, len(ONE) :]
    flat = torch.arange(len(ONE) + 3).expand(3, -1)
    ref = reference(plain_copy(model), ONE, new, config, positions=flat)
    torch.testing.assert_close(torch.cat(out.logits), ref.logits[-4:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_of_the_caller_s_and_all_hidden_states(family: str) -> None:
    model, config = build(family), settings(family)
    cache = DynamicCache(config=model.config.text_config)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(ONE, OTHER), 3, past_key_values=cache, output_hidden_states=True)
    assert out.past_key_values is cache
    refs = compare(plain_copy(model), [ONE, OTHER], out, config)
    widest = max(len(p) - len(r.original) + len(r.merged) for p, r in zip((ONE, OTHER), refs))
    assert out.hidden_states[0][0].shape[1] == widest


@pytest.mark.parametrize("family", FAMILIES)
def test_a_static_cache_that_transformers_keeps_on_the_model(family: str) -> None:
    """`cache_implementation="static"` reuses one cache from call to call, pruned or not."""
    model, config = build(family), settings(family)
    plain = plain_copy(model)
    static = {"cache_implementation": "static"}
    expected = generate(plain, make_inputs(ONE), 4)
    with prunevid.attach(model, config):
        for prompts in ([ONE], [OTHER], [TEXT], [ONE]):
            out = generate(model, make_inputs(*prompts), 4, **static)
            compare(plain, prompts, out, config)
    found = generate(model, make_inputs(ONE), 4, **static)
    torch.testing.assert_close(torch.cat(found.logits), torch.cat(expected.logits), atol=1e-5, rtol=0)
    with prunevid.attach(model, config, enable_cache_compression=False):
        out = generate(model, make_inputs(ONE, OTHER), 4, num_beams=2, **static)
        same = generate(model, make_inputs(ONE, OTHER), 4, num_beams=2)
    assert torch.equal(out.sequences, same.sequences)


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_video_in_a_later_turn_passes_whole_with_a_warning(family: str, overrides: dict[str, Any]) -> None:
    model, config = build(family), settings(family, **overrides)
    plain = plain_copy(model)
    more = make_prompt(2, make_clip((2,), (3, 4), seed=9), 3, seed=4)
    clip = more.videos[0]
    with prunevid.attach(model, config), torch.no_grad():
        first = generate(model, make_inputs(ONE), 3)
        cache = first.past_key_values
        model(input_ids=first.sequences[:, -1:], past_key_values=cache)  # which no pass has seen yet
        ids = torch.cat([first.sequences, more.ids[None]], dim=1)
        kinds = torch.cat([ONE.kinds, torch.zeros(3, dtype=torch.long), more.kinds])[None]
        grids = torch.stack([ONE.videos[0].grid, clip.grid])
        positions, _ = model.model.get_rope_index(ids, kinds, video_grid_thw=grids)
        with pytest.warns(UnprunedWarning, match="later turn"):
            out = model(
                input_ids=more.ids[None],
                pixel_values_videos=clip.pixels,
                video_grid_thw=clip.grid[None],
                position_ids=positions[..., -len(more) :],
                past_key_values=cache,
            )
    assert out.logits.shape[1] == len(more), "nothing of the second video was dropped"
    assert cache.get_seq_length() == ids.shape[1]
    new = ids[0, len(ONE) :]
    tail = plain.model.get_input_embeddings()(new)
    tail[kinds[0, len(ONE) :] == 2] = plain.model.get_video_features(clip.pixels, clip.grid[None]).pooler_output[0]
    ref = reference(plain, ONE, new, config, positions=positions[:, 0], tail=tail)
    torch.testing.assert_close(out.logits[0], ref.logits[-len(more) :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_attaching_through_a_wrapper(family: str) -> None:
    """A module around the model (as parameter-efficient tuning puts there) is the same model to us."""

    class Wrapper(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.inner = model

        @property
        def config(self) -> Any:
            return self.inner.config

        def forward(self, **kwargs: Any) -> Any:
            return self.inner(**kwargs)

        def generate(self, **kwargs: Any) -> Any:
            return self.inner.generate(**kwargs)

    model, config = build(family), settings(family)
    wrapped = Wrapper(model)
    with prunevid.attach(wrapped, config):
        out = generate(wrapped, make_inputs(ONE), 3)
        with pytest.raises(AlreadyAttachedError):
            prunevid.attach(model, config)
    compare(plain_copy(model), [ONE], out, config)


def test_two_models_at_once_keep_apart() -> None:
    first, second = build("qwen2_vl"), build("qwen2_5_vl")
    one, other = settings("qwen2_vl"), settings("qwen2_5_vl", pruning_layer=2, token_order="merged")
    with prunevid.attach(first, one) as here, prunevid.attach(second, other) as there:
        outs = generate(first, make_inputs(ONE), 3), generate(second, make_inputs(OTHER), 3)
        assert here.stats[0]["stage2"]["layer"] == 1 and there.stats[0]["stage2"]["layer"] == 2
        assert here.stats[0]["stage1"]["original_tokens"] != there.stats[0]["stage1"]["original_tokens"]
    compare(plain_copy(first), [ONE], outs[0], one)
    compare(plain_copy(second), [OTHER], outs[1], other, "merged")


@pytest.mark.parametrize("detach", [True, False])
def test_a_model_can_be_forgotten(detach: bool) -> None:
    """A handle keeps no model alive once detached; a model that was never detached goes with its handle."""
    model = build("qwen2_5_vl")
    pruning = prunevid.attach(model, settings("qwen2_5_vl"))
    generate(model, make_inputs(ONE), 2)
    if detach:
        pruning.detach()
    gone = weakref.ref(model)
    del model, pruning
    gc.collect()
    assert gone() is None


def test_a_sliding_window_is_refused() -> None:
    config = copy.deepcopy(build("qwen2_5_vl").config)
    config.text_config.layer_types = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    config.text_config.sliding_window = 32
    model = type(build("qwen2_5_vl"))(config)
    with pytest.raises(UnsupportedModelError, match="sliding"):
        prunevid.attach(model, settings("qwen2_5_vl"))
    prunevid.attach(model, prunevid.get_baseline_config()).detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_in_a_batch_is_repeatable(family: str) -> None:
    model = build(family)
    with prunevid.attach(model, settings(family)):
        found = []
        for _ in range(2):
            torch.manual_seed(11)
            found.append(generate(model, make_inputs(ONE, TEXT, OTHER), 5, do_sample=True).sequences)
    assert torch.equal(*found)
    assert not any(token in SPECIAL for token in found[0][:, -5:].flatten().tolist())
