# SPDX-License-Identifier: Apache-2.0
"""What the methods share that decide from the features alone which tokens to drop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._tensors import plain
from prunevid.errors import ConfigError
from prunevid.methods.base import Method, Video

M = TypeVar("M", bound=Method)

# Numbers in one float32 copy of some frames: 256 MiB.
_COPY_ELEMENTS = 2**26


def without_gradients(merge: Callable[[M, Video], MergedVideo]) -> Callable[[M, Video], MergedVideo]:
    """Run a method's `merge` without gradients and outside autocast."""

    @functools.wraps(merge)
    def wrapper(self: M, video: Video) -> MergedVideo:
        return plain(lambda features: merge(self, video))(video.features)

    return wrapper


def check_share(name: str, value: object, *, zero: bool = False) -> None:
    """Raise ConfigError unless value is a number above 0 (or 0, where `zero` allows it) and at most 1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and (0 < value <= 1 or (zero and value == 0))):  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r}, but must be {'at least' if zero else 'above'} 0 and at most 1.")


def check_whole(name: str, value: object, low: int) -> None:
    """Raise ConfigError unless value is a whole number of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} is {value!r}, but must be a whole number of at least {low}.")


def share_of(cells: int, share: float) -> int:
    """The nearest whole number of cells to a share of them, at least 1."""
    return max(1, round(share * cells))


def evenly(count: int, wanted: int, device: torch.device | None = None) -> Tensor:
    """(wanted,) int64, ascending: places among 0 ... count - 1 at equal steps from the first to the last.

    A single one is the middle. `wanted` is at least 1 and at most `count`, so that no place comes twice.
    """
    if wanted == 1:
        return torch.full((1,), (count - 1) // 2, device=device)
    places = torch.arange(wanted, device=device)
    return (2 * places * (count - 1) + wanted - 1).div(2 * (wanted - 1), rounding_mode="floor")  # nearest, in integers


def unit_vectors(features: Tensor) -> Tensor:
    """The same in float32 with norms of 1 along the last axis; a vector of zeros stays one."""
    features = features.float()
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / norms.clamp(min=torch.finfo(torch.float32).tiny)


def distance(left: Tensor, right: Tensor) -> Tensor:
    """1 - cosine, from the difference of unit vectors: exactly 0 for equal tokens, where 1 - cosine would round.

    Args:
        left, right: (..., C) float32, of norm 1; between one of norm 0 and another the distance is 0.5.

    Returns:
        (...), float32, 0 ... 2.
    """
    return (left - right).square().sum(-1) / 2


def change(features: Tensor) -> Tensor:
    """(T, N, C) -> (T - 1, N) float32: 1 - cosine of each token to the one at its place in the frame before.

    Some frames at a time, so that the float32 copies stay within bounds.
    """
    parts = [features.new_empty((0, features.shape[1]), dtype=torch.float32)]
    step = max(1, _COPY_ELEMENTS // features[0].numel())
    for start in range(1, len(features), step):
        tokens = unit_vectors(features[start - 1 : start + step])
        parts.append(distance(tokens[1:], tokens[:-1]))
    return torch.cat(parts)


def change_between(features: Tensor, frames: list[int], others: list[int]) -> Tensor:
    """The same for frames of one's choice: (T, N, C) -> (frames, N) float32, each against one of `others`."""
    parts = [features.new_empty((0, features.shape[1]), dtype=torch.float32)]
    step = max(1, _COPY_ELEMENTS // features[0].numel())
    for start in range(0, len(frames), step):
        left, right = (unit_vectors(features[which[start : start + step]]) for which in (frames, others))
        parts.append(distance(left, right))
    return torch.cat(parts)


def best_in_frames(scores: Tensor, quota: list[int]) -> Tensor:
    """Ascending cells t * N + position of the `quota[t]` highest scores of every frame; the lower place wins a tie.

    Args:
        scores: (T, N) float.
        quota: for each frame, 0 ... N.
    """
    frames, positions = scores.shape
    order = scores.sort(dim=1, descending=True, stable=True).indices
    allowed = torch.tensor(quota, device=scores.device).unsqueeze(1)
    taken = torch.arange(positions, device=scores.device) < allowed
    cells = order + torch.arange(0, frames * positions, positions, device=scores.device).unsqueeze(1)
    return cells[taken].sort().values
