# SPDX-License-Identifier: Apache-2.0
"""VisionZip: dominant tokens by the tower's attention, contextual ones from the rest (docs/methods/visionzip.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._tensors import check_ratio, plain
from prunevid.errors import ConfigError
from prunevid.methods.base import Method, TowerRequest, TowerView, Video
from prunevid.methods.budget import share_out
from prunevid.methods.sets import averaged, counts_on, finish, nearest_in_frame, pick_best, pick_evenly, tower_of


@dataclass(frozen=True)
class VisionZip(Method):
    """The method of Yang and others (CVPR 2025, arXiv 2412.04467), frame by frame.

    Attributes:
        dominant: share of a frame's tokens that stay by attention; 162 of 576 as published.
        contextual: share of a frame's tokens that stand for the others; 30 of 576 as published.
    """

    name: ClassVar[str] = "visionzip"
    dominant: float = 162 / 576
    contextual: float = 30 / 576

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("dominant", self.dominant)
        check_ratio("contextual", self.contextual, zero=True)
        if self.dominant + self.contextual > 1:
            raise ConfigError(
                f"dominant {self.dominant} and contextual {self.contextual} are more than 1 together; lower one."
            )

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @property
    def tower(self) -> TowerRequest:
        """The layer before the last, head by head."""
        return TowerRequest(layer=-2, split_heads=True)

    def merge(self, video: Video) -> MergedVideo:
        """Slot 1: dominant and contextual tokens of each frame."""
        frames, positions = video.features.shape[:2]
        tower = tower_of(self.name, video)
        if video.budget is None:
            first = max(1, round(positions * self.dominant))
            dominant, contextual = [first], [min(round(positions * self.contextual), positions - first)]
            dominant, contextual = dominant * frames, contextual * frames
        else:
            shares = share_out(video.budget, [positions] * frames)
            part = self.contextual / (self.dominant + self.contextual)
            contextual = [min(round(share * part), max(0, share - 1)) for share in shares]
            dominant = [share - one for share, one in zip(shares, contextual)]
        return _zip(video.features, tower, dominant, contextual)


@plain
def _zip(features: Tensor, tower: TowerView, dominant: list[int], contextual: list[int]) -> MergedVideo:
    """Keeps the dominant tokens; every other one joins a contextual token of its frame by the likeness of keys.

    Args:
        features: (T, N, C).
        tower: its salience, and the keys, whose mean over heads is compared.
        dominant, contextual: how many of each in every frame.
    """
    frames, positions, channels = features.shape
    best = pick_best(tower.salience.float(), dominant)
    targets = pick_evenly(~best, [positions - one for one in dominant], contextual)
    near = nearest_in_frame(tower.keys.float().mean(2), targets)
    near.masked_fill_(counts_on(contextual, features.device) == 0, -1)
    own = torch.arange(positions, device=features.device)
    first = (torch.arange(frames, device=features.device) * positions).unsqueeze(1)
    joins = torch.where(best, own, near)
    joins = torch.where(joins < 0, joins, joins + first).flatten()
    chosen = (best | targets).flatten()
    cells = features.reshape(-1, channels)
    others, _ = averaged(cells, joins.masked_fill(chosen, -1), chosen, sum(dominant) + sum(contextual))
    return finish(features, joins, others.add_(cells[chosen].float()))
