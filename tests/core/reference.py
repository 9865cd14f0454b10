# SPDX-License-Identifier: Apache-2.0
"""The method of docs/algorithm.md as plain loops: slow where it must be, short, and readable beside the page.

Nothing here is shared with the package: the tests hold the batched code against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor


@dataclass
class Merged:
    """What `merge` returns; the fields are those of `prunevid.core.MergedVideo`."""

    features: Tensor
    assignment: Tensor
    representative: Tensor
    group: Tensor
    scene_lengths: list[int]
    static_sizes: list[int] = field(default_factory=list)
    dynamic_sizes: list[int] = field(default_factory=list)


def distances(tokens: Tensor, exact: bool) -> Tensor:
    """(n, C) -> (n, n): euclidean / sqrt(C); `exact` subtracts in float64, else a matrix product in float32."""
    if exact:
        tokens = tokens.double()
        return torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / tokens.shape[1] ** 0.5
    tokens = tokens.float()
    return torch.cdist(tokens, tokens) / tokens.shape[1] ** 0.5


def dpc(tokens: Tensor, clusters: int, k: int, exact: bool = True) -> tuple[Tensor, Tensor]:
    """(n, C) -> labels (n,) in the order of the centres' scores, and the centres' indices (clusters,)."""
    d = distances(tokens, exact)
    k = min(k, len(tokens))
    nearest = d.topk(k, dim=1, largest=False).values
    density = (-(nearest**2).mean(1)).exp()
    denser = density[None, :] > density[:, None]
    delta = torch.where(denser, d, d.max()).amin(1)
    delta = torch.where(denser.any(1), delta, d.max())
    centres = (density * delta).sort(descending=True, stable=True).indices[:clusters]
    labels = d[:, centres].argmin(1)
    labels[centres] = torch.arange(clusters)
    return labels, centres


def longest_runs(labels: list[int]) -> list[int | None]:
    """Keep every label on its longest runs (of two frames or more) and take it away elsewhere."""
    runs, start = [], 0
    for label, members in groupby(labels):
        length = len(list(members))
        runs.append((label, start, length))
        start += length
    kept: list[int | None] = [None] * len(labels)
    for label, start, length in runs:
        longest = max(other for name, _, other in runs if name == label)
        if length == longest and length > 1:
            kept[start : start + length] = [label] * length
    return kept


def run_length(labels: list[int | None], index: int, step: int) -> int:
    """How many frames from `index` on, in the direction `step`, carry the label that `index` carries."""
    length = 0
    while 0 <= index < len(labels) and labels[index] is not None and labels[index] == labels[index - step * length]:
        index, length = index + step, length + 1
    return length


def refine(labels: list[int]) -> list[int]:
    """Cluster labels of the frames -> labels whose runs are the scenes."""
    found = longest_runs(labels)
    if all(label is None for label in found):
        return [0] * len(labels)
    i = 0
    while i < len(found):
        if found[i] is not None:
            i += 1
            continue
        end = i
        while end < len(found) and found[end] is None:
            end += 1
        left = run_length(found, i - 1, -1) if i > 0 else 0
        right = run_length(found, end, 1) if end < len(found) else 0
        found[i:end] = [found[i - 1] if left >= right else found[end]] * (end - i)
        i = end
    return [label for label in found if label is not None]


def scene_lengths(frames: Tensor, segment_ratio: float, k: int, exact: bool = True) -> list[int]:
    """(T, C) -> the lengths of the scenes."""
    count = len(frames)
    labels, _ = dpc(frames, max(1, int(count * segment_ratio)), k, exact)
    return [len(list(members)) for _, members in groupby(refine(labels.tolist()))]


def similarity(scene: Tensor, exact: bool = True) -> Tensor:
    """(w, N, C) -> (N,): the mean cosine over the ordered pairs of different frames."""
    w = len(scene)
    unit = torch.nn.functional.normalize(scene.float(), dim=-1)
    if exact:
        cosines = torch.einsum("tnc,unc->ntu", unit, unit)
        pairs = cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)
    else:
        pairs = unit.sum(0).square().sum(-1) - w
    return pairs / (w * (w - 1))


def merge(
    features: Tensor,
    tau: float = 0.8,
    cluster_ratio: float = 0.5,
    segment_ratio: float = 0.25,
    k: int = 7,
    static_frame: str = "first",
    exact: bool = True,
) -> Merged:
    """(T, N, C) -> the merged video, set by set; without `exact` by the quicker of equal ways."""
    frames, positions, _ = features.shape
    lengths = scene_lengths((features.double() if exact else features.float()).mean(1), segment_ratio, k, exact)
    merged: list[Tensor] = []
    assignment = torch.full((frames, positions), -1)
    representative: list[int] = []
    group: list[int] = []
    result = Merged(features, assignment, assignment, assignment, lengths)

    def mean(rows: Tensor) -> Tensor:
        """Over the first axis; in float64, so that rounding can't tell equal columns apart."""
        return rows.double().mean(0).float() if exact else rows.mean(0)

    def add_set(tokens: Tensor, cells: Tensor, frame: int, where: Tensor) -> int:
        """One set: tokens (n, C), the frames its cells lie in, the frame that stands for it, its positions."""
        size = len(tokens)
        if size > 14:
            count = max(1, int(size * cluster_ratio))
            labels, centres = dpc(tokens, count, k, exact)
        else:
            count, labels, centres = size, torch.arange(size), torch.arange(size)
        assignment[cells[:, None], where] = labels + len(group)
        if count:
            sums = torch.zeros(count, tokens.shape[1]).index_add_(0, labels, tokens)
            merged.append(sums / labels.bincount(minlength=count)[:, None])
            representative.extend((frame * positions + where[centres]).tolist())
            group.extend([group[-1] + 1 if group else 0] * count)
        return count

    start = 0
    for w in lengths:
        scene = features[start : start + w].float()
        static = similarity(scene, exact) > tau if w > 1 else torch.zeros(positions, dtype=torch.bool)
        still, moving = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
        span = torch.arange(start, start + w)
        middle = start + (w // 2 if static_frame == "middle" else 0)
        result.static_sizes.append(add_set(mean(scene[:, still]), span, middle, still))
        result.dynamic_sizes.append(
            sum(add_set(scene[t, moving], span[t : t + 1], start + t, moving) for t in range(w))
        )
        start += w
    result.features = torch.cat(merged).to(features.dtype)
    result.assignment = assignment.flatten()
    result.representative = torch.tensor(representative)
    result.group = torch.tensor(group)
    return result


def question_scores(queries: Tensor, keys: Tensor, visual: Tensor, aggregation: str = "max", key_mask=None) -> Tensor:
    """Queries (H, q, d), keys (H_kv, S, d), visual (S,) -> (n_visual,), with the full map."""
    keys = keys.repeat_interleave(len(queries) // len(keys), dim=0)
    logits = queries.float() @ keys.float().transpose(1, 2) / math.sqrt(queries.shape[-1])
    if key_mask is not None:
        logits = logits.masked_fill(~key_mask, -math.inf)
    attention = logits.softmax(-1).nan_to_num(0.0)[:, :, visual]
    return attention.amax((0, 1)) if aggregation == "max" else attention.mean((0, 1))


def peak_scores(scores: Tensor, features: Tensor) -> list[float]:
    """Score times distance to the nearest token with a higher score, in float64."""
    values = [max(0.0, float(score)) for score in scores]
    centred = features.double() - features.double().mean(0)
    found = []
    for i, value in enumerate(values):
        nearest = 2.0
        for j, other in enumerate(values):
            if other > value or (other == value and j < i):
                lengths = float(centred[i].norm() * centred[j].norm())
                alike = float(centred[i] @ centred[j]) / lengths if lengths else 0.0
                nearest = min(nearest, 1 - alike)
        found.append(value * nearest)
    return found


def select_by_group(scores: Tensor, group: Tensor, keep_ratio: float) -> list[int]:
    """The ascending indices of the kept tokens, group by group."""
    kept: list[int] = []
    for name in set(group.tolist()):
        members = [i for i, other in enumerate(group.tolist()) if other == name]
        members.sort(key=lambda i: (-float(scores[i]), i))
        kept += members[: int(keep_ratio * len(members))]
    return sorted(kept)
