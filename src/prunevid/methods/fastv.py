# SPDX-License-Identifier: Apache-2.0
"""FastV: after an early layer, drop what the prompt's last token attends to least (docs/methods/fastv.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid.config import DefaultCount
from prunevid.core._tensors import check_count, check_ratio
from prunevid.methods.attention import last_row_attention
from prunevid.methods.base import Choice, Choosing, Method, top_tokens


@dataclass(frozen=True)
class FastV(Method):
    """The method of Chen and others (ECCV 2024, arXiv 2403.06764).

    Attributes:
        layer: how many of the decoder's layers see every token; the choice is made after the last of them (K).
        keep: share of the visual tokens that stay (1 - R); a prompt's videos share it.
    """

    name: ClassVar[str] = "fastv"
    natural_positions: ClassVar = "keep"
    layer: int = DefaultCount(3)
    keep: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("layer", self.layer, 1)
        check_ratio("keep", self.keep)

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return (self.layer - 1,)

    def choose(self, choosing: Choosing) -> Choice:
        """Slot 2: the tokens with the highest attention of the last row, averaged over heads."""
        scores = last_row_attention(choosing.attention)
        quota = choosing.quota or [max(1, round(self.keep * cells)) for cells in choosing.cells]
        return Choice(top_tokens(scores, choosing.video.to(scores.device), quota), scores)
