# SPDX-License-Identifier: Apache-2.0
"""Which tokens stay (docs/algorithm.md, "Stage 2", step 3, and "Peaks")."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid.core._tensors import check_floats, check_ratio, plain
from prunevid.errors import InputError

# Numbers in the largest table of similarities that is ever made: 64 MiB of float32.
_TABLE_ELEMENTS = 2**24


@plain
def select_by_group(scores: Tensor, group: Tensor, keep_ratio: float) -> Tensor:
    """Keep the int(keep_ratio * size) highest scores of every group; the lower index wins a tie.

    Args:
        scores: (n,) float.
        group: (n,) int64 names of the groups, any numbers in any order.
        keep_ratio: at least 0 and at most 1.

    Returns:
        (kept,) int64: the ascending indices of the kept tokens. The host waits once, for their number.

    Raises:
        InputError: scores and group differ in shape, or are not (n,).
        ConfigError: keep_ratio out of range.
    """
    _check(scores, keep_ratio)
    if group.shape != scores.shape or group.is_floating_point():
        raise InputError(
            f"group is {group.dtype} of shape {tuple(group.shape)}, but must be whole numbers of shape "
            f"{tuple(scores.shape)}, one for each score."
        )
    best_first = scores.sort(descending=True, stable=True).indices
    names, inside = group[best_first].sort(stable=True)
    order = best_first[inside]  # group by group, best first
    first = torch.searchsorted(names, names)
    size = torch.searchsorted(names, names, right=True) - first
    rank = torch.arange(len(names), device=names.device) - first
    keep = torch.empty_like(rank, dtype=torch.bool).scatter_(0, order, rank < _quota(len(names), keep_ratio, size))
    return keep.nonzero().flatten()


@plain
def select_top(scores: Tensor, keep_ratio: float) -> Tensor:
    """Keep the int(keep_ratio * n) highest of all scores; the lower index wins a tie.

    Args:
        scores: (n,) float.
        keep_ratio: at least 0 and at most 1.

    Returns:
        (kept,) int64: the ascending indices of the kept tokens. The host does not wait.

    Raises:
        InputError: scores is not (n,).
        ConfigError: keep_ratio out of range.
    """
    _check(scores, keep_ratio)
    kept = scores.sort(descending=True, stable=True).indices[: int(keep_ratio * len(scores))]
    return kept.sort().values


@plain
def peak_scores(scores: Tensor, features: Tensor) -> Tensor:
    """Scores that are lower for what a better token already shows (ours, not the paper's; docs/algorithm.md, "Peaks").

    Each score is multiplied by the token's distance to the nearest token with a higher score, as DPC multiplies density
    and distance to find peaks. The distance is 1 less the cosine similarity, once the mean of all tokens is taken off.

    Args:
        scores: (n,) float, at least 0; a negative one counts as 0.
        features: (n, C) float, of the same tokens of one video.

    Returns:
        (n,) float32, at least 0. Of equal scores the lower index counts as the higher. The best token, which has none
        above it, is given the greatest distance there is, 2. The host does not wait; n * n * C products.

    Raises:
        InputError: scores is not (n,) float, or features is not (n, C) float.
    """
    _check(scores, 1.0)
    check_floats("features", features, "n, C")
    if len(features) != len(scores):
        raise InputError(f"features is of {len(features)} tokens, but there are {len(scores)} scores; give as many.")
    ordered, order = scores.float().clamp(min=0).sort(descending=True, stable=True)
    directions = features.float()[order]
    directions = torch.nn.functional.normalize(directions - directions.mean(0), dim=1)
    found = torch.empty_like(ordered)
    count = len(ordered)
    step = max(1, _TABLE_ELEMENTS // count)
    for start in range(0, count, step):
        end = min(start + step, count)
        likeness = directions[start:end] @ directions[:end].T
        above = likeness.new_ones(likeness.shape, dtype=torch.bool).tril(start - 1)
        nearest = likeness.masked_fill_(~above, -1.0).amax(1)
        found[start:end] = ordered[start:end] * (1 - nearest).clamp(min=0)
    return torch.empty_like(found).scatter_(0, order, found)


def _check(scores: Tensor, keep_ratio: float) -> None:
    check_ratio("keep_ratio", keep_ratio, zero=True)
    if scores.dim() != 1 or not scores.is_floating_point():
        raise InputError(
            f"scores is {scores.dtype} of shape {tuple(scores.shape)}, but must be floating-point numbers of shape "
            "(n,)."
        )


def _quota(largest: int, keep_ratio: float, size: Tensor) -> Tensor:
    """int(keep_ratio * size) for sizes up to `largest`.

    Python's int() of a product in double precision, from a table that the host makes: not every device has doubles.
    """
    table = (torch.arange(largest + 1, dtype=torch.float64) * keep_ratio).long()
    return table.to(size.device)[size]
