# SPDX-License-Identifier: Apache-2.0
"""`dycoke`, the merge between frames, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from methods.loops import best, cosine, kept_cells, make_video, rows
from prunevid import methods
from prunevid.methods import Video
from prunevid.methods.dycoke import counterpart

FRAMES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13]


def chosen(video: Video, quota: dict[int, int]) -> list[int]:
    """Group by group: frame 2 against 1 and 4 against 3, then 3 against 1, as far as the group goes."""
    features = rows(video.features)
    positions = len(features[0])
    kept: list[int] = []
    for start in range(0, len(features), 4):
        kept += range(start * positions, (start + 1) * positions)
        for frame, other in [(start + 1, start), (start + 3, start + 2), (start + 2, start)]:
            if frame < len(features):
                pairs = enumerate(zip(features[frame], features[other]))
                unlike = {frame * positions + place: 1 - cosine(a, b) for place, (a, b) in pairs}
                kept += best(unlike, quota[frame])
    return sorted(kept)


@pytest.mark.parametrize("k", [0.0, 0.5, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("frames", FRAMES)
def test_the_published_ratio_and_every_tail(frames: int, k: float) -> None:
    video = make_video(frames, 2, 5, 6, seed=frames)
    share = {0.0: 10, 0.5: 5, 0.7: 3, 0.8: 2, 1.0: 0}[k]
    assert kept_cells(methods.get("dycoke", k=k).merge(video)) == chosen(video, dict.fromkeys(range(frames), share))


@pytest.mark.parametrize("frames", FRAMES)
def test_a_budget_is_dealt_to_the_frames_that_are_compared(frames: int) -> None:
    video = make_video(frames, 1, 4, 6, seed=frames)
    first = list(range(0, frames, 4))
    others = [frame for frame in range(frames) if frame % 4]
    quota = dict.fromkeys(others, 0)
    for budget in range(4 * len(first), 4 * frames + 1):
        assert kept_cells(methods.get("dycoke").merge(replace(video, budget=budget))) == chosen(video, quota)
        if budget < 4 * frames:  # one more for the first of those that have the fewest
            quota[min(others, key=lambda frame: quota[frame])] += 1


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (1, [17]),  # the middle token of the middle one of the first frames 0, 4 and 8
        (2, [1, 33]),
        (3, [1, 17, 33]),
        (5, [0, 3, 16, 19, 33]),
        (11, [0, 1, 2, 3, 16, 17, 18, 19, 32, 34, 35]),
        (12, [0, 1, 2, 3, 16, 17, 18, 19, 32, 33, 34, 35]),
    ],
)
def test_small_budgets_thin_the_first_frames(budget: int, kept: list[int]) -> None:
    assert kept_cells(methods.get("dycoke").merge(make_video(9, 1, 4, 3, budget=budget))) == kept


def test_counterparts() -> None:
    assert [counterpart(frame) for frame in (1, 2, 3, 5, 6, 7)] == [0, 0, 2, 4, 4, 6]


@pytest.mark.parametrize("frames", [5, 6, 7, 8])
def test_what_stays_the_same_goes_in_the_last_group_too(frames: int) -> None:
    features = torch.randn(1, 10, 8).repeat(frames, 1, 1)
    features[1:, 4] = torch.randn(frames - 1, 8)  # this place alone changes
    kept = kept_cells(methods.get("dycoke", k=0.9).merge(Video(features, 2, 5)))
    assert kept == sorted([*range(10), *range(40, 50), *(t * 10 + 4 for t in range(frames) if t % 4)])
