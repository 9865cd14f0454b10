# SPDX-License-Identifier: Apache-2.0
"""What the engine costs, counted: tensor operations, waits for the device, rewritten caches, FLOPs; never times."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import prunevid
from engine.families import FAMILIES, build, language_of, make_inputs, make_prompt, settings
from engine.matrix import attach
from prunevid.bench.costs import prefill_flops, tokens_of_layers
from prunevid.engine import cache as caches
from prunevid.methods import get
from prunevid.stats import measure_flops

SHORT, LONG = (3, 2), (8, 8, 8, 8)  # frames of each scene
WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "bincount", "masked_select", "equal"}
CHOSEN = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]


class Dispatched(TorchDispatchMode):
    """Counts the aten operations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def forward(model: Any, inputs: dict[str, Any]) -> Counter[str]:
    """The operations of one forward pass over a prompt; the model has run before."""
    with torch.no_grad():
        model(**inputs)
        with Dispatched() as seen:
            model(**inputs)
    return seen.counts


def extra(family: str, scenes: tuple[int, ...], config: Any, **overrides: Any) -> Counter[str]:
    """What an attached method adds to the plain model's operations (a layer that runs on fewer tokens adds none)."""
    model, inputs = build(family), make_inputs(make_prompt(family, 5, scenes, 6))
    plain = forward(model, inputs)
    with attach(model, family, config, **overrides):
        found = forward(model, inputs)
    found.subtract(plain)
    return found


@pytest.mark.parametrize("family", CHOSEN)
def test_with_nothing_to_prune_hardly_anything_is_added(family: str) -> None:
    short, long = (extra(family, scenes, "none") for scenes in (SHORT, LONG))
    assert short == long
    assert 0 < short.total() <= 45
    assert not [name for name in ("mm", "bmm", "gather", "index_put_", "sort") if short[name]]


@pytest.mark.parametrize("family", CHOSEN)
@pytest.mark.parametrize("ratio", [None, 0.3])
def test_operations_of_a_prefill_do_not_grow_with_the_clip(family: str, ratio: float | None) -> None:
    short, long = (extra(family, scenes, settings(family), retention_ratio=ratio) for scenes in (SHORT, LONG))
    assert 0 < long.total() <= 420
    assert abs(long.total() - short.total()) <= 60, "static sets may or may not be clustered"


@pytest.mark.parametrize("family", CHOSEN)
@pytest.mark.parametrize("ratio", [None, 0.3])
def test_waits_of_a_prefill_are_few_and_do_not_grow(family: str, ratio: float | None) -> None:
    """On the CPU `nonzero` and the reads of single numbers stand for what a GPU's host waits for."""
    found = [extra(family, scenes, settings(family), retention_ratio=ratio) for scenes in (SHORT, LONG)]
    waits = [{name: one[name] for name in WAITS if one[name]} for one in found]
    assert waits[0] == waits[1]
    assert sum(waits[0].values()) <= 12


@pytest.mark.parametrize("family", CHOSEN)
def test_the_cache_is_rewritten_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer up to the choice once, the others never; in the prefill, and at no new token."""
    seen: list[int] = []
    gather = caches.gather_tokens
    monkeypatch.setattr(caches, "gather_tokens", lambda layer, index: (seen.append(id(layer)), gather(layer, index)))
    model, inputs = build(family), make_inputs(make_prompt(family, 5, SHORT, 6))
    with attach(model, family, settings(family)):
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert seen == [id(layer) for layer in out.past_key_values.layers[:2]]


@pytest.mark.parametrize("family", CHOSEN)
def test_a_budget_for_all_tokens_merges_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = get("prunevid", retention_ratio=1.0, pruning_layer=1)
    monkeypatch.setattr(type(method), "merge", lambda *args: pytest.fail("merged"))
    model, inputs = build(family), make_inputs(make_prompt(family, 5, SHORT, 6))
    with attach(model, family, method) as pruning, torch.no_grad():
        model(**inputs)
    assert pruning.stats[0]["total"]["retained_ratio"] == 1


@pytest.mark.parametrize("family", CHOSEN)
def test_a_new_token_costs_the_plain_model_s_operations(family: str) -> None:
    """One more token over a pruned cache: at most a few operations more than the plain model's, however long it is."""
    model, inputs = build(family), make_inputs(make_prompt(family, 5, LONG, 6))

    def step() -> Counter[str]:
        """The operations of the last of four new tokens."""
        found = []
        for tokens in (3, 4):
            with Dispatched() as seen:
                model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            found.append(seen.counts)
        found[1].subtract(found[0])
        return found[1]

    step()
    plain = step()
    with attach(model, family, settings(family)):
        pruned = step()
    assert abs(pruned.total() - plain.total()) <= 6, (pruned - plain, plain - pruned)
    assert pruned["mm"] + pruned["addmm"] == plain["mm"] + plain["addmm"]


@pytest.mark.parametrize("family", CHOSEN)
@pytest.mark.parametrize("ratio", [None, 0.3])
def test_flops_are_those_of_the_tokens_that_are_left(family: str, ratio: float | None) -> None:
    """Counted by torch: the layers over the tokens that they are given, and less than 3 % for all that chooses them."""
    model, inputs = build(family), make_inputs(make_prompt(family, 5, LONG, 6))
    language, length = language_of(model), int(inputs["input_ids"].shape[1])
    name = next(f"{type(model).__name__}.{path}" for path, module in model.named_modules() if module is language)
    with torch.no_grad():
        plain, _ = measure_flops(lambda: model(**inputs), name)
        tables, _ = measure_flops(lambda: model(**inputs), f"{name}.rotary_emb")  # a product in transformers 5.17
    assert plain - tables == prefill_flops(language.layers, [length] * len(language.layers))
    with attach(model, family, settings(family), retention_ratio=ratio) as pruning, torch.no_grad():
        counted, _ = measure_flops(lambda: model(**inputs), name)
    layers = tokens_of_layers(length, pruning.maps[0], pruning.method.selection_layers, len(language.layers))
    ideal = prefill_flops(language.layers, layers)
    assert layers[-1] < layers[0] < length
    assert ideal <= counted <= ideal + 0.03 * plain


def test_what_a_prefill_needs_for_one_step_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged tokens stand in the batch alone while the layers run, and the masks of the prompt are gone."""
    family = "llava_onevision"
    assert family in FAMILIES
    model, inputs = build(family), make_inputs(make_prompt(family, 5, SHORT, 6))
    kept: list[Any] = []
    from prunevid.engine.prefill import Prefill

    start = Prefill.start

    def watched(self: Any, kwargs: dict[str, Any]) -> Any:
        result = start(self, kwargs)
        kept.append((self.video_mask.numel(), [(row.embeds, row.target.numel()) for row in self.rows]))
        return result

    monkeypatch.setattr(Prefill, "start", watched)
    with prunevid.attach(model, settings(family)), torch.no_grad():
        model(**inputs)
    assert kept == [(0, [(None, 0)])]
