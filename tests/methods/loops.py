# SPDX-License-Identifier: Apache-2.0
"""Plain loops in double precision that the methods are compared with, and what all their results have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.methods import Video


def make_video(frames: int, height: int, width: int, channels: int, seed: int = 0, budget: int | None = None) -> Video:
    """Frames that resemble each other, with some change."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, height * width, channels, generator=generator)
    moving = torch.randn(frames, height * width, channels, generator=generator)
    return Video(still + 0.7 * moving, height, width, budget)


def cosine(left: list[float], right: list[float]) -> float:
    """Of two vectors."""
    inner = sum(a * b for a, b in zip(left, right))
    return inner / math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))


def mean(vectors: list[list[float]]) -> list[float]:
    """Of some vectors."""
    return [sum(column) / len(vectors) for column in zip(*vectors)]


def kept_cells(merged: MergedVideo) -> list[int]:
    """The cells that a method without merging kept, after checks that it did nothing else."""
    kept = merged.representative.tolist()
    dropped = sorted(set(range(len(merged.assignment))) - set(kept))
    assert merged.assignment[kept].tolist() == list(range(len(kept)))
    assert merged.assignment[dropped].eq(-1).all()
    return kept


def best(scores: dict[int, float], count: int) -> list[int]:
    """The `count` keys of the highest scores, ascending; the lower key wins a tie."""
    return sorted(sorted(scores, key=lambda key: (-scores[key], key))[:count])


def rows(features: Tensor) -> list[list[list[float]]]:
    """(T, N, C) as nested lists."""
    return features.double().tolist()
