# SPDX-License-Identifier: Apache-2.0
"""Forward passes that follow a pruned prompt: masks and positions that fit what the cache still holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunevid.engine.cache import is_pruned
from prunevid.engine.hooks import OwnHooks
from prunevid.engine.masks import decode_mask, decode_padding, static_decode_mask
from prunevid.engine.revising import Reviser
from prunevid.methods.base import Method
from prunevid.models.base import Adapter


class Decode:
    """One forward pass of one thread over a pruned cache (one new token, or the text of a further turn)."""

    def __init__(self, method: Method, adapter: Adapter, language_model: Any, cache: Any, queries: int, asking: range):
        """`asking`: layers that ask for their mask in `late` by hooks which were there before."""
        self.method, self.adapter, self.language_model = method, adapter, language_model
        self.cache, self.queries, self.asking = cache, queries, asking
        self.hooks: OwnHooks | None = None
        self.late: dict[int, Any] = {}

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
        self._revise(mask)
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
        others: dict[int, list[int]] = {}
        for index, layer in enumerate(layers):
            if layer.band != layers[0].band:
                others.setdefault(layer.band, []).append(index)
        for indices in others.values():
            layer = layers[indices[0]]
            if hasattr(layer, "max_cache_len"):
                made = static_decode_mask(self.language_model, hidden, layer)
            else:
                made = decode_mask(self.language_model, hidden, layer, decode_padding(layer, mask, self.queries))
            self.late |= dict.fromkeys(indices, made)
        for index, made in self.late.items():
            if index not in self.asking:
                self._give(index, made)

    def _give(self, index: int, made: Any) -> None:
        """For a cache that another attached method has made (a compiler can't follow this)."""

        def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": made}

        self._hook(self.language_model.layers[index].register_forward_pre_hook, give, with_kwargs=True)

    def _revise(self, mask: Any) -> None:
        """Arms what a method shows later layers at a new token."""
        index = self.method.revision_layer
        layers = self.language_model.layers
        if index is None or self.queries != 1 or index + 1 >= len(layers) or self.cache.layers[index].watch is None:
            return
        reviser = Reviser(self.method, self.adapter, self.language_model, self.cache, index)
        queries, _ = self.adapter.projections(layers[index].self_attn)
        self._hook(layers[index].register_forward_pre_hook, reviser.see_layer, with_kwargs=True)
        self._hook(queries.register_forward_hook, reviser.see_queries)

        def show(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            return args, {**kwargs, "attention_mask": reviser.mask(hidden, mask)}

        for late in layers[index + 1 :]:
            self._hook(late.register_forward_pre_hook, show, with_kwargs=True)

    def _hook(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        self.hooks = self.hooks or OwnHooks()
        self.hooks.add(register, hook, **options)

    def disarm(self) -> None:
        """Removes every hook of this forward pass."""
        self._guide(False)
        if self.hooks is not None:
            self.hooks.remove()

    def _guide(self, running: bool) -> None:
        """Lets the layers take new tokens; only those that would refuse them without an attached model need it."""
        for layer in self.cache.layers:
            if is_pruned(layer) and (layer.shift is not None or layer.visible is not None):
                layer.guided = running
