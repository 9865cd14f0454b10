# SPDX-License-Identifier: Apache-2.0
"""HoliTom's outer and inner merge against plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch

from methods.tower_videos import cosine, make_video, peaks, ranked
from prunevid import methods
from prunevid.methods import Attention, Choosing
from prunevid.methods.budget import share_out
from prunevid.methods.holitom import best_windows, still_counts, still_runs


def still_in(still: list[list[bool]], first: int, last: int) -> list[int]:
    """Positions that stand still between all neighbours of the frames first ... last."""
    return [i for i in range(len(still[0])) if all(still[t][i] for t in range(first, last))]


def saved(still: list[list[bool]], lengths: tuple[int, ...]) -> int:
    """Tokens that a partition into windows saves."""
    ends = itertools.accumulate(lengths)
    return sum(len(still_in(still, end - w, end - 1)) * (w - 1) for end, w in zip(ends, lengths) if w > 1)


def partitions(frames: int, longest: int):
    """Every way to cut so many frames into windows."""
    for cuts in itertools.product([False, True], repeat=frames - 1):
        marks = [0, *(t + 1 for t, cut in enumerate(cuts) if cut), frames]
        lengths = tuple(b - a for a, b in itertools.pairwise(marks))
        if max(lengths) <= longest:
            yield lengths


@pytest.mark.parametrize("longest", [1, 2, 4, 99])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("frames", [2, 5, 8])
def test_no_partition_saves_more(frames: int, share: float, longest: int) -> None:
    still = torch.rand(frames - 1, 6, generator=torch.Generator().manual_seed(frames)) < share
    lengths = best_windows(still_counts(still_runs(still), min(longest, frames)))
    assert sum(lengths) == frames and max(lengths) <= longest
    rows = still.tolist()
    assert saved(rows, tuple(lengths)) == max(saved(rows, other) for other in partitions(frames, longest))
    ties = [other for other in partitions(frames, longest) if saved(rows, other) == saved(rows, tuple(lengths))]
    assert tuple(lengths) == min(ties, key=lambda other: other[::-1])


def test_one_frame_is_one_window() -> None:
    assert best_windows(still_counts(still_runs(torch.zeros(0, 4, dtype=torch.bool)), 1)) == [1]


def outer(video, tau: float, lengths: list[int], deal, contextual: float = 0.0, beta: float = 0.6, k: int = 7):
    """The outer merge by loops where the budget is below what the merge over time leaves.

    Args:
        deal: window -> how many still tokens to leave, and moving ones of every frame.
    """
    x, a = video.features.double(), video.tower.salience.tolist()
    count = x.shape[1]
    still = [[cosine(x[t, i], x[t + 1, i]) > tau for i in range(count)] for t in range(len(x) - 1)]
    tokens, joins = {}, [-1] * (len(x) * count)

    def cluster(members: list[tuple[int, torch.Tensor]], wanted: int) -> dict[int, int]:
        if not wanted:
            return {}
        centres, found = peaks([value for _, value in members], wanted, k)
        for centre in centres:
            others = [members[i][1] for i, c in enumerate(found) if c == centre and i != centre]
            weight = max(beta, 1 / (len(others) + 1))
            own = members[centre][1]
            tokens[members[centre][0]] = weight * own + (1 - weight) * sum(others) / len(others) if others else own
        return {members[i][0]: members[c][0] for i, c in enumerate(found)}

    first = 0
    for window, length in enumerate(lengths):
        fixed = still_in(still, first, first + length - 1) if length > 1 else []
        own, *moving = deal(window)
        means = [(first * count + i, x[first : first + length, i].mean(0)) for i in fixed]
        for root, target in cluster(means, own).items():
            for t in range(length):
                joins[root + t * count] = target
        for t in range(first, first + length):
            free = [i for i in range(count) if i not in fixed]
            order = [free[i] for i in ranked([a[t][i] for i in free])]
            clusters = int(moving[t - first] * contextual)
            best = order[: moving[t - first] - clusters]
            for i in best:
                tokens[t * count + i], joins[t * count + i] = x[t, i], t * count + i
            rest = [(t * count + i, x[t, i]) for i in free if i not in best]
            for cell, target in cluster(rest, clusters).items():
                joins[cell] = target
        first += length
    return tokens, joins


def compare(merged, tokens: dict, joins: list[int]) -> None:
    cells = sorted(tokens)
    assert merged.representative.tolist() == cells
    assert merged.assignment.tolist() == [j if j < 0 else cells.index(j) for j in joins]
    values = torch.stack([tokens[cell] for cell in cells]).float()
    torch.testing.assert_close(merged.features, values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("contextual", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("budget", [9, 20, 26, None])
@pytest.mark.parametrize(("seed", "change", "windows"), [(0, 0.5, [4, 2]), (2, 0.6, [1, 3, 2]), (5, 0.5, [5, 1])])
def test_outer_merge_equals_loops(
    budget: int | None, contextual: float, seed: int, change: float, windows: list[int]
) -> None:
    """Shares as docs/methods/holitom.md has them; which tokens, and what is in them, by loops."""
    video = make_video(6, 12, budget=budget, seed=seed, change=change)
    still = [[cosine(x, y) > 0.65 for x, y in zip(*pair)] for pair in zip(video.features, video.features[1:])]
    lengths = best_windows(still_counts(still_runs(torch.tensor(still)), 6))
    method = methods.get("holitom", contextual=contextual, keep=0.35)
    merged = method.merge(video)
    wanted = budget or round(0.35 * 72)
    assert len(merged.features) == wanted
    left = 72 - saved(still, tuple(lengths))
    assert wanted < left and lengths == windows

    ends = list(itertools.accumulate(lengths))
    fixed = [len(still_in(still, end - w, end - 1)) if w > 1 else 0 for end, w in zip(ends, lengths)]
    sizes = [[count] + [12 - count] * w for count, w in zip(fixed, lengths)]
    shares = share_out(wanted, [sum(one) for one in sizes], [1] * len(sizes))

    def deal(window: int) -> list[int]:
        return share_out(shares[window], sizes[window])

    compare(merged, *outer(video, 0.65, lengths, deal, contextual))


def test_a_budget_beyond_the_merge_over_time_undoes_its_weakest_links() -> None:
    """Two positions in four frames that all stand still: the less alike neighbours part first."""
    angle = torch.tensor([[0.0, 0.0], [0.1, 0.3], [0.3, 0.4], [0.35, 0.45]])
    x = torch.stack([angle.cos(), angle.sin()], dim=-1)  # steps .1 .2 .05 and .3 .1 .05
    video = make_video(4, 2, 2)
    for budget, joins in [
        (2, [0, 1, 0, 1, 0, 1, 0, 1]),
        (3, [0, 1, 0, 3, 0, 3, 0, 3]),
        (4, [0, 1, 0, 3, 4, 3, 4, 3]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ]:
        given = type(video)(x, 1, 2, budget, video.tower)
        cells = sorted(set(joins))
        values = {c: x.view(8, 2)[torch.tensor(joins) == c].double().mean(0) for c in cells}
        compare(methods.get("holitom").merge(given), values, joins)


def test_what_stands_still_is_left_alone_without_a_budget_to_meet() -> None:
    """A still picture of 8 frames has an eighth of its tokens left, which is below the published share of 0.5."""
    video = make_video(8, 10, change=0.0)
    merged = methods.get("holitom", keep=0.5).merge(video)
    torch.testing.assert_close(merged.features, video.features[0])
    assert merged.assignment.tolist() == list(range(10)) * 8


def choosing(quota: list[int] | None, hidden: torch.Tensor, video: list[int], scores: list[float]) -> Choosing:
    """Tokens whose attention from the last row ranks as `scores` do; a text token before and one behind them."""
    queries = torch.ones(2, 1, 1)
    keys = torch.tensor([0.0, *scores, 0.0]).view(1, -1, 1)
    visual = torch.tensor([False, *[True] * len(scores), False])
    rows = torch.tensor([len(scores) + 1])
    attention = Attention(-queries, -keys * 0, visual, rows, lambda: (queries, keys))
    videos = torch.tensor(video)
    cells = [video.count(one) for one in sorted(set(video))]
    return Choosing(attention, 0, torch.zeros_like(videos), videos, videos, cells, quota, hidden, hidden[:1])


@pytest.mark.parametrize("quota", [None, [3, 2], [1, 5], [0, 4], [6, 5]])
def test_inner_merge_equals_loops(quota: list[int] | None) -> None:
    make = torch.Generator().manual_seed(4)
    hidden = torch.randn(11, 5, generator=make)
    scores = torch.randn(11, generator=make).tolist()
    video = [0] * 6 + [1] * 5
    choice = methods.get("holitom").choose(choosing(quota, hidden, video, scores))
    order = ranked(scores)
    if quota is None:
        kept = sorted(order[: round(11 * 0.5)])
    else:
        kept = sorted(i for v in (0, 1) for i in [j for j in order if video[j] == v][: quota[v]])
    assert choice.kept.tolist() == kept
    for i, target in enumerate(choice.target.tolist()):
        same = [j for j in kept if video[j] == video[i]]
        if i in kept:
            assert target == i
        else:
            assert target == max(same, key=lambda j: cosine(hidden[i], hidden[j]), default=-1)
    assert ranked(choice.scores.tolist()) == order
