# SPDX-License-Identifier: Apache-2.0
"""How much the question looks at every visual token (docs/algorithm.md, "Stage 2", steps 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid.core._tensors import check_floats, plain
from prunevid.errors import ConfigError, InputError

# Numbers in the largest attention map that is ever made: 64 MiB of float32.
_MAP_ELEMENTS = 2**24
_TINY = 1e-12


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
    total = keys.new_zeros(keys.shape[1], dtype=torch.float32)
    for attention in _attention(queries, keys, key_mask):
        if aggregation == "max":
            total = torch.maximum(total, attention.amax((0, 1)))
        else:
            total += attention.sum((0, 1))
    if aggregation == "mean":
        total /= queries.shape[0] * queries.shape[1]
    return total[visual]


@dataclass(frozen=True)
class Mixing:
    """How the attention of many heads and rows becomes one score a token: heads first, row by row, then the rows.

    Attributes:
        heads: "max", "mean", or "peaked": the mean weighted by how peaked a head's attention over the visual tokens is
            in that row, 1 - entropy / log(tokens).
        rows: "max" or "mean".
        normalise: "none"; "head": each head's attention is divided by its greatest over all rows and visual tokens;
            "row": each head's attention in each row is divided by its sum over the visual tokens.

    Raises:
        ConfigError: another value.
    """

    heads: str = "max"
    rows: str = "max"
    normalise: str = "none"

    def __post_init__(self) -> None:
        for name, known in (("heads", HEADS), ("rows", ROWS), ("normalise", NORMALISE)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(known)}.")


HEADS, ROWS, NORMALISE = ("max", "mean", "peaked"), ("max", "mean"), ("none", "head", "row")


@plain
def mixed_scores(
    queries: Tensor, keys: Tensor, visual: Tensor, mixing: Mixing | None = None, *, key_mask: Tensor | None = None
) -> Tensor:
    """`question_scores` with a say in how heads and rows are put together (ours, not the paper's).

    Args:
        queries, keys, visual, key_mask: see `question_scores`.
        mixing: how; None: the maximum over both, which is what `question_scores` gives.

    Returns:
        (n_visual,) float32, in sequence order.

    Raises:
        InputError: shapes that don't fit together.
    """
    mixing = mixing or Mixing()
    _check(queries, keys, visual, "max", key_mask)
    scale = _head_scale(queries, keys, visual, mixing, key_mask)
    parts = []
    for attention in _attention(queries, keys, key_mask):
        seen = attention[:, :, visual]
        if mixing.normalise == "row":
            seen = seen / seen.sum(-1, keepdim=True).clamp(min=_TINY)
        rows = _over_heads(seen if scale is None else seen / scale, mixing.heads)
        parts.append(rows.amax(0) if mixing.rows == "max" else rows.sum(0))
    joined = torch.stack(parts)
    return joined.amax(0) if mixing.rows == "max" else joined.sum(0) / queries.shape[1]


def _head_scale(
    queries: Tensor, keys: Tensor, visual: Tensor, mixing: Mixing, key_mask: Tensor | None
) -> Tensor | None:
    """(H, 1, 1): the greatest attention of each head; the attention is computed twice, so that no map is kept."""
    if mixing.normalise != "head":
        return None
    greatest = torch.stack([part[:, :, visual].amax((1, 2)) for part in _attention(queries, keys, key_mask)])
    return greatest.amax(0).clamp(min=_TINY)[:, None, None]


def _over_heads(attention: Tensor, heads: str) -> Tensor:
    """(H, q, n) -> (q, n)."""
    if heads == "max":
        return attention.amax(0)
    if heads == "mean":
        return attention.mean(0)
    shares = attention / attention.sum(-1, keepdim=True).clamp(min=_TINY)
    entropy = -(shares * shares.clamp(min=_TINY).log()).sum(-1)
    peaked = 1 - entropy / math.log(max(2, attention.shape[-1]))
    weights = peaked.clamp(min=_TINY)
    return (attention * (weights / weights.sum(0))[..., None]).sum(0)


def _attention(queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Iterator[Tensor]:
    """(H, rows, S) float32 a few question rows at a time, their softmax over all keys; see `question_scores`."""
    heads, rows, width = queries.shape
    kv_heads, length, _ = keys.shape
    columns = keys.float().mT
    scaled = queries.float().unflatten(0, (kv_heads, -1)) * (1 / math.sqrt(width))
    step = max(1, _MAP_ELEMENTS // (heads * length))
    for start in range(0, rows, step):
        part = scaled[:, :, start : start + step]
        logits = torch.bmm(part.flatten(1, 2), columns).view(heads, -1, length)
        if key_mask is None:
            yield logits.softmax(-1)
        else:
            hidden = ~(key_mask if key_mask.dim() == 1 else key_mask[start : start + step])
            # The second fill is for rows that may attend nothing: their softmax is not a number.
            yield logits.masked_fill_(hidden, -math.inf).softmax(-1).masked_fill_(hidden, 0)


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
