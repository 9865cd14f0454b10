# SPDX-License-Identifier: Apache-2.0
"""Methods that act at different places as one: their slots, their budgets, and what does not go together."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

import prunevid
from engine.tiny import build, generate, make_clip, make_inputs, make_prompt
from methods.choosings import make_choosing
from methods.loops import make_video
from methods.test_lookm import make_layer
from prunevid import methods
from prunevid.errors import ConfigError, UnsupportedError
from prunevid.methods.budget import Split, mean_over_layers
from prunevid.models import Adapter, adapter_for

SEVERAL = [name for name in methods.names() if methods.get(name).merges]


@pytest.mark.parametrize(("name", "merges", "layers", "shrinks", "revises"), [
    ("vidcom2|fastv", True, (2,), False, None),
    ("fastv|vidcom2", True, (2,), False, None),
    ("tome | lookm", True, (), True, None),
    ("evs|pyramiddrop", True, (7, 15, 23), False, None),
    ("none|fastv", False, (2,), False, None),
    ("dycoke", True, (), False, 2),
    ("dycoke|none", True, (), False, 2),
])  # fmt: skip
def test_slots(name: str, merges: bool, layers: tuple[int, ...], shrinks: bool, revises: int | None) -> None:
    method = methods.get(name)
    assert (method.merges, method.selection_layers, method.shrinks_cache) == (merges, layers, shrinks)
    assert method.revision_layer == revises and method.acts
    assert not method.compresses_cache


def test_every_slot_is_that_of_its_part() -> None:
    video, choosing, layer = make_video(4, 3, 4, 6), make_choosing(seed=5), make_layer((9,), [4])
    first, second = methods.get("tome", r=2), methods.get("fastv", keep=0.4)
    both = methods.compose(second, first)
    assert [part.name for part in both.parts] == ["tome", "fastv"] and both.label == "tome|fastv"
    assert torch.equal(both.merge(video).features, first.merge(video).features)
    assert torch.equal(both.choose(choosing).kept, second.choose(choosing).kept)
    policy = methods.get("lookm", recent=1)
    for own, other in zip(methods.compose(first, policy).shrink(layer), policy.shrink(layer)):
        assert torch.equal(own, other)
    attention, shown = torch.rand(5), torch.ones(5, dtype=torch.bool)
    alone = methods.get("dycoke")
    assert torch.equal(methods.compose(alone).revise(attention, None, shown), alone.revise(attention, None, shown))


@pytest.mark.parametrize("name", SEVERAL)
def test_tower_order_and_positions_are_those_of_the_merging_part(name: str) -> None:
    alone = methods.get(name)
    if alone.selection_layers or alone.revision_layer is not None:
        return
    both = methods.get(f"{name}|fastv")
    assert both.tower == alone.tower and both.token_order == alone.token_order
    assert both.position_scheme == alone.position_scheme
    assert methods.get(f"{name}|fastv", positions="keep").position_scheme == "keep"


def test_what_a_part_says_of_images_and_reports_counts() -> None:
    merge = methods.get("prunevid", enable_stage2=False, prune_images=True, collect_stats=False, verbose=True)
    both = methods.compose(merge, methods.get("fastv"))
    assert both.prunes_images and both.verbose and not both.collect_stats
    plain = methods.get("tome|fastv")
    assert plain.collect_stats and not plain.prunes_images and not plain.verbose


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vidcom2|tome", "'vidcom2' and 'tome' both act before the language model; compose one of them."),
        ("fastv|pyramiddrop", "'fastv' and 'pyramiddrop' both act inside the language model"),
        ("prunevid|fastv", "'prunevid' and 'fastv' both act inside the language model"),
        ("lookm|lookm", "'lookm' and 'lookm' both act on the cache"),
        ("fastv|lookm", "'fastv' chooses inside the language model and 'lookm' shrinks every layer's cache"),
        ("dycoke|fastv", "'dycoke' revises what layers see of the video while the answer is written"),
        ("dycoke|lookm", "'dycoke' revises what layers see of the video while the answer is written"),
        ("vidcom2|fastw", "'fastw' is no pruning method (do you mean 'fast"),
        ("vidcom2|", "'' is no pruning method; choose one of "),
    ],
)
def test_what_does_not_go_together(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        methods.get(name)


@pytest.mark.parametrize("options", [{"keep": 0.2}, {"parts": ()}])
def test_options_belong_to_the_parts(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"'{next(iter(options))}' is no option of composed methods; their options"):
        methods.get("vidcom2|fastv", **options)
    with pytest.raises(ConfigError, match="retention_ratio is 2, but"):
        methods.get("vidcom2|fastv", retention_ratio=2)


# ---- budgets -------------------------------------------------------------------------------------------------------


def test_budgets_are_split() -> None:
    """The merge leaves the geometric mean of the budget and the video, the choice the budget."""
    assert methods.get("vidcom2|fastv", retention_tokens=100).split(10000, 16, 32) == Split(1000, (100,))
    assert methods.get("vidcom2|lookm", retention_tokens=100).split(10000, 16, 32) == Split(1000, None)
    assert methods.get("vidcom2|none", retention_tokens=100).split(10000, 16, 32) == Split(100, None)
    assert methods.get("none|fastv", retention_tokens=100).split(10000, 16, 32) == Split(None, (100,))
    assert methods.get("vidcom2|fastv").split(10000, 16, 32) == Split(None, None)
    steps = methods.get("vidcom2|pyramiddrop", retention_tokens=100).split(6400, 16, 32)
    assert steps == Split(800, (400, 200, 100))


def test_a_part_may_have_a_budget_of_its_own() -> None:
    merge, choice = methods.get("vidcom2", retention_ratio=0.5), methods.get("fastv", retention_tokens=300)
    assert methods.compose(merge, choice).split(1000, 16, 32) == Split(500, (300,))
    assert methods.compose(merge, choice, retention_ratio=0.1).split(1000, 16, 32) == Split(500, (100,))
    assert methods.compose(merge, choice, retention_ratio=0.9).split(1000, 16, 32) == Split(500, (500,))


@pytest.mark.parametrize("name", ["vidcom2|fastv", "evs|pyramiddrop", "tome|sparsevlm"])
def test_a_mean_over_layers(name: str) -> None:
    before: list[int] = []
    for allowed in range(40, 401, 17):
        method = methods.get(name, retention_tokens=allowed, average_over_layers=True).for_depth(28)
        split = method.split(400, 8, 28)
        mean = mean_over_layers(split.merged, split.chosen, method.selection_layers, 28)
        assert allowed - 1 < mean <= allowed
        assert all(a <= b for a, b in zip(before, [split.merged, *split.chosen]))
        before = [split.merged, *split.chosen]


@pytest.mark.parametrize("options", [{}, {"retention_ratio": 0.3}])
def test_the_cache_is_as_large_as_the_budget(options: dict[str, Any]) -> None:
    assert methods.get("vidcom2|lookm", **options).cache_budget(200, 50) == (60 if options else 10)


# ---- on a model ----------------------------------------------------------------------------------------------------


def run(name: str, **options: Any) -> tuple[dict[str, Any], Any]:
    model = build("qwen2_5_vl")
    with prunevid.attach(model, name, **options) as pruning:
        generate(model, make_inputs(make_prompt(3, make_clip(seed=1), 5)), 2)
    return pruning.stats[0], pruning.maps[0][0]


def test_both_parts_prune_by_their_own_options() -> None:
    """A quarter of 216 tokens before the model, and a quarter of these inside it."""
    stats, tokens = run("vidcom2|fastv")
    assert stats["stage1"]["original_tokens"] == 216 and stats["stage1"]["compressed_tokens"] == tokens.tokens
    assert abs(tokens.tokens - 54) <= 3 and len(tokens.kept) == round(tokens.tokens / 4)
    stats, _ = run("vidcom2|lookm")
    held = stats["total"]["retained_ratio"] * stats["stage1"]["original_tokens"]
    assert round(held) == int(0.2 * stats["stage1"]["compressed_tokens"])


@pytest.mark.parametrize("name", ["vidcom2|fastv", "tome|pyramiddrop", "evs|sparsevlm", "random|fastv"])
def test_the_budget_is_met(name: str) -> None:
    stats, tokens = run(name, retention_ratio=0.1)
    assert len(tokens.kept) == 22 and stats["stage1"]["compressed_tokens"] == 69  # sqrt(216 * 22)
    kept = tokens.destination.unique().tolist()
    assert sorted({*kept} - {-1}) == tokens.kept.tolist()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dycoke", {"layer": 5}, "the layer after which 'dycoke' revises what is seen is 4, but this model's layers"),
        ("fastv", {"layer": 5}, "the layer after which 'fastv' chooses is 4, but this model's layers allow 0 to 3."),
        ("pyramiddrop", {"layers": (1, 9), "keep": (0.5, 0.2)}, "the layer after which 'pyramiddrop' chooses is 8"),
    ],
)
def test_layers_beyond_the_depth(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        prunevid.attach(build("qwen2_5_vl"), name, **options)


def test_three_choices_need_three_layers() -> None:
    with pytest.raises(ConfigError, match="'pyramiddrop' chooses is 2, but this model's layers allow 0 to 1"):
        prunevid.attach(build("qwen2_5_vl", layers=2), "pyramiddrop")
    with prunevid.attach(build("qwen2_5_vl", layers=3), "pyramiddrop") as pruning:
        assert pruning.method.selection_layers == (0, 1, 2)


def test_a_method_with_a_tower_is_refused_where_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen2_5_vl")
    monkeypatch.setattr(type(adapter_for(model)), "tower", Adapter.tower)
    with pytest.raises(
        UnsupportedError,
        match=r"'visionzip' needs .*, but the adapter QwenVL does not say where",
    ):
        prunevid.attach(model, "visionzip")
    prunevid.attach(model, "fastv").detach()  # nothing was left behind
    request = replace(methods.get("visionzip").tower, layer=-9)
    monkeypatch.undo()
    monkeypatch.setattr(methods.VisionZip, "tower", request)
    with pytest.raises(ConfigError, match="The vision tower's layer -9 was asked for"):
        prunevid.attach(model, "visionzip")
