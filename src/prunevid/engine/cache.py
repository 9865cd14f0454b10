# SPDX-License-Identifier: Apache-2.0
"""Cache layers that hold fewer tokens than the conversation has.

`generate`, masks, cropping and a second turn all count in tokens of the unpruned conversation. A pruned layer therefore
reports its logical length (what it holds plus what was removed) and offsets its masks by what was removed, the same
contract that transformers' own sliding-window layers keep.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, StaticLayer

from prunevid.errors import UnsupportedError


class _Pruned(CacheLayerMixin):
    """State and behaviour that both kinds of pruned layer share.

    removed: tokens that the unpruned layer would hold and this one does not (a tensor for a static layer, so that
        compiled code does not depend on its value).
    visible: (B, P) boolean over the first P tokens held (all places of a static layer's buffer), False where a row is
        padded; None where no row is.
    shift: (B, 1) int64, how far positions of later tokens move down (families that renumber); None where they don't.
    intact: tokens held that can't be cropped, because removed tokens lie among or before them.
    band: layers of the same number hold the same tokens and need the same mask.
    watch: what `Method.revise` goes by, each (B, P) over the tokens that the prompt left: "visual" and "shown",
        boolean, and "attention", float32; None where nothing is revised.
    guided: whether an attached model mends the masks and positions of the pass that is running.
    """

    removed: Any
    visible: Tensor | None
    shift: Tensor | None
    intact: int
    band: int
    guided: bool
    watch: dict[str, Tensor] | None = None

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """See `Cache.update`.

        Raises:
            UnsupportedError: no pruning is attached, and without one the new tokens would stand at wrong positions or
                see padding.
        """
        if not self.guided and (self.shift is not None or self.visible is not None):
            raise UnsupportedError(
                "This cache was made by a pruned prompt whose tokens were renumbered or padded, so only a model with "
                "a pruning attached can go on with it; attach again, or start a new cache."
            )
        return super().update(*args, **kwargs)

    def physical_length(self) -> Any:
        """Tokens held: an int, or a tensor for a static layer."""
        return super().get_seq_length()

    def get_seq_length(self) -> Any:
        """Tokens of the unpruned conversation."""
        held = self.physical_length()
        return held + self.removed if not isinstance(held, int) or held else 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """See `Cache.reorder_cache`."""
        super().reorder_cache(beam_idx)
        self._rows(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """See `Cache.batch_repeat_interleave`."""
        super().batch_repeat_interleave(repeats)
        self._rows(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """See `Cache.batch_select_indices`."""
        super().batch_select_indices(indices)
        self._rows(lambda state: state[indices.to(state.device)])

    def reset(self) -> None:
        """Empties the layer and makes it an ordinary one again."""
        super().reset()
        plain(self)

    def _rows(self, change: Any) -> None:
        if self.visible is not None:
            self.visible = change(self.visible)
        if self.shift is not None:
            self.shift = change(self.shift)
        if self.watch is not None:
            self.watch = {name: change(state) for name, state in self.watch.items()}


class PrunedDynamicLayer(_Pruned, DynamicLayer):
    """A growing layer from which tokens were removed."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a query of this length sees, and how many come before them in the unpruned conversation."""
        return self.physical_length() + query_length, self.removed

    def crop(self, tokens_to_remove: int) -> None:
        """Removes tokens from the end (a negative number; a positive one is the logical length to keep).

        Raises:
            UnsupportedError: the cut would reach tokens that pruning removed.
        """
        if tokens_to_remove > 0:
            tokens_to_remove = min(0, tokens_to_remove - self.get_seq_length())
        held = self.physical_length()
        if held + tokens_to_remove < self.intact:
            raise UnsupportedError(
                f"Cropping {-tokens_to_remove} tokens would cut into the pruned video; at most {held - self.intact} "
                "can be cropped."
            )
        super().crop(tokens_to_remove)
        if self.visible is not None:
            self.visible = self.visible[:, : self.physical_length()]


class PrunedStaticLayer(_Pruned, StaticLayer):
    """A layer of fixed size from which tokens were removed; its buffer keeps the size that it was made with."""


_KINDS: dict[type, type] = {DynamicLayer: PrunedDynamicLayer, StaticLayer: PrunedStaticLayer}
_ORIGINALS: dict[type, type] = {pruned: original for original, pruned in _KINDS.items()}


def check_cache(cache: Any, growing: bool = False) -> None:
    """Refuses caches that can't be compressed, before anything is changed.

    Args:
        cache: a transformers cache, or None.
        growing: whether a cache of fixed size won't do.

    Raises:
        UnsupportedError: quantised, offloaded, sliding-window or foreign layers.
    """
    if cache is None:
        return
    if not isinstance(cache, Cache):
        raise UnsupportedError(
            f"A cache of type {type(cache).__name__} can't be pruned; use DynamicCache or StaticCache."
        )
    kinds = {type(layer) for layer in cache.layers}
    if not kinds and getattr(cache, "layer_class_to_replicate", None) is not None:
        kinds = {cache.layer_class_to_replicate}
    if growing and any(issubclass(kind, StaticLayer) for kind in kinds):
        raise UnsupportedError(
            "A method that revises what layers see at every new token needs a cache that grows; use DynamicCache."
        )
    foreign = sorted(kind.__name__ for kind in kinds if kind not in _KINDS and kind not in _ORIGINALS)
    if foreign:
        raise UnsupportedError(
            f"A cache of {foreign[0]} can't be pruned; use the default DynamicCache or a StaticCache, or detach."
        )
    if getattr(cache, "offloading", False):
        raise UnsupportedError("An offloaded cache can't be pruned; use a cache that stays on its device, or detach.")


def takes_prefix(cache: Any) -> bool:
    """Whether the first layers of an empty cache can be filled before a prompt runs."""
    if not isinstance(cache, Cache) or getattr(cache, "offloading", False):
        return False
    kinds: set[Any] = {type(layer) for layer in cache.layers} or {getattr(cache, "layer_class_to_replicate", None)}
    return kinds <= set(_KINDS)


def is_pruned(layer: Any) -> bool:
    """Whether a cache layer holds fewer tokens than it reports."""
    return isinstance(layer, _Pruned)


def mark(layer: Any, removed: int, visible: Tensor | None, shift: Tensor | None, after: int, band: int) -> None:
    """Makes a layer report its logical length.

    Args:
        layer: a `DynamicLayer` or `StaticLayer` right after the prefill.
        removed, visible, shift, band: see `_Pruned`.
        after: tokens of the prompt after the last visual token, which may be cropped.
    """
    layer.__class__ = _KINDS.get(type(layer), type(layer))
    layer.removed, layer.visible, layer.shift, layer.band = removed, visible, shift, band
    layer.guided = False
    held = layer.keys.shape[-2] if isinstance(layer, DynamicLayer) else 0
    layer.intact = max(0, held - after)
    if isinstance(layer, StaticLayer):
        layer.removed = torch.full_like(layer.cumulative_length, removed)
        if visible is not None:
            layer.visible = nn.functional.pad(visible, (0, layer.max_cache_len - visible.shape[1]), value=True)


def plain(layer: Any) -> None:
    """Undoes `mark`."""
    layer.__class__ = _ORIGINALS.get(type(layer), type(layer))
    for name in ("removed", "visible", "shift", "intact", "band", "guided", "watch"):
        if name in vars(layer):
            delattr(layer, name)


def gather_tokens(layer: Any, index: Tensor) -> None:
    """Keeps the given tokens of a layer.

    Args:
        layer: a `DynamicLayer` or `StaticLayer` with keys and values (B, H, S, d).
        index: (B, n) int64 places to keep, ascending in each row.
    """
    kept = index.shape[1]
    static = isinstance(layer, StaticLayer)
    for name in ("keys", "values"):
        states = getattr(layer, name)
        where = index.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[-1])
        chosen = states.gather(2, where)
        if static:  # in place: the buffer's address is what compiled decoding relies on
            states[:, :, :kept] = chosen
        else:
            setattr(layer, name, chosen)
    if static:
        layer.cumulative_length.fill_(kept)


def put_tokens(layer: Any, keys: Tensor, values: Tensor) -> None:
    """Replaces what a layer holds by (B, H, n, d) keys and values, n at most what it held."""
    for name, states in (("keys", keys), ("values", values)):
        if isinstance(layer, StaticLayer):
            getattr(layer, name)[:, :, : states.shape[2]] = states
        else:
            setattr(layer, name, states)
    if isinstance(layer, StaticLayer):
        layer.cumulative_length.fill_(keys.shape[2])


def token_bytes(cache: Any) -> int:
    """Bytes that one token of one row takes in the keys and values of all layers; 0 without a cache."""
    total = 0
    for layer in getattr(cache, "layers", []):
        for states in (layer.keys, layer.values):
            if states is not None and states.ndim == 4:
                total += states.shape[1] * states.shape[3] * states.element_size()
    return total


def view_of(layer: Any) -> DynamicCache:
    """A cache with this layer alone, for functions that ask a cache about its lengths."""
    cache = DynamicCache()
    cache.layers = [layer]
    return cache


def visible_of(layer: Any, length: int, new: Tensor | None, queries: int) -> Tensor | None:
    """(B, length) boolean: which of a pruned layer's first `length` tokens (the new ones included) are no padding.

    Args:
        layer: a pruned layer, before the new tokens are appended.
        length: tokens held after they are.
        new: (B, queries) boolean for the new tokens, or None where none is padding.
        queries: number of new tokens.
    """
    if layer.visible is None and new is None:
        return None
    rows = new.shape[0] if new is not None else layer.visible.shape[0]
    device = new.device if new is not None else layer.visible.device
    result = torch.ones(rows, length, dtype=torch.bool, device=device)
    if layer.visible is not None:
        result[:, : layer.visible.shape[1]] = layer.visible.to(device)
    if new is not None:
        result[:, length - queries :] = new
    return result
