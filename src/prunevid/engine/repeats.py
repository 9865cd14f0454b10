# SPDX-License-Identifier: Apache-2.0
"""Beams and several return sequences in transformers that repeats pixels one by one (5.17), not row by row.

A row with several pictures or videos a, b then comes with a, a, b, b for its two copies, which would see a, a and b, b.
The plain model answers from these wrong pictures without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid.errors import UnsupportedError


def refuse_interleaved(ids: Tensor, placeholders: Tensor, pixels: Tensor) -> None:
    """Refuses pixels that were repeated one by one where that is not their order.

    Args:
        ids: (B, L) token ids.
        placeholders: (B, L) boolean, the placeholders of what the pixels show.
        pixels: (n, ...): n pictures or videos, each with the same number of placeholders.

    Raises:
        UnsupportedError: some k > 1 rows in succession are alike, and so are k pictures, but the rows' pictures differ.
    """
    rows, shown = len(ids), len(pixels)
    counts = placeholders.sum(1).cpu()
    for copies in range(2, rows + 1):
        if rows % copies or shown % copies or not _alike(ids, copies):
            continue
        each = (counts[::copies] * shown // counts.sum().clamp(min=1)).tolist()
        if sum(each) * copies != shown or max(each) < 2 or not _alike(pixels, copies):
            continue
        groups = pixels[::copies].split(each)
        right = torch.cat([group for group in groups for _ in range(copies)])
        if not torch.equal(right, pixels):
            raise UnsupportedError(
                f"This transformers repeats every picture or video by itself for {copies} beams or return sequences, "
                "so a prompt with several would see the wrong ones, without pruning too; update transformers, or ask "
                "for one sequence without beams."
            )


def _alike(batch: Tensor, copies: int) -> bool:
    """Whether every entry of a batch equals the first of its group of `copies` in succession."""
    groups = batch.unflatten(0, (-1, copies))
    return bool((groups == groups[:, :1]).all())
