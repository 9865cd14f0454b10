# SPDX-License-Identifier: Apache-2.0
"""What can't work together with pruning says so before anything is computed wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

import prunevid
from engine.families import FAMILIES, build, language_of, make_inputs, settings
from engine.matrix import BATCH, ONE, attach, prompts_of, used
from engine.test_attach_detach import hooks
from engine.tiny import KERNELS, generate
from prunevid.errors import UnprunedWarning, UnsupportedError


class QuantisedLayer(DynamicLayer):
    """Stands for a layer whose keys are stored in another form."""


CACHES: dict[str, Callable[[], Any]] = {
    "quantised": lambda: Cache(layer_class_to_replicate=QuantisedLayer),
    "sliding window": lambda: Cache(layers=[DynamicSlidingWindowLayer(sliding_window=64) for _ in range(4)]),
    "offloaded": lambda: _offloaded(),
    "foreign": lambda: type("Foreign", (), {"get_seq_length": lambda self: 0})(),
}


def _offloaded() -> Any:
    """A cache that says it is offloaded: where there is no accelerator, transformers can't make a real one."""
    if torch.cuda.is_available():
        return DynamicCache(offloading=True)
    cache = DynamicCache()
    cache.offloading = True
    return cache


def _refused(model: Any, family: str, config: Any, call: Any, match: str) -> None:
    """The call is refused, leaves no hook, and the next prompt is pruned as ever."""
    with attach(model, family, config) as pruning:
        resting = hooks(model)
        with pytest.raises(UnsupportedError, match=match):
            call()
        assert hooks(model) == resting
        generate(model, make_inputs(*prompts_of(family, ONE)), 2)
        assert pruning.stats[0]["total"]["retained_ratio"] < 1


@pytest.mark.parametrize("stage2", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_labels(family: str, kernel: str, stage2: bool) -> None:
    model, inputs = build(family, kernel), make_inputs(*prompts_of(family, ONE))
    call = lambda: model(**inputs, labels=inputs["input_ids"])  # noqa: E731
    _refused(model, family, settings(family, enable_stage2=stage2), call, "label")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_without_pruning_are_the_model_s_own(family: str, kernel: str) -> None:
    model = build(family, kernel)
    video, text = (make_inputs(*prompts_of(family, [name])) for name in ("one", "text"))
    expected = model(**video, labels=video["input_ids"]).loss
    with attach(model, family, prunevid.get_baseline_config()):
        assert torch.equal(model(**video, labels=video["input_ids"]).loss, expected)
    expected = model(**text, labels=text["input_ids"]).loss
    with attach(model, family, settings(family)):
        assert torch.equal(model(**text, labels=text["input_ids"]).loss, expected)


@pytest.mark.parametrize("names", [ONE, BATCH], ids=["one", "batch"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_prefill(family: str, kernel: str, names: list[str]) -> None:
    """transformers may refuse it first, with a ValueError of its own."""
    model, inputs = used(family, kernel), make_inputs(*prompts_of(family, names))
    with attach(model, family, settings(family)):
        resting = hooks(model)
        with pytest.raises((UnsupportedError, ValueError), match=r"prefill_chunk_size|chunk"):
            generate(model, inputs, prefill_chunk_size=16)
        assert hooks(model) == resting


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_caches_that_can_t_be_compressed(family: str, kernel: str, kind: str) -> None:
    model, inputs, cache = used(family, kernel), make_inputs(*prompts_of(family, ONE)), CACHES[kind]()
    _refused(model, family, settings(family), lambda: model(**inputs, past_key_values=cache), "cache")


@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_cache_by_name(family: str) -> None:
    """Without a quantisation backend transformers refuses first; with one the engine does."""
    model, inputs = build(family), make_inputs(*prompts_of(family, ONE))
    with attach(model, family, settings(family)), pytest.raises((UnsupportedError, ImportError)):
        generate(model, inputs, cache_implementation="quantized")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_cache_with_stage_2(family: str, kernel: str) -> None:
    model, inputs = used(family, kernel), make_inputs(*prompts_of(family, ONE))
    _refused(model, family, settings(family), lambda: generate(model, inputs, use_cache=False), "use_cache")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_as_input_run_unpruned_with_a_warning(family: str, kernel: str) -> None:
    model, inputs = build(family, kernel), make_inputs(*prompts_of(family, ONE))
    seen: dict[str, Any] = {}
    handle = language_of(model).register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    given = {"inputs_embeds": seen["inputs_embeds"], "attention_mask": inputs["attention_mask"]}
    expected = generate(model, given)
    with attach(model, family, settings(family)), pytest.warns(UnprunedWarning, match="inputs_embeds"):
        found = generate(model, given)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))
