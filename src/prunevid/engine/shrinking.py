# SPDX-License-Identifier: Apache-2.0
"""Slot 3 of one prefill: every layer's cache gets smaller right after the layer has run, head by head.

The prompt's own computation is not touched: a layer attends to everything, then forgets. How much each token was
attended to is summed up from the layer's own queries and keys, some queries at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunevid.engine import cache as caches
from prunevid.engine.hooks import OwnHooks
from prunevid.engine.masks import left_padding
from prunevid.errors import UnsupportedError
from prunevid.methods.base import LayerCache

if TYPE_CHECKING:
    from prunevid.engine.prefill import Prefill

# Numbers in the largest attention map that is ever made: 64 MiB of float32.
_MAP_ELEMENTS = 2**24


class Shrinker:
    """Carries out a method's `shrink` on the rows of one prefill."""

    def __init__(self, prefill: Prefill):
        self.prefill = prefill
        self.layers = prefill.language_model.layers
        self.hooks = OwnHooks()
        self.queries: Tensor | None = None
        self.tables: tuple[Tensor, Tensor] | None = None
        self.quotas = [
            [self._quota(item.layout.cells, item.tokens) for item in record.maps] for record in prefill.records
        ]
        self.lengths = [
            row.tokens - sum(item.tokens for item in record.maps) + sum(quota)
            for row, record, quota in zip(prefill.rows, prefill.records, self.quotas)
        ]

    def _quota(self, cells: int, tokens: int) -> int:
        return min(tokens, self.prefill.method.cache_budget(cells, tokens))

    def arm(self) -> None:
        """Puts the hooks in place."""
        for index, layer in enumerate(self.layers):
            queries, _ = self.prefill.adapter.projections(layer.self_attn)
            self.hooks.add(layer.register_forward_pre_hook, self._before, with_kwargs=True)
            self.hooks.add(queries.register_forward_hook, self._see)
            self.hooks.add(layer.register_forward_hook, self._after(index), with_kwargs=True)

    def disarm(self) -> None:
        """Removes every hook; safe to call twice."""
        self.hooks.remove()
        self.queries = self.tables = None

    def finish(self) -> None:
        """Writes the new lengths into the prefill."""
        prefill = self.prefill
        prefill.length = max(self.lengths)
        prefill.visible = left_padding(self.lengths, prefill.length, prefill.rows[0].source.device)
        prefill.by_layer = [(prefill.length, prefill.visible)] * len(self.layers)
        for record, quota in zip(prefill.records, self.quotas):
            record.removed_from_cache = sum(item.tokens for item in record.maps) - sum(quota)
            for item, held in zip(record.maps, quota):
                item.held = held

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tables = kwargs["position_embeddings"]
        if self.prefill.cache is None:
            self.prefill.cache = kwargs.get("past_key_values")
        caches.check_cache(self.prefill.cache)
        if self.prefill.cache is None:
            raise UnsupportedError(
                f"The method {self.prefill.method.name!r} acts on the cache, but there is none; leave use_cache on."
            )

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.queries = output

    def _after(self, index: int) -> Any:
        def shrink(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self.queries is not None:
                self._shrink(index)

        return shrink

    # ---- one layer -----------------------------------------------------------------------------------------------

    def _shrink(self, index: int) -> None:
        """Replaces what one layer holds."""
        held = self.prefill.cache.layers[index]
        keys, values = held.keys[:, :, : self.prefill.length], held.values[:, :, : self.prefill.length]
        size = max(self.lengths)
        shorter = [states.new_zeros(*states.shape[:2], size, states.shape[3]) for states in (keys, values)]
        for number in range(len(self.lengths)):
            for states, own in zip(shorter, self._row(index, number, keys, values)):
                states[number, :, size - own.shape[1] :] = own
        self.queries = self.tables = None
        caches.put_tokens(held, *shorter)

    def _row(self, index: int, number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (H_kv, n, d) that one row holds after it."""
        prefill = self.prefill
        row, record = prefill.rows[number], prefill.records[number]
        start = prefill.length - row.tokens
        own = keys[number, :, start:], values[number, :, start:]
        if not record.maps:
            return own
        visual = torch.zeros(row.tokens, dtype=torch.bool, device=keys.device)
        visual[row.visual.to(keys.device)] = True
        sizes = torch.tensor([item.tokens for item in record.maps])
        video = torch.full((row.tokens,), -1, dtype=torch.long, device=keys.device)
        of_token = torch.arange(len(sizes)).repeat_interleave(sizes).to(keys.device)
        video[row.visual.to(keys.device)] = of_token[row.order.to(keys.device)]
        scores, first = self._scores(index, number, start, own[0])
        if first is not None and number == 0 and prefill.sharing is not None:
            prefill.sharing.collect(*own, first)
        return prefill.method.shrink(LayerCache(*own, scores, visual, video, self.quotas[number], index))

    def _scores(self, index: int, number: int, start: int, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """(H_kv, S) float32: the causal attention that each token of a row got, see `LayerCache.scores`.

        And (H_kv, n), the part of it that came from the prefix's own tokens, where a prefix is shared.
        """
        if self.queries is None or self.tables is None:
            raise RuntimeError("A layer ended without having shown its queries.")
        attention = self.layers[index].self_attn
        size, rows = attention.head_dim, len(self.lengths)
        own = self.queries[number, start:]  # behind a held prefix, of what follows it
        queries = own.reshape(len(own), -1, size).transpose(0, 1)
        cos, sin = (table.expand(rows, -1, -1)[number, start:].to(keys.device) for table in self.tables)
        queries = self.prefill.adapter.rotate(attention, queries, cos, sin)
        scale, sharing = getattr(attention, "scaling", size**-0.5), self.prefill.sharing
        if sharing is None or not sharing.acts:
            return summed_attention(queries, keys, scale), None
        n = sharing.tokens
        first = sharing.scores(index, keys.device)
        if first is None:
            first = summed_attention(queries[:, :n], keys[:, :n], scale)
        total = summed_attention(queries[:, n - keys.shape[1] :], keys, scale)
        total[:, :n] += first
        return total, first


def summed_attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """(H_kv, S) float32: causal attention summed over rows, the mean over the query heads of a key head.

    Args:
        queries: (H, q, d) of the last q tokens, with rotary embedding; H is a multiple of H_kv.
        keys: (H_kv, S, d) with rotary embedding.
        scale: of the inner products.
    """
    heads, rows, _ = queries.shape
    kept, length, _ = keys.shape
    grouped = queries.float().unflatten(0, (kept, -1)) * scale
    columns = keys.float().mT
    total = columns.new_zeros(kept, length)
    places = torch.arange(length, device=keys.device)
    step = max(1, _MAP_ELEMENTS // (heads * length))
    for start in range(0, rows, step):
        part = grouped[:, :, start : start + step]
        logits = torch.matmul(part, columns[:, None])
        hidden = places[None, :] > places[length - rows :][start : start + step, None]
        total += logits.masked_fill_(hidden, -torch.inf).softmax(-1).sum(2).mean(1)
    return total
