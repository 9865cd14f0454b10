# SPDX-License-Identifier: Apache-2.0
"""PruMerge and PruMerge+ against plain loops, and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from methods.tower_videos import cosine, make_video, ranked
from prunevid import methods
from prunevid.methods import TowerView, Video


def outliers(weights: list[float], whisker: float = 1.5, fallback: float = 0.125) -> int:
    """How many weights stand out of their quartiles (linear between ranks), or the fallback."""
    ordered = sorted(weights)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    low, high = quantile(0.25), quantile(0.75)
    found = sum(weight > high + whisker * (high - low) for weight in weights)
    return found or max(1, int(len(weights) * fallback))


def frame(x: torch.Tensor, a: list[float], keys: torch.Tensor, kept: list[int], extra: bool, near: int):
    """One frame by loops: the tokens {cell: vector}, and the cell that each cell joins."""
    tokens, joins = {}, [-1] * len(a)
    flat = keys.flatten(1)
    for i in kept:
        others = [j for j in range(len(a)) if j != i]
        others.sort(key=lambda j: (-cosine(flat[i], flat[j]), j))
        tokens[i] = x[i].double() + sum(a[j] * x[j].double() for j in others[:near])
        joins[i] = i
    gone = [j for j in range(len(a)) if j not in kept]
    if extra and gone:
        stand = max(gone, key=lambda j: (a[j], -j))
        tokens[stand] = sum(a[j] * x[j].double() for j in gone)
        for j in gone:
            joins[j] = stand
    return tokens, joins


def compare(video: Video, merged, frames: list) -> None:
    """`frames`: what `frame` returns for each."""
    count = video.features.shape[1]
    cells = [t * count + i for t, (tokens, _) in enumerate(frames) for i in sorted(tokens)]
    assert merged.representative.tolist() == cells
    values = [tokens[i] for tokens, _ in frames for i in sorted(tokens)]
    torch.testing.assert_close(merged.features, torch.stack(values).float(), rtol=1e-5, atol=1e-5)
    joins = [j if j < 0 else cells.index(t * count + j) for t, (_, found) in enumerate(frames) for j in found]
    assert merged.assignment.tolist() == joins


def grid(count: int, kept: int) -> set[int]:
    """Places of the regular samples."""
    return set(range(0, count, max(1, count // kept // 3)))


def spaced(free: list[int], count: int) -> list[int]:
    """So many of the free places, evenly spaced from the first on."""
    return [free[-(-i * len(free) // count)] for i in range(count)]


@pytest.mark.parametrize("near", [3, 32])
@pytest.mark.parametrize("positions", [1, 7, 24, 48])
@pytest.mark.parametrize("name", ["prumerge", "prumerge+"])
def test_adaptive_equals_loops(name: str, positions: int, near: int) -> None:
    video = make_video(3, positions, seed=positions)
    expected = []
    for x, a, keys in zip(video.features, video.tower.salience.tolist(), video.tower.keys):
        count = outliers(a)
        kept = set(ranked(a)[:count])
        if name == "prumerge+":
            kept |= grid(positions, count)
        expected.append(frame(x, a, keys, sorted(kept), True, near))
    compare(video, methods.get(name, neighbours=near).merge(video), expected)


@pytest.mark.parametrize("share", [1, 2, 5, 11, 12])
@pytest.mark.parametrize("name", ["prumerge", "prumerge+"])
def test_a_budget_equals_loops(name: str, share: int) -> None:
    """So many tokens of every frame of 12: the kept ones, and one more of what is dropped."""
    video = make_video(3, 12, budget=3 * share, seed=share)
    count = share - 1 if 1 < share < 12 else share
    expected = []
    for x, a, keys in zip(video.features, video.tower.salience.tolist(), video.tower.keys):
        kept = ranked(a)[:count]
        if name == "prumerge+":
            kept = kept[: max(1, round(count / 4))]
            rest = [i for i in range(12) if i not in kept]
            if count > len(kept):
                kept = sorted(kept + spaced(rest, count - len(kept)))
        expected.append(frame(x, a, keys, kept, share > 1, 4))
    compare(video, methods.get(name, neighbours=4).merge(video), expected)


def test_by_hand() -> None:
    """Four tokens; the second stands out and takes in the last, whose key is the most like its own."""
    features = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.1, 1.0]]).view(1, 4, 1, 2)
    tower = TowerView(torch.tensor([[0.1, 0.6, 0.1, 0.2]]), keys, True)
    merged = methods.get("prumerge", neighbours=1).merge(Video(features, 2, 2, None, tower))
    # kept: 2 + 0.2 * 8; of the dropped: 0.1 * 1 + 0.1 * 4 + 0.2 * 8, at the cell of the weight 0.2
    torch.testing.assert_close(merged.features, torch.tensor([[3.6], [2.1]]))
    assert merged.assignment.tolist() == [1, 0, 1, 1] and merged.representative.tolist() == [1, 3]
