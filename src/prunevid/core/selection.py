# SPDX-License-Identifier: Apache-2.0
"""Which tokens stay (docs/algorithm.md, "Stage 2", step 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid.core._tensors import check_ratio, plain
from prunevid.errors import InputError


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
