# SPDX-License-Identifier: Apache-2.0
"""DivPrune: the tokens that are farthest from one another stay (docs/methods/divprune.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import check_share, share_of, unit_vectors, without_gradients

# Numbers in one tensor of distances: 256 MiB of float32.
_DISTANCE_ELEMENTS = 2**26
_EQUAL = 1e-6  # distances below this are rounding: the tokens point the same way


@dataclass(frozen=True)
class DivPrune(Method):
    """Keeps a set of tokens whose smallest distance to one another is large, chosen one by one.

    Source: Alvar and others, "DivPrune" (arXiv 2503.02175). All tokens of the video are one set; the distance is
    1 - cosine. A larger budget keeps what a smaller one keeps, and more.

    Attributes:
        keep: share of the tokens that stays where no budget is given, in (0, 1].
    """

    name: ClassVar[str] = "divprune"
    keep: float = 0.098

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
        tokens = unit_vectors(video.features).flatten(0, 1)
        wanted = video.budget or share_of(len(tokens), self.keep)
        return keep_cells(video.features, farthest(tokens, wanted).sort().values)


def farthest(tokens: Tensor, wanted: int) -> Tensor:
    """(wanted,) int64: indices in the order of choice; the lower one wins a tie.

    The first is the token that is farthest from its nearest neighbour; each next one has the largest distance to the
    nearest of those chosen before it. The host waits for nothing. Where all distances fit one tensor they are made
    once, otherwise a row at a time, so that memory stays in proportion to the tokens.

    Args:
        tokens: (n, C) float32, of norm 1 (or 0).
        wanted: 1 ... n.
    """
    rows = max(1, _DISTANCE_ELEMENTS // len(tokens))
    table = _distances(tokens, tokens) if rows >= len(tokens) else None
    chosen = torch.empty(wanted, dtype=torch.long, device=tokens.device)
    latest = _loneliest(tokens, rows, table)
    nearest = torch.full((len(tokens),), torch.inf, device=tokens.device)
    for step in range(wanted):
        chosen[step : step + 1] = latest
        row = _distances(tokens[latest], tokens) if table is None else table[latest]
        nearest = torch.minimum(nearest, row[0]).index_fill(0, latest, -1.0)  # below every distance: never again
        latest = nearest.argmax(keepdim=True)
    return chosen


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """(a, C), (b, C) -> (a, b): 1 - cosine, or 0 where that is rounding."""
    distance = torch.addmm(left.new_ones(()), left, right.mT, alpha=-1)
    return distance.masked_fill_(distance < _EQUAL, 0)


def _loneliest(tokens: Tensor, rows: int, table: Tensor | None) -> Tensor:
    """(1,) int64: the token whose nearest other token is farthest; the first where there is only one."""
    gaps = []
    for start in range(0, len(tokens), rows):
        part = _distances(tokens[start : start + rows], tokens) if table is None else table
        part.diagonal(start).fill_(torch.inf)  # nobody asks for a token's distance to itself
        gaps.append(part.amin(1))
    return torch.cat(gaps).argmax(keepdim=True)
