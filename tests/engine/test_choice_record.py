# SPDX-License-Identifier: Apache-2.0
"""Token maps hold every choice: its layer and its scores, without a copy of what the method returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import matrix
from engine.methods_matrix import method_of, model_of, run
from prunevid.methods import Choice, Method, PruneVid
from prunevid.methods.pyramiddrop import PyramidDrop
from prunevid.methods.sparsevlm import SparseVLM

KINDS: dict[str, type[Method]] = {"pyramiddrop": PyramidDrop, "sparsevlm": SparseVLM, "prunevid": PruneVid}


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch, request: Any) -> list[Choice]:
    """What the method's `choose` returned, call by call."""
    kind, found = KINDS[request.param], []
    choose = kind.choose

    def spied(self: Method, choosing: Any) -> Choice:
        found.append(choose(self, choosing))
        return found[-1]

    monkeypatch.setattr(kind, "choose", spied)
    return found


@pytest.mark.parametrize(("returned", "name"), [(name, name) for name in KINDS], indirect=["returned"])
@pytest.mark.parametrize("prompts", [["one"], ["two"]], ids=["one video", "two videos"])
def test_scores_and_layers_of_every_choice(returned: list[Choice], name: str, prompts: list[str]) -> None:
    family = "qwen2_5_vl"
    pruning, _ = run(model_of(family), family, method_of(name, family), matrix.prompts_of(family, prompts), 1)
    maps = pruning.maps[0]
    layers = list(pruning.method.selection_layers)
    assert len(layers) == (1 if name == "prunevid" else 3)
    alive = [torch.ones(item.tokens, dtype=torch.bool) for item in maps]
    for number, choice in enumerate(returned):
        own = [item.step_scores[number] for item in maps]
        for item, scores, there in zip(maps, own, alive):
            assert scores.dtype == torch.float32 and scores.shape == (item.tokens,)
            assert torch.equal(torch.isfinite(scores), there)  # only what was left before took part
        # In the prompt tokens stand by place: merged ones by that of their representatives.
        places = [
            torch.arange(item.tokens) if item.merged is None else item.merged.representative.argsort() for item in maps
        ]
        found = torch.cat([scores[place][there[place]] for scores, there, place in zip(own, alive, places)])
        assert torch.equal(found, choice.scores.float())
        alive = [item.steps[number] == torch.arange(item.tokens) for item in maps]
    assert len(returned) == len(layers)
    for item in maps:
        assert item.layers == layers and len(item.steps) == len(item.step_scores) == len(layers)
        last = item.step_scores[0]
        for scores in item.step_scores[1:]:
            last = torch.where(scores.isneginf(), last, scores)
        assert torch.equal(item.scores, last)


@pytest.mark.parametrize("name", ["evs", "tome", "none"])
def test_no_choice_no_record(name: str) -> None:
    pruning, _ = run(
        model_of("qwen2_5_vl"), "qwen2_5_vl", method_of(name, "qwen2_5_vl"), matrix.prompts_of("qwen2_5_vl", ["one"]), 1
    )
    item = pruning.maps[0][0]
    assert item.layers == item.step_scores == item.steps == [] and item.held is None and item.revised is None


@pytest.mark.parametrize(("name", "held", "revised"), [("lookm", True, False), ("dycoke", False, True)])
def test_what_a_map_can_not_show_is_noted(name: str, held: bool, revised: bool) -> None:
    """A smaller cache, other tokens in every head; and answers that see a part."""
    family = "llava_onevision"
    pruning, _ = run(model_of(family), family, method_of(name, family), matrix.prompts_of(family, ["one"]), 2)
    item, stats = pruning.maps[0][0], pruning.stats[0]
    if held:
        protected = item.layout.tokens - item.layout.cells
        assert item.held == round(stats["total"]["retained_ratio"] * item.layout.tokens) - protected < item.tokens
    assert (item.held is not None, item.revised is not None) == (held, revised)
    assert item.revised == (pruning.method.revision_layer if revised else None)
