# SPDX-License-Identifier: Apache-2.0
"""How much the question looks at every visual token (docs/algorithm.md, "Stage 2", steps 1 and 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunevid.core._tensors import check_floats, plain
from prunevid.errors import ConfigError, InputError

# Numbers in the largest attention map that is ever made: 64 MiB of float32.
_MAP_ELEMENTS = 2**24


@plain
def question_scores(
    queries: Tensor,
    keys: Tensor,
    visual: Tensor,
    aggregation: str = "max",
    *,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Attention that the question rows pay to every visual token, over heads and rows (Stage 2, steps 1 and 2).

    The softmax runs over all keys in float32, a few rows at a time, so that no full map is made.

    Args:
        queries: (H, q, d) of the question rows.
        keys: (H_kv, S, d) of the whole sequence; H is a multiple of H_kv (grouped-query attention).
        visual: (S,) bool, True at the visual tokens; or their indices (n_visual,) int64, which saves the host a wait.
        aggregation: "max" or "mean", over heads and rows at once.
        key_mask: (S,) or (q, S) bool, True where a row may attend (padding, causal scoring); None for everywhere,
            as the paper's code scores. A row that may attend nothing pays 0 to all.

    Returns:
        (n_visual,) float32, in sequence order.

    Raises:
        InputError: shapes that don't fit together.
        ConfigError: an aggregation that is neither "max" nor "mean".
    """
    _check(queries, keys, visual, aggregation, key_mask)
    heads, rows, width = queries.shape
    kv_heads, length, _ = keys.shape
    columns = keys.float().mT
    scaled = queries.float().unflatten(0, (kv_heads, -1)) * (1 / math.sqrt(width))
    total = columns.new_zeros(length)
    step = max(1, _MAP_ELEMENTS // (heads * length))
    for start in range(0, rows, step):
        part = scaled[:, :, start : start + step]
        logits = torch.bmm(part.flatten(1, 2), columns).view(heads, -1, length)
        if key_mask is None:
            attention = logits.softmax(-1)
        else:
            hidden = ~(key_mask if key_mask.dim() == 1 else key_mask[start : start + step])
            # The second fill is for rows that may attend nothing: their softmax is not a number.
            attention = logits.masked_fill_(hidden, -math.inf).softmax(-1).masked_fill_(hidden, 0)
        if aggregation == "max":
            total = torch.maximum(total, attention.amax((0, 1)))
        else:
            total += attention.sum((0, 1))
    if aggregation == "mean":
        total /= heads * rows
    return total[visual]


def _check(queries: Tensor, keys: Tensor, visual: Tensor, aggregation: str, key_mask: Tensor | None) -> None:
    check_floats("queries", queries, "H, q, d")
    check_floats("keys", keys, "H_kv, S, d")
    heads, rows, width = queries.shape
    kv_heads, length, _ = keys.shape
    if heads % kv_heads or width != keys.shape[2]:
        raise InputError(
            f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} don't fit: the query heads must be a "
            "multiple of the key heads, and the last axes equal."
        )
    if visual.dtype not in (torch.bool, torch.int64) or visual.dim() != 1:
        raise InputError(f"visual is {visual.dtype} with {visual.dim()} axes, but must be (S,) bool or int64 indices.")
    if visual.dtype == torch.bool and len(visual) != length:
        raise InputError(f"visual has {len(visual)} entries, but the sequence has {length} keys.")
    if aggregation not in ("max", "mean"):
        raise ConfigError(f"aggregation is {aggregation!r}, but must be 'max' or 'mean'.")
    if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape not in ((length,), (rows, length))):
        raise InputError(
            f"key_mask is {key_mask.dtype} of shape {tuple(key_mask.shape)}, but must be bool of shape {(length,)} or "
            f"{(rows, length)}."
        )
