# SPDX-License-Identifier: Apache-2.0
"""FastVID: segments, salient tokens of every frame, and anchors that gather the rest (docs/methods/fastvid.md)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._tensors import check_count, check_number, check_ratio, plain
from prunevid.methods.base import Method, TowerRequest, Video
from prunevid.methods.budget import share_out
from prunevid.methods.sets import (
    blended,
    deal_to_frames,
    dynamic_segments,
    finish,
    nearest_target,
    peaks,
    pick_best,
    tower_of,
)


@dataclass(frozen=True)
class FastVid(Method):
    """The method of Shen and others (NeurIPS 2025, arXiv 2503.11187).

    Attributes:
        keep: share of each frame's tokens where no budget is given.
        segments: the video is cut into this many segments at least (up to T), at its least similar frames.
        tau: it is also cut wherever neighbouring frames' cosine is below this.
        anchors: share of a frame's tokens that goes to the anchors of its segment; the rest goes to salient tokens.
        period: every so many frames, counted back from a segment's last, one holds anchors.
        beta: least weight of an anchor in its token.
        k: neighbours of the density.
    """

    name: ClassVar[str] = "fastvid"
    natural_positions: ClassVar[Literal["renumber", "keep"]] = "keep"
    keep: float = 0.10
    segments: int = 8
    tau: float = 0.9
    anchors: float = 0.4
    period: int = 4
    beta: float = 0.6
    k: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("keep", self.keep)
        check_ratio("anchors", self.anchors, zero=True)
        check_ratio("beta", self.beta, zero=True)
        check_number("tau", self.tau)
        for name in ("segments", "period", "k"):
            check_count(name, getattr(self, name), 1)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @property
    def tower(self) -> TowerRequest:
        """The last layer, head by head."""
        return TowerRequest(layer=-1, split_heads=True)

    def merge(self, video: Video) -> MergedVideo:
        """Slot 1: salient tokens and anchors."""
        return _merge(video.features, tower_of(self.name, video).salience.float(), video.budget, self)

    def deal(self, budget: int | None, lengths: list[int], positions: int) -> tuple[list[int], list[int]]:
        """How many salient tokens and how many anchors every frame has.

        Args:
            budget: tokens of the video; None: `keep` of every frame.
            lengths: frames of the segments.
            positions: N.
        """
        if budget is None:
            shares = [max(1, int(positions * self.keep))] * sum(lengths)
        else:
            shares = deal_to_frames(budget, lengths, positions)
        salient = [share - int(share * self.anchors) for share in shares]
        anchors = [0] * len(shares)
        for end, length in zip(accumulate(lengths), lengths):
            span = range(end - length, end)
            holders = [frame for frame in span if (end - 1 - frame) % self.period == 0]
            wanted = sum(shares[frame] - salient[frame] for frame in span)
            dealt = share_out(wanted, [positions - salient[frame] for frame in holders])
            for frame, count in zip(holders, dealt):
                anchors[frame] = count
            # The anchors' frames are full: what is left over becomes salient tokens of the others.
            others = [frame for frame in span if frame not in holders]
            room = [positions - salient[frame] for frame in others]
            for frame, count in zip(others, share_out(wanted - sum(dealt), room)):
                salient[frame] += count
        return salient, anchors


@plain
def _merge(features: Tensor, salience: Tensor, budget: int | None, options: FastVid) -> MergedVideo:
    """The merged video of features (T, N, C) and salience (T, N)."""
    frames, positions, channels = features.shape
    lengths = dynamic_segments(features, options.segments, options.tau)
    salient, anchors = options.deal(budget, lengths, positions)
    best = pick_best(salience, salient)
    cells = features.reshape(-1, channels)
    cell = torch.arange(frames * positions, device=features.device)
    rest = [positions - count for count in salient]
    _, centre = peaks(cells, cell.view(frames, positions), ~best, rest, anchors, options.k)
    joins = torch.where(best.flatten(), cell, -1)
    for end, length in zip(accumulate(lengths), lengths):
        if any(anchors[end - length : end]):
            _join(cells, joins, centre.flatten(), slice((end - length) * positions, end * positions))
    merged = blended(cells, joins, joins == cell, sum(salient) + sum(anchors), options.beta)
    return finish(features, joins, merged)


def _join(cells: Tensor, joins: Tensor, centre: Tensor, segment: slice) -> None:
    """Lets the cells of one segment that are not salient join its most similar anchor; writes into `joins`."""
    free = (joins[segment] < 0).nonzero()[:, 0] + segment.start
    targets = centre[segment].nonzero()[:, 0] + segment.start
    joins[free] = targets[nearest_target(cells[free], cells[targets])]
    joins[targets] = targets  # also where another anchor is its equal
