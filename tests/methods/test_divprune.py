# SPDX-License-Identifier: Apache-2.0
"""`divprune` against plain loops, and what it may cost."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.loops import cosine, kept_cells, make_video, rows
from prunevid import methods
from prunevid.methods import Video, divprune
from prunevid.methods.dropping import unit_vectors

SHAPES = [(3, 2, 4, 8), (1, 5, 5, 4), (6, 1, 2, 3), (1, 1, 1, 2), (2, 1, 1, 4)]


def farthest_first(video: Video) -> list[int]:
    """All cells in the order of choice."""
    tokens = [token for frame in rows(video.features) for token in frame]
    distance = [[1 - cosine(left, right) for right in tokens] for left in tokens]

    def nearest(cell: int, others: list[int]) -> float:
        return min((distance[cell][other] for other in others if other != cell), default=math.inf)

    everyone = list(range(len(tokens)))
    order = [max(everyone, key=lambda cell: nearest(cell, everyone))]
    while len(order) < len(tokens):
        order.append(max((cell for cell in everyone if cell not in order), key=lambda cell: nearest(cell, order)))
    return order


@pytest.mark.parametrize("limit", [2**26, 30, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_by_one(shape: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the distances don't fit one tensor, and are made a row at a time."""
    monkeypatch.setattr(divprune, "_DISTANCE_ELEMENTS", limit)
    video = make_video(*shape, seed=3)
    order = farthest_first(video)
    assert divprune.farthest(unit_vectors(video.features).flatten(0, 1), len(order)).tolist() == order
    for budget in (1, len(order) // 2 + 1, len(order)):
        merged = methods.get("divprune").merge(Video(video.features, *shape[1:3], budget))
        assert kept_cells(merged) == sorted(order[:budget])


def test_by_hand() -> None:
    """Directions in the plane: 180 degrees is the loneliest, then what is farthest from those chosen."""
    degrees = torch.tensor([0.0, 10, 90, 180, 20]) * math.pi / 180
    tokens = torch.stack([degrees.cos(), degrees.sin()], dim=1)
    assert divprune.farthest(tokens, 5).tolist() == [3, 0, 2, 4, 1]


@pytest.mark.parametrize("limit", [2**26, 1])
def test_copies_come_last_and_by_place(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances between copies are rounded to 0, so that place decides among them."""
    monkeypatch.setattr(divprune, "_DISTANCE_ELEMENTS", limit)
    tokens = unit_vectors(torch.randn(5, 64)).repeat(3, 1)
    order = divprune.farthest(tokens, 15).tolist()
    assert {cell % 5 for cell in order[:5]} == set(range(5)) and order[0] == 0
    assert order[5:] == [cell for cell in range(15) if cell not in order[:5]]


class Meter(TorchDispatchMode):
    """Counts operations and sees the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls[str(func)] += 1
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("limit", [2**26, 400])
def test_each_step_is_a_few_operations_and_no_wait(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divprune, "_DISTANCE_ELEMENTS", limit)
    tokens = unit_vectors(torch.randn(60, 5))
    counts = []
    for wanted in (10, 20):
        with Meter() as meter:
            divprune.farthest(tokens, wanted)
        counts.append(meter.calls)
        assert not any("_local_scalar_dense" in call or "nonzero" in call for call in meter.calls)
        assert meter.largest <= max(tokens.numel(), limit if limit < 3600 else 3600)
    assert 0 < sum((counts[1] - counts[0]).values()) <= 10 * 16
