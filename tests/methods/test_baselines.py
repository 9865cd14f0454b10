# SPDX-License-Identifier: Apache-2.0
"""`random`, `uniform` and `frames`, by hand."""

from __future__ import annotations

import pytest
import torch

from methods.loops import kept_cells, make_video
from prunevid import methods
from prunevid.methods.dropping import evenly


@pytest.mark.parametrize(
    ("count", "wanted", "places"),
    [
        (1, 1, [0]),
        (7, 1, [3]),
        (8, 1, [3]),
        (9, 2, [0, 8]),
        (9, 3, [0, 4, 8]),
        (10, 4, [0, 3, 6, 9]),
        (10, 3, [0, 5, 9]),  # 4.5 is rounded up
        (6, 5, [0, 1, 3, 4, 5]),
        (5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_equal_steps(count: int, wanted: int, places: list[int]) -> None:
    assert evenly(count, wanted).tolist() == places


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(1, [7]), (2, [0, 15]), (4, [0, 5, 10, 15]), (6, [0, 3, 6, 9, 12, 15]), (15, [*range(7), *range(8, 16)])],
)
def test_uniform_takes_equal_steps_through_all_tokens(budget: int, kept: list[int]) -> None:
    assert kept_cells(methods.get("uniform").merge(make_video(4, 2, 2, 3, budget=budget))) == kept


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (1, [9]),  # the middle token of the middle frame (2 of 0 ... 4)
        (3, [8, 10, 11]),
        (4, [8, 9, 10, 11]),
        (5, [0, 1, 2, 3, 17]),
        (6, [0, 1, 2, 3, 16, 19]),
        (8, [0, 1, 2, 3, 16, 17, 18, 19]),
        (11, [0, 1, 2, 3, 8, 9, 10, 11, 16, 18, 19]),
    ],
)
def test_frames_keeps_whole_frames_and_thins_the_last(budget: int, kept: list[int]) -> None:
    assert kept_cells(methods.get("frames").merge(make_video(5, 2, 2, 3, budget=budget))) == kept


def test_random_gives_every_cell_the_same_chance() -> None:
    video = make_video(4, 2, 5, 2, budget=10)
    counts = torch.zeros(40)
    for seed in range(600):
        counts[kept_cells(methods.get("random", seed=seed).merge(video))] += 1
    assert counts.sum() == 6000
    # 150 of 600 expected for each, with a standard deviation of 10.6
    assert counts.min() > 105 and counts.max() < 195


def test_random_follows_its_seed_alone() -> None:
    video, other = make_video(4, 2, 5, 2, seed=1), make_video(4, 2, 5, 2, seed=2)
    state = torch.random.get_rng_state()
    kept = [kept_cells(methods.get("random", seed=seed).merge(video)) for seed in (3, 3, 4)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert kept[0] == kept[1] != kept[2]
    assert kept_cells(methods.get("random", seed=3).merge(other)) == kept[0]
