# SPDX-License-Identifier: Apache-2.0
"""FastVID against plain loops."""

from __future__ import annotations

import pytest
import torch

from methods.tower_videos import cosine, make_video, peaks, ranked, segments
from prunevid import methods


def fastvid(video, salient: list[int], anchors: list[int], pieces: list[range], beta: float = 0.6, k: int = 4):
    """By loops: the tokens {cell: vector}, and the cell that each cell joins."""
    x, a = video.features, video.tower.salience.tolist()
    count = x.shape[1]
    tokens, joins = {}, [-1] * (len(x) * count)
    for piece in pieces:
        targets, rest = [], []
        for t in piece:
            best = ranked(a[t])[: salient[t]]
            for i in best:
                tokens[t * count + i], joins[t * count + i] = x[t, i].double(), t * count + i
            free = [i for i in range(count) if i not in best]
            rest += [(t, i) for i in free]
            if anchors[t]:
                targets += [(t, free[c]) for c in peaks([x[t, i] for i in free], anchors[t], k)[0]]
        targets.sort()
        for t, i in rest:
            if targets:
                own = (t, i) in targets
                u, j = (t, i) if own else max(targets, key=lambda c: (cosine(x[t, i], x[c]), -c[0], -c[1]))
                joins[t * count + i] = u * count + j
        for t, i in targets:
            others = [x[u, j].double() for u, j in rest if joins[u * count + j] == t * count + i and (u, j) != (t, i)]
            weight = max(beta, 1 / (len(others) + 1))
            mean = sum(others) / len(others) if others else 0
            tokens[t * count + i] = weight * x[t, i].double() + (1 - weight) * mean
    return tokens, joins


CASES = [
    # one segment; half of each frame, of which int(6 * 0.4) = 2 go to the anchors, 20 in all, in 3 frames
    ({"segments": 1, "tau": -1.0}, 60, 10 * [4], [0, 7, 0, 0, 0, 7, 0, 0, 0, 6]),
    # the same without a budget: int(12 * 0.5)
    ({"segments": 1, "tau": -1.0, "keep": 0.5}, None, 10 * [4], [0, 7, 0, 0, 0, 7, 0, 0, 0, 6]),
    # every frame is a segment, and holds its own anchors
    ({"segments": 99}, 60, 10 * [4], 10 * [2]),
    # all of the budget goes to anchors, more than their frames hold
    (
        {"segments": 1, "tau": -1.0, "anchors": 1.0},
        60,
        [4, 0, 4, 4, 3, 0, 3, 3, 3, 0],
        [0, 12, 0, 0, 0, 12, 0, 0, 0, 12],
    ),
    ({"segments": 1, "tau": -1.0, "beta": 0.0, "period": 20}, 30, 9 * [2] + [2], 9 * [0] + [10]),
]


@pytest.mark.parametrize(("options", "budget", "salient", "anchors"), CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_equals_loops(options: dict, budget: int | None, salient: list[int], anchors: list[int], seed: int) -> None:
    video = make_video(10, 12, budget=budget, seed=seed)
    method = methods.get("fastvid", **options)
    pieces = segments(video.features, method.segments, method.tau)
    assert method.deal(budget, [len(piece) for piece in pieces], 12) == (salient, anchors)
    tokens, joins = fastvid(video, salient, anchors, pieces, method.beta)
    merged = method.merge(video)
    cells = sorted(tokens)
    assert merged.representative.tolist() == cells
    assert merged.assignment.tolist() == [j if j < 0 else cells.index(j) for j in joins]
    values = torch.stack([tokens[cell] for cell in cells]).float()
    torch.testing.assert_close(merged.features, values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("least", "tau"), [(1, -1.0), (3, -1.0), (3, 0.7), (1, 0.9), (99, 0.0)])
def test_segments_equal_loops(least: int, tau: float) -> None:
    from prunevid.methods.sets import dynamic_segments

    for seed in range(5):
        features = make_video(9, 4, seed=seed, change=0.7).features
        expected = [len(piece) for piece in segments(features, least, tau)]
        assert dynamic_segments(features, least, tau) == expected
        assert len(expected) >= min(least, 9)


@pytest.mark.parametrize("budget", [3, 4, 7])
def test_a_small_budget_leaves_a_token_in_every_segment(budget: int) -> None:
    video = make_video(9, 12, budget=budget, change=0.4, seed=3)
    merged = methods.get("fastvid", segments=3, tau=-1.0).merge(video)
    for piece in segments(video.features, 3, -1.0):
        assert any(frame in piece for frame in merged.group.tolist())


def test_what_is_dropped_is_told() -> None:
    """Without anchors nothing joins anything."""
    merged = methods.get("fastvid", anchors=0.0).merge(make_video(4, 6, budget=10))
    assert (merged.assignment == -1).sum() == 14
