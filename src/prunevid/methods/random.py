# SPDX-License-Identifier: Apache-2.0
"""Tokens by lot: the least that a method has to beat (docs/methods/random.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prunevid.core import MergedVideo
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import check_share, check_whole, share_of, without_gradients


@dataclass(frozen=True)
class Random(Method):
    """Keeps tokens of a video by lot, all with the same chance.

    The lots depend on the seed and on the number of tokens alone, not on the global random state nor on the device.
    A larger budget keeps what a smaller one keeps, and more.

    Attributes:
        keep: share of the tokens that stays where no budget is given, in (0, 1].
        seed: of the lots, at least 0.
    """

    name: ClassVar[str] = "random"
    keep: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("keep", self.keep)
        check_whole("seed", self.seed, 0)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`; a video of T * N tokens is drawn by itself."""
        cells = video.features[..., 0].numel()
        wanted = video.budget or share_of(cells, self.keep)
        lots = torch.randperm(cells, generator=torch.Generator().manual_seed(self.seed))
        return keep_cells(video.features, lots[:wanted].sort().values.to(video.features.device))
