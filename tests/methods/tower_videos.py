# SPDX-License-Identifier: Apache-2.0
"""Made-up videos together with what a vision tower would have computed for them."""

from __future__ import annotations

import torch

from prunevid.methods import TowerView, Video


def make_video(
    frames: int,
    positions: int,
    channels: int = 8,
    budget: int | None = None,
    seed: int = 0,
    change: float = 1.0,
    dtype: torch.dtype = torch.float32,
    heads: int = 2,
    size: int = 5,
) -> Video:
    """A video whose frames come from one picture; `change` says how much each differs from it (0: not at all)."""
    make = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make)

    features = (random(1, positions, channels) + change * random(frames, positions, channels)).to(dtype)
    salience = random(frames, positions).mul(2).softmax(1)
    keys = random(frames, positions, heads, size)
    return Video(features, 1, positions, budget, TowerView(salience, keys, True))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two vectors, in double precision."""
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def ranked(scores: list[float]) -> list[int]:
    """Indices from the highest score to the lowest, the lower index first on a tie."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def peaks(tokens: list[torch.Tensor], count: int, k: int) -> tuple[list[int], list[int]]:
    """Density peaks by loops: the centres' indices by rank, and the centre that each token joins."""
    size = len(tokens)
    channels = len(tokens[0])
    apart = [[float((a.double() - b.double()).norm()) / channels**0.5 for b in tokens] for a in tokens]
    density = []
    for row in apart:
        near = sorted(row)[: min(k, size)]
        density.append(float(torch.tensor(-sum(d * d for d in near) / len(near), dtype=torch.float64).exp()))
    largest = max(max(row) for row in apart)
    delta = [min([apart[i][j] for j in range(size) if density[j] > density[i]], default=largest) for i in range(size)]
    centres = ranked([density[i] * delta[i] for i in range(size)])[:count]
    joins = [i if i in centres else min(centres, key=lambda c: apart[i][c]) for i in range(size)]
    return centres, joins


def segments(features: torch.Tensor, least: int, tau: float) -> list[range]:
    """Cut at the `least` - 1 least similar neighbours, and wherever the cosine of mean frames is below tau."""
    means = features.double().mean(1)
    alike = [cosine(means[t], means[t + 1]) for t in range(len(means) - 1)]
    weak = sorted(range(len(alike)), key=lambda i: (alike[i], i))[: least - 1]
    cuts = [t + 1 for t in range(len(alike)) if t in weak or alike[t] < tau]
    return [range(a, b) for a, b in zip([0, *cuts], [*cuts, len(means)])]
