# SPDX-License-Identifier: Apache-2.0
"""FlashVID against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from methods.tower_videos import cosine, make_video, peaks, ranked, segments
from prunevid import methods
from prunevid.methods import Attention, Choosing
from prunevid.methods.flashvid import diverse


def greedy(x: torch.Tensor, a: list[float], count: int) -> list[int]:
    """By loops: attention first, then attention times the cosine distance to the nearest pick."""
    picks: list[int] = []
    while len(picks) < count:
        free = [i for i in range(len(a)) if i not in picks]
        picks.append(max(free, key=lambda i: (a[i] * min([1 - cosine(x[i], x[j]) for j in picks], default=1.0), -i)))
    return picks


def trees(x: torch.Tensor, picks: list[list[int]], pieces: list[range], tau: float) -> dict[tuple, tuple]:
    """The first token of the chain that every token that was not picked belongs to."""
    root: dict[tuple[int, int], tuple[int, int]] = {}
    for piece in pieces:
        for t in piece:
            for i in range(x.shape[1]):
                if i in picks[t]:
                    continue
                root[t, i] = (t, i)
                before = [j for j in range(x.shape[1]) if (t - 1, j) in root] if t > piece[0] else []
                if before:
                    best = max(before, key=lambda j: (cosine(x[t, i], x[t - 1, j]), -j))
                    if cosine(x[t, i], x[t - 1, best]) > tau:
                        root[t, i] = root[t - 1, best]
    return root


def running_mean(x: torch.Tensor, members: list[tuple[int, int]]) -> torch.Tensor:
    """The mean of a tree, one member at a time."""
    mean = torch.zeros(x.shape[2], dtype=torch.float64)
    for number, cell in enumerate(members):
        mean += (x[cell].double() - mean) / (number + 1)
    return mean


@pytest.mark.parametrize("counts", [[1, 1, 1], [4, 4, 4], [0, 3, 9]])
def test_diverse_equals_loops(counts: list[int]) -> None:
    video = make_video(3, 9, seed=sum(counts))
    a = video.tower.salience
    found = diverse(video.features, a, counts)
    for t, count in enumerate(counts):
        assert found[t].nonzero()[:, 0].tolist() == sorted(greedy(video.features[t], a[t].tolist(), count))


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (30, {}),
        (30, {"tau": 0.5, "segments": 2, "segment_tau": -1.0}),
        (12, {"tau": 0.2, "segments": 1, "segment_tau": -1.0, "alpha": 0.3}),
        (42, {"tau": 0.95, "alpha": 0.0, "segments": 3}),
        (None, {}),
        (None, {"keep": 0.6, "alpha": 0.5, "tau": 0.3, "segments": 2, "segment_tau": -1.0}),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_equals_loops(budget: int | None, options: dict, seed: int) -> None:
    """How many tokens of a frame are left is read off the result; which they are and what is in them, by loops."""
    video = make_video(6, 12, budget=budget, seed=seed, change=0.4)
    x, method = video.features, methods.get("flashvid", **options)
    pieces = segments(x, method.segments, method.segment_tau)
    merged = method.merge(video)
    share = min(12, math.ceil(12 * method.keep * 1.25)) if budget is None else budget // 6  # all divide by 6
    exact = [share] * 6
    picks = [greedy(x[t], video.tower.salience[t].tolist(), math.ceil(exact[t] * method.alpha)) for t in range(6)]
    root = trees(x, picks, pieces, method.tau)
    members = {top: [cell for cell in sorted(root) if root[cell] == top] for top in set(root.values())}
    wanted = sum(exact) - sum(map(len, picks))
    places = [divmod(cell, 12) for cell in merged.representative.tolist()]
    assert set((t, i) for t in range(6) for i in picks[t]) <= set(places)
    expected = {(t, i): x[t, i].double() for t in range(6) for i in picks[t]}
    joins = {cell: cell for cell in expected}
    assert len(members) >= wanted or budget is None
    for t in range(6):
        tops = sorted(top for top in members if top[0] == t)
        means = [running_mean(x, members[top]) for top in tops]
        count = sum(u == t and i not in picks[t] for u, i in places)
        assert abs(count - wanted * len(tops) / len(members)) < 1 or len(members) <= wanted
        if not count:
            continue
        centres, found = peaks(means, count, method.k)
        for centre in centres:
            inside = [means[i] for i, c in enumerate(found) if c == centre]
            expected[tops[centre]] = sum(inside) / len(inside)
        for i, c in enumerate(found):
            joins |= {cell: tops[c] for cell in members[tops[i]]}
    assert len(places) == sum(exact) or (budget is None and len(members) < wanted)
    assert places == sorted(expected)
    values = torch.stack([expected[place] for place in places]).float()
    torch.testing.assert_close(merged.features, values, rtol=1e-5, atol=1e-5)
    cells = [(t, i) for t in range(6) for i in range(12)]
    assert merged.assignment.tolist() == [places.index(joins[c]) if c in joins else -1 for c in cells]


def test_a_budget_beyond_the_trees_undoes_their_weakest_links() -> None:
    """Three frames of two tokens that turn: nothing is picked, and four of six tokens are left of two trees."""
    angle = torch.tensor([[0.0, 1.5], [0.1, 1.3], [0.4, 1.25]])
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)
    video = make_video(3, 2, 2)
    video = type(video)(x, 1, 2, 4, video.tower)
    merged = methods.get("flashvid", alpha=0.0, segments=1, segment_tau=-1.0).merge(video)
    assert merged.representative.tolist() == [0, 1, 3, 4]  # steps .1 .2 .3 .05: .3 and .2 are cut
    assert merged.assignment.tolist() == [0, 1, 0, 2, 3, 2]
    mean = (x[1, 1] + x[2, 1]) / 2
    torch.testing.assert_close(merged.features, torch.stack([(x[0, 0] + x[1, 0]) / 2, x[0, 1], mean, x[2, 0]]))


@pytest.mark.parametrize("quota", [None, [3, 2]])
def test_choice_inside_the_decoder(quota: list[int] | None) -> None:
    scores = torch.tensor([0.3, -0.2, 0.9, 0.1, 0.0, 0.5, 0.7, -0.9, 0.2, 0.8])
    keys = scores.view(1, -1, 1)
    video = torch.tensor([0] * 6 + [1] * 4)
    visual = torch.ones(10, dtype=torch.bool)
    attention = Attention(keys[:, -1:], keys, visual, torch.tensor([9]), lambda: (torch.ones(1, 1, 1), keys))
    hidden = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    choice = methods.get("flashvid").choose(
        Choosing(attention, 0, video, video, video, [20, 20], quota, hidden, hidden[:1])
    )
    order = ranked(scores.tolist())
    parts = [[i for i in order if video[i] == v][:n] for v, n in enumerate(quota)] if quota else [order[:3]]
    assert choice.kept.tolist() == sorted(i for part in parts for i in part) and choice.target is None
    torch.testing.assert_close(choice.scores, scores.softmax(0))
