# SPDX-License-Identifier: Apache-2.0
"""Beams and several return sequences in transformers that repeats pixels (5.17) or features (5.18) one by one.

A row with several pictures or videos a, b then comes with a, a, b, b for its two copies, which would see a, a and b, b.
The plain model answers from these wrong pictures without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid.errors import UnsupportedError

_WRONG = (
    "This transformers repeats every picture or video by itself for {copies} beams or return sequences, so a prompt "
    "with several would see the wrong ones, without pruning too; update transformers, or ask for one sequence and no "
    "beams."
)


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
            raise UnsupportedError(_WRONG.format(copies=copies))


def refuse_mixed(entries: Sequence[Tensor], tokens: Sequence[int], copies: int) -> None:
    """Refuses encoded pictures or videos that were repeated one by one inside a row (transformers 5.18).

    Args:
        entries: what the encoder made, after it was repeated: (placeholders, C) each.
        tokens: placeholders of every row, of the copies too.
        copies: rows that each prompt was repeated to.

    Raises:
        UnsupportedError: the copies of a prompt do not all have its entries in its order.
    """
    if copies < 2:
        return
    entries = [entry for entry in entries if len(entry)]  # SmolVLM2 has an empty one for a row without pictures
    sizes, start = [len(entry) for entry in entries], 0
    for row in range(0, len(tokens), copies):
        count = filled = 0
        while filled < tokens[row] and start + count < len(sizes):
            filled += sizes[start + count]
            count += 1
        group = entries[start : start + count * copies]
        start += count * copies
        if count > 1 and any(not torch.equal(entry, group[i % count]) for i, entry in enumerate(group)):
            raise UnsupportedError(_WRONG.format(copies=copies))


def _alike(batch: Tensor, copies: int) -> bool:
    """Whether every entry of a batch equals the first of its group of `copies` in succession."""
    groups = batch.unflatten(0, (-1, copies))
    return bool((groups == groups[:, :1]).all())
