# SPDX-License-Identifier: Apache-2.0
"""LLaVA-PruMerge and PruMerge+: keep what stands out, add up what resembles it (docs/methods/prumerge.md)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._tensors import check_count, check_ratio, plain, read, upload
from prunevid.errors import ConfigError
from prunevid.methods.base import Method, TowerRequest, TowerView, Video
from prunevid.methods.budget import share_out
from prunevid.methods.sets import (
    finish,
    frame_chunks,
    pick_best,
    pick_evenly,
    ranks,
    tower_of,
    weighted_sums,
)


@dataclass(frozen=True)
class PruMerge(Method):
    """The method of Shang and others (ICCV 2025, arXiv 2403.15388), frame by frame.

    Attributes:
        neighbours: how many most similar tokens are added to each kept one.
        whisker: a token is kept where its attention exceeds the third quartile by this many interquartile ranges.
        fallback: share of the tokens to keep in a frame where none does.
    """

    name: ClassVar[str] = "prumerge"
    neighbours: int = 32
    whisker: float = 1.5
    fallback: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("neighbours", self.neighbours, 1)
        check_ratio("fallback", self.fallback)
        if not self.whisker >= 0:
            raise ConfigError(f"whisker is {self.whisker}, but must be at least 0.")

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @property
    def tower(self) -> TowerRequest:
        """The last layer, over whole vectors: as the authors take it, the heads are not split."""
        return TowerRequest(layer=-1, split_heads=False)

    def merge(self, video: Video) -> MergedVideo:
        """Slot 1: the kept tokens of each frame, and one token made of all others."""
        frames, positions = video.features.shape[:2]
        tower = tower_of(self.name, video)
        salience = tower.salience.float()
        if video.budget is None:
            kept = self._adaptive(salience)
            counts = read(kept.sum(1))
            extra = [count < positions for count in counts]
        else:
            shares = share_out(video.budget, [positions] * frames)
            extra = [1 < share < positions for share in shares]
            counts = [share - one for share, one in zip(shares, extra)]
            kept = self._best(salience, counts)
        return _add_up(video.features, tower, kept, counts, extra, self.neighbours)

    def _outliers(self, salience: Tensor) -> Tensor:
        """(T, 1) int64: how many tokens of each frame stand out."""
        low, high = salience.quantile(0.25, dim=1, keepdim=True), salience.quantile(0.75, dim=1, keepdim=True)
        found = (salience > high + self.whisker * (high - low)).sum(1, keepdim=True)
        return torch.where(found > 0, found, max(1, int(salience.shape[1] * self.fallback)))

    def _adaptive(self, salience: Tensor) -> Tensor:
        """(T, N) bool: what is kept where no budget is given."""
        return pick_best(salience, read(self._outliers(salience)[:, 0]))

    def _best(self, salience: Tensor, counts: list[int]) -> Tensor:
        """(T, N) bool: what is kept of so many tokens a frame."""
        return pick_best(salience, counts)


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge with samples of a regular grid beside the tokens that stand out.

    Attributes:
        spacing: the grid's step is the whole part of 1 / (kept share), divided by this.
        salient: under a budget, the share of it that goes to the highest attention; the rest is spaced evenly.
    """

    name: ClassVar[str] = "prumerge+"
    spacing: int = 3
    salient: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("spacing", self.spacing, 1)
        check_ratio("salient", self.salient)

    def _adaptive(self, salience: Tensor) -> Tensor:
        counts = self._outliers(salience)
        step = (salience.shape[1] // counts // self.spacing).clamp(min=1)
        grid = torch.arange(salience.shape[1], device=salience.device) % step == 0
        return pick_best(salience, read(counts[:, 0])) | grid

    def _best(self, salience: Tensor, counts: list[int]) -> Tensor:
        first = [min(count, max(1, round(count * self.salient))) for count in counts]
        best = pick_best(salience, first)
        rest = [salience.shape[1] - one for one in first]
        return best | pick_evenly(~best, rest, [count - one for count, one in zip(counts, first)])


@plain
def _add_up(
    features: Tensor, tower: TowerView, kept: Tensor, counts: list[int], extra: list[bool], neighbours: int
) -> MergedVideo:
    """Adds to each kept token its weighted neighbours, and makes a frame's dropped tokens one token where told so.

    Args:
        features: (T, N, C).
        tower: the weights (its salience) and the keys that tell neighbours.
        kept: (T, N) bool.
        counts: how many are kept in each frame.
        extra: whether each frame's dropped tokens become a token; only where there are any.
        neighbours: how many tokens are added to each.
    """
    frames, positions, channels = features.shape
    cells, weights = features.reshape(-1, channels), tower.salience.float().flatten()
    near = _neighbours(tower.keys.flatten(2), kept, min(neighbours, positions - 1))
    own = cells[kept.flatten()].float()
    if near.shape[1]:
        starts = torch.arange(0, near.numel(), near.shape[1], device=near.device)
        own += weighted_sums(cells, near.flatten(), starts, weights[near].flatten())
    # The cell of the highest attention stands for what is dropped.
    adds = upload(extra, features.device, torch.bool)
    stand = pick_best(tower.salience.float(), [int(one) for one in extra], ~kept)
    dropped = (~kept).flatten().nonzero()[:, 0]
    starts = upload([0, *accumulate(positions - count for count in counts)][:-1], features.device, torch.int64)
    rest = weighted_sums(cells, dropped, starts, weights[dropped])[adds]
    cell = torch.arange(frames * positions, device=features.device).view(frames, positions)
    gone = torch.where(adds.unsqueeze(1), (cell * stand).sum(1, keepdim=True), -1)
    joins = torch.where(kept, cell, gone).flatten()
    chosen = ranks((kept | stand).flatten()).view(frames, positions)
    merged = own.new_empty(sum(counts) + sum(extra), channels)
    merged[chosen[kept]], merged[chosen[stand]] = own, rest
    return finish(features, joins, merged)


def _neighbours(keys: Tensor, kept: Tensor, count: int) -> Tensor:
    """(kept, count) int64 cells: of every kept token the others of its frame with the most similar keys.

    Args:
        keys: (T, N, width).
        kept: (T, N) bool.
        count: how many.
    """
    frames, positions = kept.shape
    found = []
    for part in frame_chunks(frames, positions):
        unit = torch.nn.functional.normalize(keys[part].float(), dim=-1)
        cosines = unit @ unit.mT
        cosines.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        best = cosines[kept[part]].sort(dim=1, descending=True, stable=True).indices[:, :count]
        found.append(best)
    frame = kept.nonzero()[:, :1]
    return torch.cat(found) + frame * positions
