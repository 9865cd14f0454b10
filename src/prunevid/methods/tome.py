# SPDX-License-Identifier: Apache-2.0
"""ToMe, token merging: bipartite soft matching inside each frame, round after round (docs/methods/tome.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._cells import bag_means
from prunevid.methods.base import Method, Video, merge_cells
from prunevid.methods.budget import share_out
from prunevid.methods.dropping import check_share, check_whole, evenly, share_of, unit_vectors, without_gradients

# Numbers in one float32 copy of some frames: 256 MiB.
_COPY_ELEMENTS = 2**26


@dataclass(frozen=True)
class ToMe(Method):
    """Merges the most similar tokens of each frame, at most `r` a round, until few enough are left.

    Source: Bolya and others, "Token Merging" (arXiv 2210.09461), applied once to the visual tokens instead of in every
    layer of the vision tower. A merged token is the mean of all its cells.

    Attributes:
        keep: share of a frame's tokens at which the rounds end where no budget is given, in (0, 1].
        r: tokens merged into others in a round and frame, at least 1; never more than half of those that are left.
    """

    name: ClassVar[str] = "tome"
    keep: float = 0.25
    r: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("keep", self.keep)
        check_whole("r", self.r, 1)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`; with a budget of fewer tokens than frames, frames at equal steps leave one each."""
        features = video.features
        frames, positions, channels = features.shape
        quota = self._quota(video.budget, frames, positions)
        target = torch.full((frames, positions), -1, dtype=torch.long, device=features.device)
        step = max(1, _COPY_ELEMENTS // (positions * max(positions, channels)))
        for wanted in sorted(set(quota) - {0}):  # two numbers at most
            members = [frame for frame, share in enumerate(quota) if share == wanted]
            for some in (members[i : i + step] for i in range(0, len(members), step)):
                found = match(features[some].float(), wanted, self.r)
                target[some] = found + torch.tensor(some, device=features.device).unsqueeze(1) * positions
        return _means(features, target.flatten())

    def _quota(self, budget: int | None, frames: int, positions: int) -> list[int]:
        """Tokens of each frame."""
        if budget is None:
            return [share_of(positions, self.keep)] * frames
        if budget < frames:
            chosen = set(evenly(frames, budget).tolist())
            return [int(frame in chosen) for frame in range(frames)]
        return share_out(budget, [positions] * frames)


def match(tokens: Tensor, wanted: int, r: int) -> Tensor:
    """Merge the tokens of some frames, each frame by itself.

    In a round, the tokens at even places (0, 2, ...) each look for the most similar one at an odd place by cosine, the
    lower place on a tie, and the r most similar pairs merge. What is left keeps its order: a merged token stands where
    its odd one stood.

    Args:
        tokens: (F, N, C) float32.
        wanted: tokens to leave in each frame, 1 ... N.
        r: merges in a round, at least 1.

    Returns:
        (F, N) int64: for each token the place 0 ... N - 1 of the one that it ended up in; that one's own is its place.
    """
    frames, count, _ = tokens.shape
    label = torch.arange(count, device=tokens.device).expand(frames, -1)
    place = label
    size = tokens.new_ones((frames, count, 1))
    while count > wanted:
        merges = min(r, count // 2, count - wanted)
        even, odd = tokens[:, ::2], tokens[:, 1::2]
        best, partner = (unit_vectors(even) @ unit_vectors(odd).mT).max(2)
        joins = _first(best.sort(dim=1, descending=True, stable=True).indices, merges)
        # As a product with a matrix of zeros and ones, because adding up by index has no fixed order on a GPU.
        joint = torch.nn.functional.one_hot(partner, odd.shape[1]).mul(joins.unsqueeze(2)).float().mT
        total = odd * size[:, 1::2] + joint @ (even * size[:, ::2])
        weight = size[:, 1::2] + joint @ size[:, ::2]
        tokens, size = tokens.clone(), size.clone()
        tokens[:, 1::2], size[:, 1::2] = total / weight, weight
        stays = torch.ones_like(place, dtype=torch.bool)
        stays[:, ::2] = ~joins
        number = stays.cumsum(1) - 1
        number[:, ::2] = torch.where(joins, number[:, 1::2].gather(1, partner), number[:, ::2])
        label = number.gather(1, label)
        count -= merges
        left = stays.logical_not().byte().sort(dim=1, stable=True).indices[:, :count]  # a mask would make the host wait
        tokens, size, place = _rows(tokens, left), _rows(size, left), place.gather(1, left)
    return place.gather(1, label)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """(F, n, C), (F, m) -> (F, m, C)."""
    return table.gather(1, index.unsqueeze(2).expand(-1, -1, table.shape[2]))


def _first(order: Tensor, count: int) -> Tensor:
    """(F, n) orders of 0 ... n - 1 -> (F, n) bool, True at the first `count` of each."""
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _means(features: Tensor, target: Tensor) -> MergedVideo:
    """The merged video in which each cell joins the cell `target` (T * N,), or none where that is -1."""
    members = target.sort(stable=True)
    members_of = members.indices[(target < 0).sum() :]
    representative = (target == torch.arange(len(target), device=target.device)).nonzero().flatten()
    assignment = torch.where(target < 0, target, torch.searchsorted(representative, target.clamp(min=0)))
    bags = torch.searchsorted(target[members_of], representative)
    merged = bag_means(features.flatten(0, 1), members_of, bags, features.dtype)
    return merge_cells(features, assignment, representative, merged)
