# SPDX-License-Identifier: Apache-2.0
"""EVS, efficient video sampling: what does not change from frame to frame goes (docs/methods/evs.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import change, check_share, evenly, without_gradients


@dataclass(frozen=True)
class Evs(Method):
    """Keeps the first frame, and of the others the tokens that differ most from their predecessors.

    Source: Bagrov and others, "Efficient Video Sampling" (arXiv 2510.14624). A predecessor is the token at the same
    place of the frame before; all tokens of the video compete for one quota.

    Attributes:
        keep: share of the tokens that stays where no budget is given, in (0, 1]; the authors' pruning rate q is
            1 - keep. At least one frame's tokens stay then.
    """

    name: ClassVar[str] = "evs"
    natural_positions: ClassVar[Literal["renumber", "keep"]] = "keep"
    keep: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("keep", self.keep)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`; a budget smaller than a frame thins the first one at equal steps."""
        frames, positions = video.features.shape[:2]
        wanted = video.budget or max(positions, int(frames * positions * self.keep))
        return keep_cells(video.features, most_changed(video.features, wanted))


def most_changed(features: Tensor, wanted: int) -> Tensor:
    """Ascending cells: the first frame, and those that differ most from the frame before; the lower one wins a tie.

    Args:
        features: (T, N, C).
        wanted: how many cells, 1 ... T * N; fewer than N are taken from the first frame at equal steps.
    """
    positions = features.shape[1]
    if wanted <= positions:
        return evenly(positions, wanted, features.device)
    first = features.new_full((1, positions), math.inf, dtype=torch.float32)
    scores = torch.cat([first, change(features)]).flatten()
    return scores.sort(descending=True, stable=True).indices[:wanted].sort().values
