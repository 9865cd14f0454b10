# SPDX-License-Identifier: Apache-2.0
"""Forward passes that follow a pruned prompt: masks and positions that fit what the cache still holds."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from prunevid.engine.cache import is_pruned
from prunevid.engine.masks import decode_mask, decode_padding, static_decode_mask
from prunevid.models.base import Adapter


class Decode:
    """One forward pass of one thread over a pruned cache (one new token, or the text of a further turn)."""

    def __init__(self, adapter: Adapter, language_model: Any, cache: Any, queries: int, asking: range):
        """`asking`: layers that ask for `late`, the mask of their own, by hooks which were there before."""
        self.adapter, self.language_model, self.cache, self.queries = adapter, language_model, cache, queries
        self.asking = asking
        self.handles: list[Any] = []
        self.late: Any = None

    def start(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The language model's keyword arguments with mask and positions mended."""
        first = self.cache.layers[0]
        positions = kwargs.get("position_ids")
        mask = kwargs.get("attention_mask")
        hidden = kwargs["inputs_embeds"]
        if first.shift is not None:
            if positions is None:
                positions = torch.arange(self.queries, device=hidden.device)[None] + first.get_seq_length()
            positions = positions - first.shift.to(positions.device)
        self._mask_later_layers(hidden, mask)
        self._guide(True)
        return {**kwargs, "attention_mask": self._mask(first, hidden, mask), "position_ids": positions}

    def _mask(self, layer: Any, hidden: Tensor, mask: Any) -> Any:
        """What the language model is given: a mask of its own making suffices unless the buffer is fixed."""
        if hasattr(layer, "max_cache_len"):
            return static_decode_mask(self.language_model, hidden, layer)
        return decode_padding(layer, mask, self.queries)

    def _mask_later_layers(self, hidden: Tensor, mask: Any) -> None:
        """Where early layers were not compressed, later ones hold fewer tokens and need a mask of their own."""
        layers = self.cache.layers
        first = layers[0]
        other = [i for i, layer in enumerate(layers) if layer.band != first.band]
        if not other:
            return
        layer = layers[other[0]]
        if hasattr(layer, "max_cache_len"):
            made = static_decode_mask(self.language_model, hidden, layer)
        else:
            made = decode_mask(self.language_model, hidden, layer, decode_padding(layer, mask, self.queries))
        if other == list(self.asking):
            self.late = made
        else:
            self._hook(other, made)

    def _hook(self, layers: list[int], mask: Any) -> None:
        """For a cache that another attached method has made (a compiler can't follow this)."""
        thread = threading.get_ident()

        def own(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return (args, {**kwargs, "attention_mask": mask}) if threading.get_ident() == thread else None

        for index in layers:
            late = self.language_model.layers[index]
            self.handles.append(late.register_forward_pre_hook(own, with_kwargs=True))

    def disarm(self) -> None:
        """Removes every hook of this forward pass."""
        self._guide(False)
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _guide(self, running: bool) -> None:
        for layer in self.cache.layers:
            if is_pruned(layer):
                layer.guided = running
