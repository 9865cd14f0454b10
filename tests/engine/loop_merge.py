# SPDX-License-Identifier: Apache-2.0
"""Stage 1 in plain loops, from `docs/algorithm.md`: slow and readable, for the engine's reference only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Token:
    """One merged token: the flat cells it averages, the cell whose position it takes, and its group."""

    members: tuple[int, ...]
    representative: int
    group: tuple[int, ...]  # (scene, -1) static, (scene, frame) dynamic


def dpc_knn(points: Tensor, clusters: int, k: int) -> tuple[list[int], list[int]]:
    """Density peaks: labels of the n points (n, C), and the centres in rank order (both as Python lists)."""
    points = points.double()
    n = len(points)
    distance = [[float((a - b).norm()) / points.shape[1] ** 0.5 for b in points] for a in points]
    density = []
    for row in distance:
        nearest = sorted(row)[: min(k, n)]
        density.append(-sum(d * d for d in nearest) / len(nearest))  # exp() keeps the order
    largest = max(max(row) for row in distance)
    delta = []
    for i in range(n):
        denser = [distance[i][j] for j in range(n) if density[j] > density[i]]
        delta.append(min(denser) if denser else largest)
    score = [float(torch.tensor(density[i], dtype=torch.float64).exp()) * delta[i] for i in range(n)]
    centres = sorted(range(n), key=lambda i: (-score[i], i))[:clusters]
    labels = []
    for i in range(n):
        if i in centres:
            labels.append(centres.index(i))
        else:
            labels.append(min(range(len(centres)), key=lambda c: (distance[i][centres[c]], c)))
    return labels, centres


def _runs(labels: list[int | None]) -> list[tuple[int | None, int, int]]:
    """(label, start, end) of the maximal runs of equal labels."""
    runs, start = [], 0
    for label, frames in itertools.groupby(labels):
        length = len(list(frames))
        runs.append((label, start, start + length))
        start += length
    return runs


def refine(raw: list[int]) -> list[int]:
    """Frame labels to contiguous scenes: only each cluster's longest runs stay, gaps join a neighbour."""
    labels: list[int | None] = [None] * len(raw)
    runs = _runs(list(raw))
    for cluster in set(raw):
        own = [(start, end) for label, start, end in runs if label == cluster]
        longest = max(end - start for start, end in own)
        for start, end in own:
            if longest > 1 and end - start == longest:
                labels[start:end] = [cluster] * longest
    if all(label is None for label in labels):
        return [0] * len(raw)
    while any(label is None for label in labels):
        runs = _runs(labels)
        at = next(i for i, run in enumerate(runs) if run[0] is None)
        left = runs[at - 1] if at > 0 else None
        right = runs[at + 1] if at + 1 < len(runs) else None
        left_length = left[2] - left[1] if left else -1
        right_length = right[2] - right[1] if right else -1
        winner = left if left_length >= right_length else right
        assert winner is not None
        labels[runs[at][1] : runs[at][2]] = [winner[0]] * (runs[at][2] - runs[at][1])
    return [label for label in labels if label is not None]


def _reduce(features: Tensor, ratio: float, k: int) -> list[tuple[list[int], int]]:
    """Clusters of one set (n, C): (members, centre) of each, in rank order; untouched up to 14 tokens."""
    n = len(features)
    if n <= 14:
        return [([i], i) for i in range(n)]
    labels, centres = dpc_knn(features, int(n * ratio), k)
    return [([i for i in range(n) if labels[i] == c], centre) for c, centre in enumerate(centres)]


def merge(
    features: Tensor, tau: float, cluster_ratio: float, segment_ratio: float, k: int, static_frame: str
) -> tuple[Tensor, list[Token], list[int]]:
    """Merges a video (T, N, C): features (n, C), tokens in published order, and the scenes' lengths."""
    frames, cells, _ = features.shape
    count = max(1, int(frames * segment_ratio))
    labels, _ = dpc_knn(features.float().mean(1), count, k)
    scenes = [(start, end) for _, start, end in _runs(list(refine(labels)))]
    merged: list[Tensor] = []
    tokens: list[Token] = []
    for scene, (start, end) in enumerate(scenes):
        width = end - start
        shown = start + (width // 2 if static_frame == "middle" else 0)
        still = [n for n in range(cells) if width > 1 and _similarity(features[start:end, n]) > tau]
        if still:
            means = torch.stack([features[start:end, n].float().mean(0) for n in still])
            for members, centre in _reduce(means, cluster_ratio, k):
                flat = tuple(t * cells + still[m] for t in range(start, end) for m in members)
                merged.append(means[members].mean(0))
                tokens.append(Token(flat, shown * cells + still[centre], (scene, -1)))
        moving = [n for n in range(cells) if n not in still]
        for t in range(start, end):
            if not moving:
                continue
            own = features[t, moving].float()
            for members, centre in _reduce(own, cluster_ratio, k):
                flat = tuple(t * cells + moving[m] for m in members)
                merged.append(own[members].mean(0))
                tokens.append(Token(flat, t * cells + moving[centre], (scene, t)))
    return torch.stack(merged).to(features.dtype), tokens, [end - start for start, end in scenes]


def _similarity(vectors: Tensor) -> float:
    """Mean cosine over the ordered pairs t != u of (w, C)."""
    units = torch.nn.functional.normalize(vectors.double(), dim=-1)
    pairs = [float(units[t] @ units[u]) for t in range(len(units)) for u in range(len(units)) if t != u]
    return sum(pairs) / len(pairs)
