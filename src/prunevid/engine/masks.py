# SPDX-License-Identifier: Apache-2.0
"""Attention masks for sequences and caches that pruning has shortened.

Wherever possible a 2-D padding mask is made and transformers builds the kernel's own mask from it. Static caches get a
4-D mask here, because transformers derives theirs from lengths that no longer hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from prunevid.engine.cache import view_of, visible_of


def padding_mask(mask: Any, rows: int, length: int, device: torch.device) -> Tensor:
    """(rows, length) boolean, True where a token of the prompt is no padding.

    Args:
        mask: what the language model was given: None, a 2-D mask, a 4-D mask (boolean or additive) or a dictionary of
            4-D masks by kind of layer.
    """
    if isinstance(mask, dict):
        mask = mask["full_attention"]
    if mask is None:
        return torch.ones(rows, length, dtype=torch.bool, device=device)
    if mask.ndim == 2:
        return mask[:, -length:].to(device=device, dtype=torch.bool)
    last = mask[:, 0, length - 1, :length]  # the last token of a prompt sees every token that is no padding
    visible = last if last.dtype == torch.bool else last == 0
    return visible.expand(rows, length).to(device)


def left_padding(lengths: list[int], total: int, device: torch.device) -> Tensor | None:
    """(B, total) boolean, True for the last `lengths[r]` tokens of row r; None where no row is padded."""
    if all(length == total for length in lengths):
        return None
    starts = torch.tensor([[total - length] for length in lengths], device=device)
    return torch.arange(total, device=device)[None, :] >= starts


def prefill_mask(language_model: Any, hidden: Tensor, visible: Tensor | None, keys: int | None) -> Any:
    """The mask for the layers after the choice.

    Args:
        language_model: its config names the attention kernel.
        hidden: (B, n, C) the shortened hidden states.
        visible: (B, n) boolean or None.
        keys: size of a static cache's buffer, which these layers attend over; None for a growing cache.
    """
    if keys is not None:
        start = torch.zeros((), dtype=torch.long, device=hidden.device)
        return _static(language_model, hidden, visible, keys, start)
    config = language_model.config
    return create_causal_mask(config=config, inputs_embeds=hidden, attention_mask=visible, past_key_values=None)


def decode_padding(layer: Any, mask: Any, queries: int) -> Tensor | None:
    """The 2-D mask, in logical length, of tokens that follow a pruned prompt; None where no row is padded.

    Args:
        layer: the pruned layer, before the new tokens are appended.
        mask: the language model's own `attention_mask`; only its last `queries` columns are read.
        queries: number of new tokens.
    """
    new = None
    if queries > 1 and isinstance(mask, Tensor) and mask.ndim == 2:
        new = mask[:, -queries:].to(torch.bool)
        if layer.visible is None and bool(new.all()):
            new = None
    length = layer.physical_length() + queries
    visible = visible_of(layer, length, new, queries)
    if new is not None:
        layer.visible = visible  # later tokens must remember which of these were padding
    if visible is None:
        return None
    head = torch.zeros(visible.shape[0], layer.removed, dtype=torch.bool, device=visible.device)
    return torch.cat([head, visible], dim=1)


def decode_mask(language_model: Any, hidden: Tensor, layer: Any, padding: Tensor | None) -> Any:
    """The kernel's mask for one pruned growing layer from its 2-D mask in logical length."""
    return create_causal_mask(
        config=language_model.config,
        inputs_embeds=hidden,
        attention_mask=padding,
        past_key_values=view_of(layer),
    )


def static_decode_mask(language_model: Any, hidden: Tensor, layer: Any) -> Tensor:
    """(B, 1, q, buffer) mask for one pruned static layer."""
    return _static(language_model, hidden, layer.visible, layer.max_cache_len, layer.physical_length())


def _static(language_model: Any, hidden: Tensor, visible: Tensor | None, keys: int, start: Tensor) -> Tensor:
    """Causal mask over a fixed buffer; `start` (a tensor, so that nothing is read from the device) tokens are in it."""
    rows, queries = hidden.shape[:2]
    places = torch.arange(keys, device=hidden.device)
    own = torch.arange(queries, device=hidden.device) + start.to(hidden.device)
    allowed = (places[None, :] <= own[:, None])[None].expand(rows, -1, -1)
    if visible is not None:
        seen = nn.functional.pad(visible.to(hidden.device), (0, keys - visible.shape[1]), value=True)
        allowed = allowed & seen[:, None, :]
    allowed = allowed[:, None]
    if language_model.config._attn_implementation == "eager":
        return torch.zeros_like(allowed, dtype=hidden.dtype).masked_fill(~allowed, torch.finfo(hidden.dtype).min)
    return allowed
