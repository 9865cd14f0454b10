# SPDX-License-Identifier: Apache-2.0
"""What can't work together with pruning says so before anything is computed wrongly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

import prunevid
from engine.prompts import ONE, TEXT, settings
from engine.test_attach_detach import hooks
from engine.tiny import FAMILIES, build, generate, make_inputs
from prunevid.errors import UnprunedWarning, UnsupportedError


class QuantisedLayer(DynamicLayer):
    """Stands for a layer whose keys are stored in another form."""


def _caches() -> dict[str, Any]:
    return {
        "quantised": Cache(layer_class_to_replicate=QuantisedLayer),
        "sliding window": Cache(layers=[DynamicSlidingWindowLayer(sliding_window=64) for _ in range(4)]),
        "offloaded": DynamicCache(offloading=True) if torch.cuda.is_available() else None,
        "foreign": object(),
    }


def _refused(model: Any, config: Any, call: Any, match: str) -> None:
    with prunevid.attach(model, config):
        resting = hooks(model)
        with pytest.raises(UnsupportedError, match=match):
            call()
        assert hooks(model) == resting
        generate(model, make_inputs(ONE), 2)


@pytest.mark.parametrize("stage2", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_labels(family: str, stage2: bool) -> None:
    model, inputs = build(family), make_inputs(ONE)
    call = lambda: model(**inputs, labels=inputs["input_ids"])  # noqa: E731
    _refused(model, settings(family, enable_stage2=stage2), call, "label")


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_without_pruning_are_the_model_s_own(family: str) -> None:
    model = build(family)
    video, text = make_inputs(ONE), make_inputs(TEXT)
    expected = model(**video, labels=video["input_ids"]).loss
    with prunevid.attach(model, prunevid.get_baseline_config()):
        assert torch.equal(model(**video, labels=video["input_ids"]).loss, expected)
    expected = model(**text, labels=text["input_ids"]).loss
    with prunevid.attach(model, settings(family)):
        assert torch.equal(model(**text, labels=text["input_ids"]).loss, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_prefill(family: str) -> None:
    """transformers may refuse it first, with a ValueError of its own."""
    model = build(family)
    with prunevid.attach(model, settings(family)):
        resting = hooks(model)
        with pytest.raises((UnsupportedError, ValueError), match=r"prefill_chunk_size|chunk"):
            generate(model, make_inputs(ONE), prefill_chunk_size=16)
        assert hooks(model) == resting


@pytest.mark.parametrize("kind", ["quantised", "sliding window", "foreign"])
@pytest.mark.parametrize("family", FAMILIES)
def test_foreign_caches(family: str, kind: str) -> None:
    model, inputs = build(family), make_inputs(ONE)
    cache = _caches()[kind]
    if kind == "foreign":
        cache = type("Foreign", (), {"get_seq_length": lambda self: 0})()
    _refused(model, settings(family), lambda: model(**inputs, past_key_values=cache), "cache")


def test_quantized_cache_by_name() -> None:
    """Without a quantisation backend transformers refuses first; with one the engine does."""
    model = build("qwen2_5_vl")
    with prunevid.attach(model, settings("qwen2_5_vl")), pytest.raises((UnsupportedError, ImportError)):
        generate(model, make_inputs(ONE), cache_implementation="quantized")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_cache_with_stage_2(family: str) -> None:
    model = build(family)
    _refused(model, settings(family), lambda: generate(model, make_inputs(ONE), use_cache=False), "use_cache")


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_as_input_run_unpruned_with_a_warning(family: str) -> None:
    model = build(family)
    inputs = make_inputs(ONE)
    seen: dict[str, Any] = {}
    language = model.model.language_model
    handle = language.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    given = {"inputs_embeds": seen["inputs_embeds"], "attention_mask": inputs["attention_mask"]}
    expected = generate(model, given)
    with prunevid.attach(model, settings(family)), pytest.warns(UnprunedWarning, match="inputs_embeds"):
        found = generate(model, given)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))
