# SPDX-License-Identifier: Apache-2.0
"""The cells of a video by scene: how they are laid out, what is static, and means over runs of them.

Passes over all features run in float32, by slices that bound the copy where the input is narrower; a usual
video is one slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from prunevid.core._tensors import upload

# Numbers in one float32 copy of a part of the features: 256 MiB.
_SLICE_ELEMENTS = 2**26


@dataclass(frozen=True)
class SceneCells:
    """The cells of a video, and how they lie when sorted by scene, position and frame.

    Attributes:
        cells: (T * N, C), the features: float32 where a copy of that size is allowed, else as they came.
        lengths: frames of each scene.
        scene_of_frame: (T, 1) int64.
        positions: (N,) int64, 0, 1, … N - 1.
        members: (T * N,) int64, the cells sorted: a run for each scene and position.
        runs: (S * N,) int64, where each run begins in `members`.
    """

    cells: Tensor
    lengths: list[int]
    scene_of_frame: Tensor
    positions: Tensor
    members: Tensor
    runs: Tensor


def in_float32(cells: Tensor) -> Tensor:
    """The same in float32, unless the copy would be too large: then as they are, for others to take by slices."""
    return cells.float() if cells.numel() <= _SLICE_ELEMENTS else cells


def frame_means_and_norms(cells: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Cells (T*N, C) -> the means of the frames (T, C) and the norms of the cells (T*N,), both float32."""
    rows = len(cells)
    if cells.dtype != torch.float32:
        rows = min(rows, max(1, _SLICE_ELEMENTS // (positions * cells.shape[1])) * positions)
    means, norms = [], []
    for part in cells.split(rows) if rows < len(cells) else [cells]:
        part = part.float()
        # Bags, because a plain mean may add up equal frames in different orders, one per thread.
        members = torch.arange(len(part), device=part.device)
        bags = torch.arange(0, len(part), positions, device=part.device)
        means.append(torch.embedding_bag(part, members, bags, mode=1)[0])
        norms.append(torch.linalg.vector_norm(part, dim=1))
    return (means[0], norms[0]) if len(means) == 1 else (torch.cat(means), torch.cat(norms))


def lay_out(cells: Tensor, lengths: list[int], positions: int) -> SceneCells:
    """Sort the cells by scene, position and frame."""
    begins = [end - length for end, length in zip(accumulate(lengths), lengths)]
    columns = [
        [scene for scene, length in enumerate(lengths) for _ in range(length)],
        lengths,
        [begin * positions for begin in begins],
    ]
    numbers = upload([value for column in columns for value in column], cells.device, torch.int64)
    of_frame, frames, first_cell = numbers.unsqueeze(1).split([len(column) for column in columns])
    position = torch.arange(positions, device=cells.device)
    members = (of_frame * positions + position).flatten().sort(stable=True).indices
    runs = (position * frames + first_cell).flatten()
    return SceneCells(cells, lengths, of_frame, position, members, runs)


def bag_means(cells: Tensor, members: Tensor, bags: Tensor, dtype: torch.dtype) -> Tensor:
    """Means of runs of cells, taken in float32, or in the dtype of the cells where that is wider.

    Args:
        cells: (rows, C).
        members: indices of cells, bag after bag.
        bags: (b,), where each bag begins in `members`.
        dtype: of the result.

    Returns:
        (b, C). A bag of one is its member, bit for bit.
    """
    if cells.dtype in (torch.float32, torch.float64):
        return torch.embedding_bag(cells, members, bags, mode=1)[0].to(dtype)
    means = cells.new_empty((len(bags), cells.shape[1]), dtype=dtype)
    for part in _slices(cells):
        means[:, part] = torch.embedding_bag(cells[:, part].float(), members, bags, mode=1)[0]
    return means


def _slices(cells: Tensor) -> list[slice]:
    """Slices of the channels, so that one slice of all cells in float32 stays within bounds."""
    step = max(1, _SLICE_ELEMENTS // len(cells))
    return [slice(i, i + step) for i in range(0, cells.shape[1], step)]


def mean_unit_norms(scenes: SceneCells, norms: Tensor) -> Tensor:
    """(S, N) float32: the norm of the sum of a position's unit vectors over the frames of a scene.

    With w frames and the unit vectors u, the sum of the cosines over pairs t != u is |sum of u|^2 - w: the
    pairwise cosines without the pairs. A vector of norm 0 has no direction and counts as unlike every other.
    """
    weights = norms.clamp_(min=torch.finfo(torch.float32).tiny).reciprocal_()[scenes.members]
    slices = _slices(scenes.cells)
    parts = []
    for part in slices:
        cells = scenes.cells if len(slices) == 1 else scenes.cells[:, part]
        sums = torch.embedding_bag(cells.float(), scenes.members, scenes.runs, mode=0, per_sample_weights=weights)
        parts.append(torch.linalg.vector_norm(sums[0], dim=1))
    total = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return total.view(len(scenes.lengths), -1)


def _static_bounds(lengths: list[int], tau: float, device: torch.device) -> Tensor:
    """(S, 1): what `mean_unit_norms` must exceed for the mean pairwise cosine to exceed tau."""
    bounds = []
    for length in lengths:
        square = length + tau * length * (length - 1)
        never = length == 1 or tau >= 1  # one frame has no pairs; rounding may lift a cosine above 1
        bounds.append(math.inf if never else math.sqrt(square) if square >= 0 else -1.0)
    return upload(bounds, device, torch.float32).unsqueeze(1)


def static_positions(scenes: SceneCells, norms: Tensor, tau: float, budget: int | None = None) -> Tensor:
    """(S, N) bool: True where the mean pairwise cosine over the frames of a scene exceeds tau.

    With a budget of tokens that so many static positions could not fill, the least similar of them count as dynamic.
    """
    sums = mean_unit_norms(scenes, norms)
    static = sums > _static_bounds(scenes.lengths, tau, scenes.cells.device)
    return static if budget is None else _loosen(static, sums, scenes, budget)


def _loosen(static: Tensor, sums: Tensor, scenes: SceneCells, budget: int) -> Tensor:
    """Takes the least similar static positions out until the tokens that are left before clustering suffice.

    A position that is static in a scene of w frames is one token, otherwise w.
    """
    frames = upload(scenes.lengths, sums.device, torch.int64).unsqueeze(1).expand_as(static)
    cosine = (sums.square() - frames) / (frames * (frames - 1)).clamp(min=1)
    order = torch.where(static, cosine, torch.inf).flatten().sort(stable=True).indices
    gain = torch.where(static, frames - 1, 0).flatten()[order]
    lacking = budget - (len(scenes.cells) - gain.sum())
    before = gain.cumsum(0) - gain
    loose = torch.zeros_like(static).flatten()
    loose[order] = before < lacking
    return static & ~loose.view_as(static)
