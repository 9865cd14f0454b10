# SPDX-License-Identifier: Apache-2.0
"""DyCoke: groups of four frames lose what they have in common, answers see a part of it (docs/methods/dycoke.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.config import DefaultCount
from prunevid.core import MergedVideo
from prunevid.core._tensors import check_count, check_number
from prunevid.errors import ConfigError
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.budget import share_out
from prunevid.methods.dropping import best_in_frames, change_between, check_share, evenly, without_gradients

GROUP = 4
"""Frames of a group; the last group may be shorter."""


@dataclass(frozen=True)
class DyCoke(Method):
    """Keeps the first of every four frames whole, and of the other three what differs most from its counterpart.

    Source: Tao and others, "DyCoke" (arXiv 2411.15024), the temporal merging stage. In a group of frames 1, 2, 3, 4,
    the tokens of 2 and 4 are compared with those of 1 and 3 at the same place, then those of 3 with those of 1. While
    the answer is written, layers after `layer` see only what the newest token attends to most; the rest stays in the
    cache, and the choice is made anew when the attention has turned.

    Attributes:
        k: share of the tokens of frames 2, 3 and 4 that goes where no budget is given, in [0, 1].
        layer: how many of the decoder's layers always see all that is left.
        p: share of what is left that later layers don't see, in [0, 1); 0: they see everything.
        turned: cosine with the attention of the token before below which the choice is made anew.
    """

    name: ClassVar[str] = "dycoke"
    k: float = 0.7
    layer: int = DefaultCount(3, of=28)
    p: float = 0.8
    turned: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("k", self.k, zero=True)
        check_count("layer", self.layer, 1)
        check_share("p", self.p, zero=True)
        check_number("turned", self.turned)
        if self.p == 1:
            raise ConfigError("p is 1, but later layers must see something; it must be below 1.")

    @property
    def revision_layer(self) -> int | None:
        """See `Method.revision_layer`."""
        return self.layer - 1 if self.p else None

    def revise(self, attention: Tensor, before: Tensor | None, shown: Tensor) -> Tensor:
        """See `Method.revise`."""
        count = max(1, round((1 - self.p) * len(attention)))
        best = attention.sort(descending=True, stable=True).indices[:count]
        fresh = torch.zeros_like(shown).scatter_(0, best, True)
        if before is None:
            return fresh
        alike = torch.nn.functional.cosine_similarity(attention, before, dim=0)
        return torch.where(alike < self.turned, fresh, shown)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`; a budget that the first frames alone exceed thins them at equal steps."""
        frames, positions = video.features.shape[:2]
        first, others = list(range(0, frames, GROUP)), [frame for frame in range(frames) if frame % GROUP]
        if video.budget is None:
            quota = [int((1 - self.k) * positions + 1e-9)] * len(others)  # 1 - 0.7 is a little below 0.3
        elif video.budget > len(first) * positions:
            quota = share_out(video.budget - len(first) * positions, [positions] * len(others))
        else:
            return keep_cells(video.features, thinned(first, positions, video.budget, video.features.device))
        return keep_cells(video.features, self._kept(video.features, others, quota))

    def _kept(self, features: Tensor, others: list[int], quota: list[int]) -> Tensor:
        """Ascending cells: every first frame, and a quota of each other one."""
        frames, positions = features.shape[:2]
        scores = features.new_zeros((frames, positions), dtype=torch.float32)
        scores[others] = change_between(features, others, [counterpart(frame) for frame in others])
        shares = [positions] * frames
        for frame, share in zip(others, quota):
            shares[frame] = share
        return best_in_frames(scores, shares)


def counterpart(frame: int) -> int:
    """The frame that a frame is compared with: 2 with 1, 4 with 3, 3 with 1, counted from 1 in each group of four."""
    return frame - 2 if frame % GROUP == 2 else frame - 1


def thinned(frames: list[int], positions: int, wanted: int, device: torch.device) -> Tensor:
    """Ascending cells at equal steps in each of some frames, as many as wanted; where there are fewer than frames, one
    each in frames at equal steps."""
    if wanted < len(frames):
        frames = [frames[i] for i in evenly(len(frames), wanted).tolist()]
    shares = share_out(wanted, [positions] * len(frames))
    parts = [frame * positions + evenly(positions, share, device) for frame, share in zip(frames, shares)]
    return torch.cat(parts)
