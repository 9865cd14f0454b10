# SPDX-License-Identifier: Apache-2.0
"""Tokens at equal steps through the video: a baseline (docs/methods/uniform.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid.core import MergedVideo
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import check_share, evenly, share_of, without_gradients


@dataclass(frozen=True)
class Uniform(Method):
    """Keeps tokens at equal steps through all T * N tokens, from the first to the last.

    With a budget of T tokens or more, every frame keeps one at least.

    Attributes:
        keep: share of the tokens that stays where no budget is given, in (0, 1].
    """

    name: ClassVar[str] = "uniform"
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
        cells = video.features[..., 0].numel()
        wanted = video.budget or share_of(cells, self.keep)
        return keep_cells(video.features, evenly(cells, wanted, video.features.device))
