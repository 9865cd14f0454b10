# SPDX-License-Identifier: Apache-2.0
"""DTD, differential token drop: tokens that equal the frame before go (docs/methods/dtd.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.errors import ConfigError
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import change, check_share, without_gradients
from prunevid.methods.evs import most_changed


@dataclass(frozen=True)
class Dtd(Method):
    """Drops the tokens that resemble the one at the same place of the frame before.

    Source: Yao and others, "TimeChat-Online" (arXiv 2504.17343), the drop by features. The first frame stays.

    Attributes:
        threshold: a token goes where its cosine to its predecessor is above this, -1 ... 1; the number that is left
            follows from the video.
        keep: None, or the share of the video's tokens that stays instead, in (0, 1]: those that changed most. A
            budget has the same meaning, and comes first.
    """

    name: ClassVar[str] = "dtd"
    natural_positions: ClassVar[Literal["renumber", "keep"]] = "keep"
    threshold: float = 0.5
    keep: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not (number and -1 <= self.threshold <= 1):
            raise ConfigError(f"threshold is {self.threshold!r}, but must be a number from -1 to 1.")
        if self.keep is not None:
            check_share("keep", self.keep)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`; a budget smaller than a frame thins the first one at equal steps."""
        frames, positions = video.features.shape[:2]
        wanted = video.budget
        if wanted is None and self.keep is not None:
            wanted = max(positions, int(frames * positions * self.keep))
        if wanted is None:
            return keep_cells(video.features, changed(video.features, self.threshold))
        return keep_cells(video.features, most_changed(video.features, wanted))


def changed(features: Tensor, threshold: float) -> Tensor:
    """(T, N, C) -> ascending cells: the first frame, and those whose cosine to the frame before is low enough."""
    still = change(features) < 1 - threshold
    first = still.new_zeros((1, features.shape[1]))
    return (~torch.cat([first, still])).flatten().nonzero().flatten()
