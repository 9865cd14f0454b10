# SPDX-License-Identifier: Apache-2.0
"""Methods that merge before the language model to a larger number, and choose once inside it by FastV's ranking."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid.core._tensors import check_count, check_ratio
from prunevid.methods.attention import last_row_attention
from prunevid.methods.base import Choice, Choosing, Method, top_tokens
from prunevid.methods.budget import Split, expanded_split


@dataclass(frozen=True)
class MergeThenChoose(Method):
    """Base of such methods; it has no `merge` of its own.

    Attributes:
        layer: how many of the decoder's layers see all merged tokens; the choice is made after the last of them.
        inner_keep: share of the merged tokens that the choice keeps; 1: there is no choice.
    """

    layer: int = 1
    inner_keep: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("layer", self.layer, 1)
        check_ratio("inner_keep", self.inner_keep)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return (self.layer - 1,) if self.inner_keep < 1 else ()

    def expanded(self, allowed: int) -> int:
        """Tokens that the merge leaves where `allowed` are to be left at the end; at least as many."""
        return round(allowed / self.inner_keep)

    def split(self, cells: int, frames: int, depth: int) -> Split:
        """See `Method.split`: the merge leaves more than the budget, the choice the budget."""
        allowed = self.budget(cells)
        if allowed is None or not self.selection_layers:
            return super().split(cells, frames, depth)
        if not self.average_over_layers:
            return Split(min(cells, self.expanded(allowed)), (allowed,))
        merged, chosen = expanded_split(cells, allowed, self.inner_keep, self.selection_layers[0], depth)
        return Split(merged, (chosen,))

    def choose(self, choosing: Choosing) -> Choice:
        """Slot 2: the tokens that the prompt's last row attends to most."""
        scores = last_row_attention(choosing.attention)
        video, quota = choosing.video.to(scores.device), choosing.quota
        if quota is None:  # the tokens of all videos of the prompt compete, as the ranking knows no videos
            video, quota = torch.zeros_like(video), [max(1, round(len(scores) * self.inner_keep))]
        kept = top_tokens(scores, video, quota)
        return Choice(kept, scores, self.targets(choosing, kept))

    def targets(self, choosing: Choosing, kept: Tensor) -> Tensor | None:
        """What becomes of the tokens that are not kept; see `Choice.target`."""
        return None
