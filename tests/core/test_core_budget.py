# SPDX-License-Identifier: Apache-2.0
"""A merge to an exact number of tokens, and a number dealt out to sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reference
from prunevid.core import merge_video, share_out
from prunevid.errors import ConfigError

SIZES = st.lists(st.integers(0, 300), min_size=1, max_size=12)


def dealt(total: int, sizes: list[int], least: list[int]) -> list[int]:
    """One by one, each to the greatest size / (share + 1/2); the first on a tie."""
    shares = [min(low, size) for low, size in zip(least, sizes)]
    while sum(shares) < min(total, sum(sizes)):
        claims = [(size / (2 * share + 1), -i) for i, (size, share) in enumerate(zip(sizes, shares)) if share < size]
        shares[-max(claims)[1]] += 1
    return shares


@settings(deadline=None)
@given(st.data())
def test_shares_are_exact_bounded_and_grow(data: st.DataObject) -> None:
    sizes = data.draw(SIZES)
    least = data.draw(st.lists(st.integers(0, 4), min_size=len(sizes), max_size=len(sizes)))
    low = sum(min(one, size) for one, size in zip(least, sizes))
    before = [0] * len(sizes)
    for total in sorted(data.draw(st.sets(st.integers(0, sum(sizes) + 3), min_size=1, max_size=6))):
        shares = share_out(total, sizes, least)
        assert sum(shares) == min(max(total, low), sum(sizes))
        assert all(min(one, size) <= share <= size for share, size, one in zip(shares, sizes, least))
        assert all(a <= b for a, b in zip(before, shares))
        before = shares


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_shares_are_those_that_are_dealt_one_by_one(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=6))
    least = data.draw(st.one_of(st.none(), st.just([1] * len(sizes))))
    total = data.draw(st.integers(0, sum(sizes)))
    assert share_out(total, sizes, least) == dealt(total, sizes, least or [0] * len(sizes))


@settings(deadline=None)
@given(SIZES, st.integers(0, 4000))
def test_shares_are_in_proportion(sizes: list[int], total: int) -> None:
    """Within one of the exact proportion where there are two sets; with more, no set has two too few."""
    total = min(total, sum(sizes))
    for share, size in zip(share_out(total, sizes), sizes):
        exact = total * size / max(1, sum(sizes))
        slack = 1 if len(sizes) <= 2 else 1 + len(sizes) / 2
        assert abs(share - exact) < slack


def clip(frames: int, positions: int, seed: int, change: float, scenes: int = 1) -> torch.Tensor:
    """(T, N, 8): scenes in which every position changes by an amount of its own, from 0 to `change`."""
    generator = torch.Generator().manual_seed(seed)
    bases = 3 * torch.randn(scenes, positions, 8, generator=generator)
    scene = torch.arange(frames) * scenes // frames
    noise = torch.randn(frames, positions, 8, generator=generator)
    return bases[scene] + change * torch.rand(1, positions, 1, generator=generator) * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [0.0, 2.0, 9.0])
@pytest.mark.parametrize(
    ("frames", "positions", "scenes"), [(1, 1, 1), (1, 30, 1), (12, 1, 3), (8, 17, 2), (11, 40, 3)]
)
def test_every_budget_is_met(frames: int, positions: int, scenes: int, change: float, dtype: torch.dtype) -> None:
    """Exactly max(budget, scenes) tokens, a mean of its cells each, at least one a scene; more budget, more tokens."""
    features = clip(frames, positions, frames + positions, change, scenes).to(dtype)
    flat, cells = features.reshape(-1, 8).double(), frames * positions
    budgets = {1, 2, frames, frames + 1, 2 * frames, cells // 3, cells // 2, cells * 9 // 10, cells - 1, cells}
    for budget in sorted(one for one in budgets if 1 <= one <= cells):
        merged = merge_video(features, budget=budget)
        count, lengths = len(merged.features), merged.scene_lengths
        assert count == max(budget, len(lengths)) == sum(merged.static_sizes) + sum(merged.dynamic_sizes)
        assert len(merged.group) == len(merged.representative) == count and merged.features.dtype == dtype
        assert all(still + moving >= 1 for still, moving in zip(merged.static_sizes, merged.dynamic_sizes))
        assert merged.assignment[merged.representative].tolist() == list(range(count))
        assert merged.group.tolist() == sorted(merged.group.tolist())
        for token in range(count):
            mean = flat[merged.assignment == token].mean(0)
            torch.testing.assert_close(
                merged.features[token].double(), mean, rtol=1e-2, atol=2e-2 if dtype.itemsize == 2 else 1e-5
            )
        scene_of_cell = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths) * positions)
        sizes = [still + moving for still, moving in zip(merged.static_sizes, merged.dynamic_sizes)]
        of_token = torch.arange(len(lengths)).repeat_interleave(torch.tensor(sizes))
        alive = merged.assignment >= 0
        assert (of_token[merged.assignment[alive]] == scene_of_cell[alive]).all()  # no token spans two scenes
        dropped = int((~alive).sum())
        assert not dropped or (torch.bincount(merged.group) == 1).all()  # only where every set is down to one token


def test_the_whole_budget_leaves_everything() -> None:
    features = clip(6, 20, 0, 0.1, 2)
    merged = merge_video(features, budget=120)
    assert sorted(merged.representative.tolist()) == list(range(120))
    torch.testing.assert_close(merged.features, features.reshape(-1, 8)[merged.representative])


def test_the_least_similar_static_positions_count_as_dynamic_first() -> None:
    """Four frames, one scene of six static positions: 3 more tokens for each one that is loosened."""
    base = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(2))
    features = base + 0.2 * noise
    assert merge_video(features, tau=0.5).static_sizes == [6]
    order = reference.similarity(features).argsort().tolist()
    for budget, loose in [(6, 0), (7, 1), (9, 1), (10, 2), (12, 2), (13, 3), (24, 6)]:
        merged = merge_video(features, tau=0.5, budget=budget)
        assert len(merged.features) == budget
        joined = merged.assignment.view(4, 6)
        still = {place for place in range(6) if len(set(joined[:, place].tolist())) == 1}
        assert still == set(range(6)) - set(order[:loose])


@pytest.mark.parametrize("budget", [0, 13, 1.5, True])
def test_refused_budgets(budget) -> None:
    with pytest.raises(ConfigError, match=r"budget is .*, but must be a whole number from 1 to 12"):
        merge_video(torch.randn(3, 4, 8), budget=budget)
