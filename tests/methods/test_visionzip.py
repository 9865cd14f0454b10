# SPDX-License-Identifier: Apache-2.0
"""VisionZip against plain loops."""

from __future__ import annotations

import pytest
import torch

from methods.tower_videos import cosine, make_video, ranked
from prunevid import methods


def frame(x: torch.Tensor, a: list[float], keys: torch.Tensor, dominant: int, contextual: int):
    """One frame by loops: the tokens {cell: vector}, and the cell that each cell joins."""
    metric = keys.double().mean(1)
    best = ranked(a)[:dominant]
    tokens = {i: x[i].double() for i in best}
    joins = [i if i in best else -1 for i in range(len(a))]
    rest = [i for i in range(len(a)) if i not in best]
    targets = [rest[-(-i * len(rest) // contextual)] for i in range(contextual)]
    if targets:
        for i in rest:
            joins[i] = i if i in targets else max(targets, key=lambda t: (cosine(metric[i], metric[t]), -t))
    for target in targets:
        others = [x[i].double() for i in rest if joins[i] == target and i != target]
        tokens[target] = x[target].double() + (sum(others) / len(others) if others else 0)
    return tokens, joins


@pytest.mark.parametrize(
    ("positions", "budget", "options", "dominant", "contextual"),
    [
        (20, None, {}, 6, 1),
        (20, None, {"dominant": 0.5, "contextual": 0.5}, 10, 10),
        (1, None, {}, 1, 0),
        (20, 3, {}, 1, 0),
        (20, 21, {"dominant": 0.1, "contextual": 0.2}, 2, 5),
        (20, 39, {}, 11, 2),
        (20, 60, {}, 17, 3),
    ],
)
def test_equals_loops(positions: int, budget: int | None, options: dict, dominant: int, contextual: int) -> None:
    video = make_video(3, positions, budget=budget, seed=dominant)
    found = [
        frame(x, a, keys, dominant, contextual)
        for x, a, keys in zip(video.features, video.tower.salience.tolist(), video.tower.keys)
    ]
    merged = methods.get("visionzip", **options).merge(video)
    cells = [t * positions + i for t, (tokens, _) in enumerate(found) for i in sorted(tokens)]
    assert merged.representative.tolist() == cells
    values = torch.stack([tokens[i] for tokens, _ in found for i in sorted(tokens)]).float()
    torch.testing.assert_close(merged.features, values, rtol=1e-5, atol=1e-5)
    joins = [j if j < 0 else cells.index(t * positions + j) for t, (_, row) in enumerate(found) for j in row]
    assert merged.assignment.tolist() == joins


@pytest.mark.parametrize("budget", range(1, 41))
def test_no_part_shrinks_when_the_budget_grows(budget: int) -> None:
    """Frames and their dominant tokens, of 2 x 20."""
    sizes = []
    for allowed in (budget, min(40, budget + 1)):
        merged = methods.get("visionzip").merge(make_video(2, 20, budget=allowed))
        sizes.append(torch.bincount(merged.group, minlength=2))
    assert (sizes[1] >= sizes[0]).all()
