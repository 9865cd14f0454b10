# SPDX-License-Identifier: Apache-2.0
"""DPC-KNN: density-peak clustering with k nearest neighbours, many sets at a time (docs/algorithm.md, "DPC-KNN").

The sets of a batch may differ in size: a smaller set is padded behind its members with copies of one of them, so that
distances stay finite and the largest distance of the set stays what it is; `SetSizes` says what is padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid.core._tensors import check_count, check_floats, plain, read, upload
from prunevid.errors import InputError

# Up to here distances are taken by subtraction, which loses no digits; beyond, by one matrix product.
_DIRECT_POINTS = 256


@dataclass(frozen=True)
class SetSizes:
    """Sizes and cluster counts of the b sets of a batch.

    Attributes:
        most_clusters: the largest cluster count.
        smallest: the smallest set size.
        sizes: (b, 1, 1) int64, or None where every set fills the whole width.
        clusters: (b, 1, 1) int64, or None where every set has `most_clusters`.
    """

    most_clusters: int
    smallest: int
    sizes: Tensor | None = None
    clusters: Tensor | None = None


def squared_distances(gram: Tensor) -> Tensor:
    """Inner products (b, n, n) -> squared euclidean distances (b, n, n).

    The squared norms are read from the diagonal, so that equal tokens are exactly 0 apart.
    """
    norms = gram.diagonal(dim1=1, dim2=2).unsqueeze(2)
    return (norms + norms.mT).add_(gram, alpha=-2).clamp_(min=0)


def pairwise_squared(points: Tensor) -> Tensor:
    """Points (b, n, C) float32 -> squared euclidean distances (b, n, n), with care for near-equal points."""
    if points.shape[1] <= _DIRECT_POINTS:
        return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square_()
    points = points - points[:, :1]  # what all points share would only cost digits
    return squared_distances(torch.bmm(points, points.mT))


def density_peaks(
    squared: Tensor, channels: int, k: int, shape: SetSizes, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cluster every set of a batch.

    Args:
        squared: (b, w, w) squared distances; overwritten.
        channels: C of the tokens that the distances were taken of.
        k: neighbours, the point itself included.
        shape: how many members and clusters each set has.
        seed: draw the centres by lots of this seed, which do not depend on the device; None: by density.

    Returns:
        Labels (b, w), numbered by the rank of the cluster's centre (0 = highest score), and the centres (b, m, 1)
        as indices into the set, m = shape.most_clusters. What stands at padding, or beyond a set's own count of
        clusters, means nothing.
    """
    width = squared.shape[1]
    uneven = shape.sizes is not None or shape.clusters is not None
    ramp = torch.arange(width, device=squared.device).unsqueeze(1) if uneven else None
    padding = None if ramp is None or shape.sizes is None else ramp >= shape.sizes
    score = _peaks(squared, channels, k, shape, padding) if seed is None else _lots(squared, seed, padding)
    centres = score.sort(dim=1, descending=True, stable=True).indices[:, : shape.most_clusters]
    squared.diagonal(dim1=1, dim2=2).fill_(-1)  # a centre joins itself, also where another lies at distance 0
    to_centres = squared.gather(1, centres.expand(-1, -1, width))
    if ramp is not None and shape.clusters is not None:
        to_centres.masked_fill_(ramp[: shape.most_clusters] >= shape.clusters, math.inf)
    return to_centres.argmin(1), centres


def _peaks(squared: Tensor, channels: int, k: int, shape: SetSizes, padding: Tensor | None) -> Tensor:
    """(b, w, 1): density times separation, below 0 at padding; `squared` is infinite there afterwards."""
    largest = squared.amax((1, 2), keepdim=True)
    if padding is not None:
        squared.masked_fill_(padding.mT, math.inf)
    density = _mean_of_nearest(squared, k, shape).mul_(-1 / channels).exp_()
    if padding is not None:
        density.masked_fill_(padding, -1)  # below every density: nobody's denser neighbour, never a centre
    delta = squared.masked_fill(density.mT <= density, math.inf).amin(2, keepdim=True)
    # No distance exceeds the largest, so the minimum only replaces the infinity of the points of highest density.
    return torch.minimum(delta, largest).sqrt_().mul_(density)


def _lots(squared: Tensor, seed: int, padding: Tensor | None) -> Tensor:
    """(b, w, 1): a number by lot for every member, below 0 at padding; `squared` is infinite there afterwards."""
    lots = torch.rand(*squared.shape[:2], 1, generator=torch.Generator().manual_seed(seed)).to(squared.device)
    if padding is not None:
        squared.masked_fill_(padding.mT, math.inf)
        lots.masked_fill_(padding, -1)
    return lots


def _mean_of_nearest(squared: Tensor, k: int, shape: SetSizes) -> Tensor:
    """(b, w, w), padding infinite -> (b, w, 1): mean of the k smallest of each row, or of all where a set has fewer."""
    nearest = squared.topk(min(k, squared.shape[1]), dim=2, largest=False, sorted=False).values
    if shape.sizes is None or k <= shape.smallest:
        return nearest.mean(2, keepdim=True)
    total = nearest.masked_fill_(nearest.isinf(), 0).sum(2, keepdim=True)
    return total / shape.sizes.clamp(max=k)


@plain
def dpc_knn(tokens: Tensor, num_clusters: int | Sequence[int], k: int = 7, mask: Tensor | None = None) -> Tensor:
    """Density-peak clustering with k nearest neighbours (docs/algorithm.md, "DPC-KNN"; Du et al., 2016).

    Deterministic: no noise on the density, ties go to the lower index. Without `mask` the host waits for nothing; with
    it, it reads the set sizes once.

    Args:
        tokens: (n, C), or (b, n, C) for b sets.
        num_clusters: clusters to make, from 1 to the size of the set; one number, or one for each set.
        k: neighbours that make the density, the point itself included; capped at the size of the set.
        mask: (b, n) or (n,) bool, True where there is a token; None for all.

    Returns:
        int64 labels (n,) or (b, n): the clusters are numbered by the score of their centres, highest first; -1
        where the mask is False.

    Raises:
        InputError: a wrong shape, or a set without a token.
        ConfigError: num_clusters or k out of range.
    """
    single = tokens.dim() == 2
    check_floats("tokens", tokens, "n, C" if single else "b, n, C")
    check_count("k", k, 1)
    points = (tokens.unsqueeze(0) if single else tokens).float()
    batch, width, channels = points.shape
    counts = [num_clusters] * batch if isinstance(num_clusters, int) else list(num_clusters)
    if len(counts) != batch:
        raise InputError(f"num_clusters has {len(counts)} entries, but there are {batch} sets.")
    if mask is None:
        for count in counts:
            check_count("num_clusters", count, 1, width)
        clusters = None if len(set(counts)) == 1 else upload(counts, points.device, torch.int64).view(-1, 1, 1)
        shape = SetSizes(max(counts), width, clusters=clusters)
        labels, _ = density_peaks(pairwise_squared(points), channels, k, shape)
    else:
        mask = mask.unsqueeze(0) if single and mask.dim() == 1 else mask
        labels = _cluster_masked(points, counts, k, mask)
    return labels[0] if single else labels


def _cluster_masked(points: Tensor, counts: list[int], k: int, mask: Tensor) -> Tensor:
    """Points (b, n, C), mask (b, n) -> labels (b, n), -1 where the mask is False."""
    batch, width, channels = points.shape
    if mask.dtype != torch.bool or mask.shape != (batch, width):
        raise InputError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, but must be bool of shape {(batch, width)}."
        )
    sizes = mask.sum(1)
    listed = read(sizes)
    if min(listed) == 0:
        raise InputError(f"The mask of set {listed.index(0)} is False everywhere, but a set needs one token at least.")
    for count, size in zip(counts, listed):
        check_count("num_clusters", count, 1, size)
    order = mask.sort(dim=1, descending=True, stable=True).indices
    last = (sizes - 1).unsqueeze(1)
    ramp = torch.arange(width, device=points.device)
    members = order.gather(1, torch.minimum(ramp, last))
    points = points.gather(1, members.unsqueeze(2).expand(-1, -1, channels))
    shape = SetSizes(
        max(counts),
        min(listed),
        sizes.view(-1, 1, 1),
        upload(counts, points.device, torch.int64).view(-1, 1, 1),
    )
    labels, _ = density_peaks(pairwise_squared(points), channels, k, shape)
    return torch.empty_like(labels).scatter_(1, order, labels.masked_fill(ramp > last, -1))
