# SPDX-License-Identifier: Apache-2.0
"""`vidcom2` against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from methods.loops import best, kept_cells, make_video, mean, rows
from prunevid import methods
from prunevid.methods import Video
from prunevid.methods.vidcom2 import deal

SHAPES = [(6, 3, 4, 16), (4, 2, 2, 7), (1, 3, 3, 8), (9, 1, 1, 6), (2, 5, 5, 4)]


def unusual(video: Video) -> tuple[list[float], list[list[float]]]:
    """What each frame weighs, and how unlike the frame and the video each token is."""
    features = rows(video.features)
    tokens = [token for frame in features for token in frame]
    centre = mean(tokens)
    spread = {c: -sum((token[c] - centre[c]) ** 2 for token in tokens) for c in range(len(centre))}
    steady = best(spread, max(1, len(centre) // 2))

    def unit(token: list[float]) -> list[float]:
        part = [token[c] for c in steady]
        norm = math.sqrt(sum(value * value for value in part))
        return [value / norm for value in part]

    def alike(token: list[float], other: list[float]) -> float:
        squared = sum((a - b) ** 2 for a, b in zip(token, other))
        return sum(math.exp(-squared / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    units = [[unit(token) for token in frame] for frame in features]
    of_video = mean([token for frame in units for token in frame])
    to_video = [[alike(token, of_video) for token in frame] for frame in units]
    to_frame = [[alike(token, mean(frame)) for token in frame] for frame in units]
    powers = [-sum(scores) / len(scores) / 0.01 for scores in to_video]
    exponentials = [math.exp(power - max(powers)) for power in powers]
    weights = [1 + e / sum(exponentials) - 1 / len(units) for e in exponentials]
    scores = [[-(a + b) for a, b in zip(*both)] for both in zip(to_video, to_frame)]
    return weights, scores


def chosen(scores: list[list[float]], quota: list[int]) -> list[int]:
    """The best cells of each frame."""
    positions = len(scores[0])
    found = []
    for frame, (row, count) in enumerate(zip(scores, quota)):
        found += best({frame * positions + place: score for place, score in enumerate(row)}, count)
    return found


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_published_ratio(shape: tuple[int, ...], keep: float) -> None:
    video = make_video(*shape, seed=1)
    weights, scores = unusual(video)
    positions = len(scores[0])
    quota = [max(1, round(min(1.0, keep * weight) * positions)) for weight in weights]
    assert kept_cells(methods.get("vidcom2", keep=keep).merge(video)) == chosen(scores, quota)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_budget_is_dealt_one_by_one_by_weight(shape: tuple[int, ...]) -> None:
    video = make_video(*shape, seed=2)
    weights, scores = unusual(video)
    positions, shares = len(scores[0]), [0] * len(weights)
    for budget in range(1, len(weights) * positions + 1):
        open_frames = [t for t, share in enumerate(shares) if share < positions]
        shares[max(open_frames, key=lambda t: (shares[t] == 0, weights[t] / (2 * shares[t] + 1)))] += 1
        assert kept_cells(methods.get("vidcom2").merge(replace(video, budget=budget))) == chosen(scores, shares)


def test_a_frame_that_stands_out_gets_more() -> None:
    """Of eight equal frames and another, the other gets most; in it, the token that is unlike the rest comes first."""
    features = torch.ones(9, 6, 8)
    features[..., 1::2] = torch.tensor([3.0, -3]).repeat(3)[:, None]  # the channels that vary most don't count
    features[4, :, ::2] = -1
    features[4, 2, 0] = 2
    merged = methods.get("vidcom2").merge(Video(features, 2, 3, 12))
    counts = merged.group.bincount(minlength=9).tolist()
    assert counts == [2, 1, 1, 1, 3, 1, 1, 1, 1]
    assert 4 * 6 + 2 in kept_cells(merged)


@pytest.mark.parametrize(
    ("total", "weights", "most", "shares"),
    [
        (1, [1.0, 1.0], 3, [1, 0]),
        (3, [0.1, 1.9, 1.0], 4, [1, 1, 1]),
        (5, [0.1, 1.9, 1.0], 4, [1, 3, 1]),
        (9, [0.1, 1.9, 1.0], 4, [1, 4, 4]),
        (12, [0.1, 1.9, 1.0], 4, [4, 4, 4]),
    ],
)
def test_dealing_by_hand(total: int, weights: list[float], most: int, shares: list[int]) -> None:
    assert deal(total, weights, most) == shares
