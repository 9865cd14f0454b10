# SPDX-License-Identifier: Apache-2.0
"""Whole frames at equal steps: a baseline (docs/methods/frames.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prunevid.core import MergedVideo
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import check_share, evenly, share_of, without_gradients


@dataclass(frozen=True)
class Frames(Method):
    """Keeps whole frames at equal steps, from the first to the last, as if fewer had been sampled.

    Where a budget is no multiple of N, the last of the chosen frames keeps the rest, at equal steps through its tokens.

    Attributes:
        keep: share of the frames that stays where no budget is given, in (0, 1].
    """

    name: ClassVar[str] = "frames"
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
        """See `Method.merge`."""
        frames, positions = video.features.shape[:2]
        device = video.features.device
        wanted = video.budget or share_of(frames, self.keep) * positions
        whole, rest = divmod(wanted, positions)
        first = evenly(frames, whole + (rest > 0), device) * positions
        places = torch.arange(positions, device=device)
        kept = (first[:whole, None] + places).flatten()
        if rest:
            kept = torch.cat([kept, first[whole:] + evenly(positions, rest, device)])
        return keep_cells(video.features, kept)
