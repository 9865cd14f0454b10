# SPDX-License-Identifier: Apache-2.0
"""Which models can be pruned, and what their adapters say about them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLTextModel,
)

import prunevid
from engine.tiny import FAMILIES, IMAGE, VIDEO, build, make_clip, make_inputs, make_prompt
from prunevid import models
from prunevid.errors import PruneVidError, UnsupportedError, UnsupportedModelError

_TEXT = dict(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
)


def _llava() -> Any:
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = LlavaConfig(text_config=LlamaConfig(**_TEXT), vision_config=vision, image_token_index=3)
    return LlavaForConditionalGeneration(config)


@pytest.mark.parametrize("make", [lambda: LlamaForCausalLM(LlamaConfig(**_TEXT)), _llava], ids=["llama", "llava"])
def test_other_families_are_refused_by_name(make: Any) -> None:
    model = make()
    before = sorted(vars(model))
    with pytest.raises(UnsupportedModelError, match=f"{model.config.model_type}.*qwen2_5_vl"):
        prunevid.attach(model, prunevid.PruneVidConfig())
    assert sorted(vars(model)) == before and not model._forward_hooks


@pytest.mark.parametrize(
    ("model_type", "nearest"),
    [("llava_onevision1", "llava_onevision"), ("internvl_chat", "internvl"), ("t5", None), (None, None)],
)
def test_an_unknown_type_names_the_nearest_family_and_the_page(model_type: str | None, nearest: str | None) -> None:
    with pytest.raises(UnsupportedModelError, match=r"docs/models\.md says how to add a family\.$") as found:
        models.adapter_for(SimpleNamespace(config=SimpleNamespace(model_type=model_type)))
    assert repr(model_type) in str(found.value)
    assert ("the nearest of them is" in str(found.value)) == (nearest is not None)
    assert nearest is None or f"the nearest of them is {nearest}, " in str(found.value)


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), object()], ids=["module", "object"])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    with pytest.raises(PruneVidError):
        prunevid.attach(thing, prunevid.PruneVidConfig())


def test_a_language_model_alone_is_refused() -> None:
    """The text part of a supported family has no videos."""
    text = build("qwen2_5_vl").config.text_config
    with pytest.raises(UnsupportedModelError):
        prunevid.attach(Qwen2_5_VLTextModel(text), prunevid.PruneVidConfig(pruning_layer=1))


def test_supported_names() -> None:
    names = models.supported()
    assert names == sorted(set(names)) and set(FAMILIES) <= set(names)
    for name in names:
        assert isinstance(name, str)


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_and_token_ids(family: str) -> None:
    model = build(family)
    adapter = models.adapter_for(model)
    assert family in adapter.model_types and adapter.positions == "mrope"
    assert adapter.video_token_id(model.config) == VIDEO
    assert adapter.image_token_id(model.config) == IMAGE
    prompt = make_prompt(2, make_clip((3, 2), (5, 6)), 1, make_clip((4,), (4, 5)), 3)
    inputs = make_inputs(prompt)
    arguments = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
    layouts = adapter.layouts(model.model, arguments, None)
    assert [(v.frames, v.height, v.width, v.tail) for v in layouts] == [(5, 5, 6, 0), (4, 4, 5, 0)]
    assert [v.cells for v in layouts] == [v.tokens for v in layouts] == [150, 80]
    assert sum(v.tokens for v in layouts) == int((inputs["input_ids"] == VIDEO).sum())
    with pytest.raises(UnsupportedError, match="video_grid_thw"):
        adapter.layouts(model.model, {}, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_rotation_is_the_model_s_own(family: str) -> None:
    """Queries and keys that the adapter rotates give the model's own attention scores."""
    model = build(family, "eager")
    adapter, seen = models.adapter_for(model), {}
    attention = model.model.language_model.layers[1].self_attn
    for name, module in zip(("queries", "keys"), adapter.projections(attention)):
        module.register_forward_hook(lambda m, a, out, name=name: seen.update({name: out}))
    attention.register_forward_pre_hook(lambda m, a, k: seen.update(rope=k["position_embeddings"]), with_kwargs=True)
    attention.register_forward_hook(lambda m, a, out: seen.update(weights=out[1]))
    model(**make_inputs(make_prompt(4, make_clip((2,), (3, 3)), 6)))
    cos, sin = (table[0] for table in seen["rope"])
    turned = [
        adapter.rotate(attention, seen[name][0].unflatten(-1, (-1, 16)).transpose(0, 1), cos, sin)
        for name in ("queries", "keys")
    ]
    scores = turned[0] @ turned[1].repeat_interleave(2, 0).transpose(1, 2) / 4
    length = scores.shape[-1]
    scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), seen["weights"][0], atol=1e-6, rtol=0)
