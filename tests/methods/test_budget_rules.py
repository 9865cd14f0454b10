# SPDX-License-Identifier: Apache-2.0
"""What "keep 15 %" means: budgets of all methods, how they are split, and layers that nobody chose."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reference
from methods.choosings import make_choosing
from methods.loops import best
from prunevid import methods
from prunevid.config import DefaultCount
from prunevid.errors import ConfigError
from prunevid.methods import Method
from prunevid.methods.budget import Split, largest, layer_average, mean_over_layers, tokens_after_choices

# ---- what is accepted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"retention_ratio": 0.2, "retention_tokens": 10},
            "retention_ratio 0.2 and retention_tokens 10 are both given",
        ),
        ({"retention_ratio": 0}, "retention_ratio is 0, but must be above 0 and at most 1"),
        ({"retention_ratio": 1.01}, "retention_ratio is 1.01"),
        ({"retention_ratio": -0.1}, "retention_ratio is -0.1"),
        ({"retention_ratio": math.nan}, "retention_ratio is nan"),
        ({"retention_ratio": True}, "retention_ratio is True"),
        ({"retention_ratio": "15 %"}, "retention_ratio is '15 %'"),
        ({"retention_tokens": 0}, "retention_tokens is 0, but must be a whole number of at least 1"),
        ({"retention_tokens": 1.5}, "retention_tokens is 1.5"),
        ({"retention_tokens": True}, "retention_tokens is True"),
        ({"average_over_layers": "yes"}, "average_over_layers is 'yes', but must be True or False"),
        ({"positions": "kept"}, "positions is 'kept', but must be one of"),
    ],
)
def test_refused_budgets(options: dict[str, Any], says: str, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        methods.get(name, **options)


@pytest.mark.parametrize("name", methods.names())
def test_a_budget_is_a_share_or_a_number_of_the_unpruned_video(name: str) -> None:
    assert methods.get(name).budget(100) is None
    assert methods.get(name, retention_ratio=0.155).budget(100) == 16
    assert methods.get(name, retention_ratio=1).budget(100) == 100
    assert methods.get(name, retention_ratio=0.001).budget(100) == 1
    assert methods.get(name, retention_tokens=30).budget(100) == 30
    assert methods.get(name, retention_tokens=30).budget(7) == 7


# ---- arithmetic ----------------------------------------------------------------------------------------------------


def loop_mean(start: int, chosen: tuple[int, ...], layers: tuple[int, ...], depth: int) -> float:
    tokens, total = start, 0
    for layer in range(depth):
        total += tokens
        if layer in layers:
            tokens = chosen[layers.index(layer)]
    return total / depth


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, int, tuple[int, ...], int]:
    """(start, end, layers, depth)"""
    depth = draw(st.integers(1, 40))
    layers = draw(st.sets(st.integers(0, depth - 1), min_size=1, max_size=min(4, depth)))
    start = draw(st.integers(1, 3000))
    return start, draw(st.integers(1, start)), tuple(sorted(layers)), depth


@given(choices())
def test_choices_lead_to_the_end_in_equal_shares(case: tuple[int, int, tuple[int, ...], int]) -> None:
    start, end, layers, depth = case
    found = tokens_after_choices(start, end, len(layers))
    assert found[-1] == end and list(found) == sorted(found, reverse=True) and found[0] <= start
    for step, tokens in enumerate(found):
        assert abs(tokens - start * (end / start) ** ((step + 1) / len(layers))) <= 0.5 + 1e-9 * start
    assert math.isclose(mean_over_layers(start, found, layers, depth), loop_mean(start, found, layers, depth))


def test_choices_by_hand() -> None:
    assert tokens_after_choices(800, 100, 3) == (400, 200, 100)
    assert tokens_after_choices(10, 1, 2) == (3, 1) and tokens_after_choices(5, 5, 2) == (5, 5)
    assert mean_over_layers(800, (400, 200, 100), (7, 15, 23), 32) == 375
    assert mean_over_layers(10, (4,), (3,), 4) == 10  # a choice after the last layer saves no layer anything


@settings(max_examples=60, deadline=None)
@given(choices())
def test_a_mean_over_layers_is_met_from_below_and_grows(case: tuple[int, int, tuple[int, ...], int]) -> None:
    start, _, layers, depth = case
    before: tuple[int, ...] | None = None
    least = loop_mean(start, tokens_after_choices(start, 1, len(layers)), layers, depth)
    for allowed in sorted({1, start // 3 or 1, start // 2 or 1, start}):
        if least > allowed:
            with pytest.raises(
                ConfigError, match=r"can't keep .* on average over the layers, because its first layers"
            ):
                layer_average("some", start, allowed, layers, depth)
            continue
        found = layer_average("some", start, allowed, layers, depth)
        assert allowed - 1 < loop_mean(start, found, layers, depth) <= allowed or found == (start,) * len(layers)
        assert list(found) == sorted(found, reverse=True) and found[0] <= start
        assert before is None or all(a <= b for a, b in zip(before, found))
        before = found


@given(st.integers(0, 50), st.integers(0, 50))
def test_largest(limit: int, high: int) -> None:
    calls = []
    assert largest(lambda n: not calls.append(n) and n <= limit, high) == min(limit, high)
    assert len(calls) <= max(1, high).bit_length() and all(1 <= n <= high for n in calls)


# ---- every method's split ------------------------------------------------------------------------------------------


def is_reachable(method: Method, cells: int, depth: int) -> bool:
    try:
        method.split(cells, 4, depth)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("depth", [4, 28, 32])
@pytest.mark.parametrize("name", methods.names())
def test_the_last_slot_meets_the_budget(name: str, depth: int) -> None:
    before = Split(0, (0, 0, 0))
    for allowed in (1, 2, 30, 99, 100):
        method = methods.get(name, retention_tokens=allowed).for_depth(depth)
        split = method.split(100, 4, depth)
        assert (split.chosen is None) == (not method.selection_layers)
        if split.chosen:
            assert len(split.chosen) == len(method.selection_layers) and split.chosen[-1] == allowed
            assert list(split.chosen) == sorted(split.chosen, reverse=True)
            assert split.merged is None or split.chosen[0] <= split.merged <= 100
            assert all(a <= b for a, b in zip(before.chosen, split.chosen))
        else:
            assert split.merged == allowed
        assert split.merged is None or split.merged >= before.merged
        before = Split(split.merged or 0, split.chosen or (0,))


@pytest.mark.parametrize(("cells", "step"), [(100, 3), (6272, 97)])
@pytest.mark.parametrize("depth", [4, 28])
@pytest.mark.parametrize("name", methods.names())
def test_a_mean_over_layers_is_the_budget(name: str, depth: int, cells: int, step: int) -> None:
    """Of methods that choose inside: below it by less than a token. More budget, more tokens at every place."""
    before: list[int] = []
    for allowed in range(1, cells + 1, step):
        method = methods.get(name, retention_tokens=allowed, average_over_layers=True).for_depth(depth)
        if not is_reachable(method, cells, depth):
            assert not method.merges  # what merges before can always get there
            continue
        split = method.split(cells, 4, depth)
        if split.chosen is None:
            assert split.merged == allowed
            continue
        start = cells if split.merged is None else split.merged
        assert allowed - 1 < mean_over_layers(start, split.chosen, method.selection_layers, depth) <= allowed
        assert cells >= start >= split.chosen[0] and list(split.chosen) == sorted(split.chosen, reverse=True)
        assert all(a <= b for a, b in zip(before, [start, *split.chosen]))
        before = [start, *split.chosen]


def test_prunevid_splits_so_that_its_choice_keeps_its_share() -> None:
    method = methods.get("prunevid", keep_ratio=0.4, pruning_layer=9, retention_tokens=100)
    assert method.split(1000, 16, 32) == Split(250, (100,))
    assert method.split(200, 16, 32) == Split(200, (100,))  # there are no more to merge
    assert method.replace(enable_stage2=False).split(1000, 16, 32) == Split(100, None)
    assert method.replace(enable_stage1=False).split(1000, 16, 32) == Split(None, (100,))
    assert method.replace(keep_ratio=0.0).split(1000, 16, 32) == Split(1000, (100,))
    spread = method.replace(average_over_layers=True)
    assert spread.split(1000, 16, 32) == Split(170, (68,))  # (10 * 170 + 22 * 68) / 32 = 99.875; 171 are too many
    assert methods.get("prunevid").split(1000, 16, 32) == Split(None, None)
    last = methods.get("prunevid", pruning_layer=31, retention_tokens=1, average_over_layers=True)
    assert last.split(1000, 16, 32) == Split(1, (1,))


# ---- prunevid's choice within a quota -------------------------------------------------------------------------------

# Two videos: scenes of a static set and a dynamic one a frame; of one small scene only; 12 + 3 + 9 and 4 tokens.
SCENES = [[[6, 3, 3], [3], [5, 4]], [[4]]]


def loop_shares(total: int, sizes: list[int], least: int) -> list[int]:
    """Dealt one by one, each to the greatest size / (share + 1/2), the first on a tie."""
    shares = [min(least, size) for size in sizes]
    while sum(shares) < min(total, sum(sizes)):
        open_ = [i for i, size in enumerate(sizes) if shares[i] < size]
        shares[max(open_, key=lambda i: (sizes[i] / (shares[i] + 0.5), -i))] += 1
    return shares


@pytest.mark.parametrize("quota", [[24, 4], [12, 2], [7, 1], [3, 1], [2, 1], [1, 1], [20, 3]])
def test_prunevid_chooses_the_best_of_every_set(quota: list[int]) -> None:
    choosing = make_choosing((24, 4), quota=quota, scenes=SCENES, seed=sum(quota))
    attention = choosing.attention
    scores = reference.question_scores(attention.queries, attention.keys, attention.visual).tolist()
    expected, group = [], choosing.group.tolist()
    number = 0
    for scenes, allowed in zip(SCENES, quota):
        for sizes, share in zip(scenes, loop_shares(allowed, [sum(sizes) for sizes in scenes], least=1)):
            for count in loop_shares(share, sizes, least=0):
                expected += best({i: score for i, score in enumerate(scores) if group[i] == number}, count)
                number += 1
    choice = methods.get("prunevid").choose(choosing)
    assert choice.kept.tolist() == sorted(expected)
    kept = Counter(choosing.scene[choice.kept].tolist())
    assert len(kept) == 4 and len(choice.kept) == sum(max(q, len(s)) for q, s in zip(quota, SCENES))


def test_prunevid_chooses_the_best_of_all() -> None:
    choosing = make_choosing((24, 4), quota=[5, 2], scenes=SCENES)
    attention = choosing.attention
    scores = reference.question_scores(attention.queries, attention.keys, attention.visual).tolist()
    kept = methods.get("prunevid", keep_scope="global").choose(choosing).kept.tolist()
    assert kept == best(dict(enumerate(scores[:24])), 5) + [i + 24 for i in best(dict(enumerate(scores[24:])), 2)]


# ---- layers that nobody chose --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "of", "depth", "first", "found"),
    [
        (3, 32, 32, 0, 3),
        (3, 32, 28, 0, 3),  # 2.625
        (8, 32, 28, 0, 7),
        (3, 32, 4, 0, 1),  # 0.375, but a layer must see the tokens
        (24, 32, 4, 0, 3),
        (18, 28, 28, 0, 18),
        (18, 28, 36, 0, 23),
        (28, 28, 4, 0, 4),
        (3, 32, 28, 3, 4),  # the family allows a choice after layer 3 at the earliest: four layers
        (3, 32, 1, 0, 1),
    ],
)
def test_a_count_follows_the_depth(count: int, of: int, depth: int, first: int, found: int) -> None:
    scaled = DefaultCount(count, of=of).for_depth(depth, first)
    assert scaled == found and scaled.for_depth(of) == max(1, count)  # it still knows where it comes from


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("depth", [4, 5, 12, 28, 32, 80])
@pytest.mark.parametrize("name", methods.names())
def test_default_layers_ascend_within_every_depth(name: str, depth: int, first: int) -> None:
    method = methods.get(name).for_depth(depth, first)
    layers = method.selection_layers
    assert list(layers) == sorted(set(layers)) and all(first <= layer < depth for layer in layers)
    assert method.revision_layer is None or 0 <= method.revision_layer < depth
    assert method.for_depth(depth, first) == method
    assert methods.get(name).for_depth(80).for_depth(depth, first) == method


@pytest.mark.parametrize(("name", "options"), [("fastv", {"layer": 3}), ("pyramiddrop", {"layers": (8, 16, 24)})])
def test_given_layers_stay(name: str, options: dict[str, Any]) -> None:
    method = methods.get(name, **options)
    assert method.for_depth(12) == method and method.selection_layers == methods.get(name).selection_layers
