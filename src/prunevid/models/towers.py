# SPDX-License-Identifier: Apache-2.0
"""What a vision tower computes besides its features: how much attention every cell gets, and the cells' keys.

Hooks read the queries and keys of one layer while the family's own feature function runs, and only the rows of the
attention map that are needed are computed from them, a piece at a time.
"""

from __future__ import annotations

import inspect
import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunevid.errors import ConfigError, UnsupportedError
from prunevid.methods.base import TowerRequest, TowerView

if TYPE_CHECKING:
    from prunevid.models.base import Adapter, VideoLayout

MAP_ELEMENTS = 1 << 24  # float32 numbers of an attention map that live at once: 64 MiB
Pool = Callable[[Tensor], Tensor]  # (n, channels, rows, columns) of patches to the same of cells


@dataclass(frozen=True)
class Patches:
    """What one call of the watched layer left, in the tower's own order of tokens.

    salience: (pictures, P) or (tokens,) float32; keys: the same shape + (heads, d), in the tower's dtype.
    """

    salience: Tensor
    keys: Tensor


class Tower(ABC):
    """A family's vision tower, and how its patches make the cells that the language model sees.

    Args:
        module: the tower as the base model holds it.

    Attributes:
        layers: its layers.
        class_token: whether it has one.

    Raises:
        UnsupportedError: the layers are not where the towers of this package's families have them.
    """

    def __init__(self, module: nn.Module):
        inner: Any = getattr(module, "vision_model", module)
        encoder: Any = getattr(inner, "encoder", inner)
        self.layers: Sequence[nn.Module] = _part(encoder, module, "layers", "layer", "blocks")
        embeddings = getattr(inner, "embeddings", None)
        self.class_token = hasattr(embeddings, "class_embedding") or hasattr(embeddings, "cls_token")

    def attention(self, layer: int) -> nn.Module:
        """The attention module of a layer; a negative number counts from the end.

        Raises:
            ConfigError: the tower has no such layer.
            UnsupportedError: the layer's attention was not found.
        """
        depth = len(self.layers)
        if not -depth <= layer < depth:
            raise ConfigError(f"The vision tower's layer {layer} was asked for, but it has {depth}; -1 is the last.")
        block = self.layers[layer]
        attention: nn.Module = _part(block, block, "self_attn", "attn", "attention")
        return attention

    @abstractmethod
    def patches(self, queries: Tensor, keys: Tensor, call: dict[str, Any], split_heads: bool) -> Patches:
        """What to remember of one call of the watched layer.

        Args:
            queries, keys: (..., tokens, heads, d), before any rotary embedding.
            call: the attention module's arguments by name.
            split_heads: see `TowerRequest`.
        """

    @abstractmethod
    def views(self, seen: Patches, layouts: list[VideoLayout], arguments: dict[str, Any]) -> list[TowerView]:
        """The cells of every video.

        Args:
            seen: all calls of the layer, joined.
            layouts: see `Adapter.layouts`; one without frames takes one picture and gets a view without frames.
            arguments: the feature function's arguments by name.

        Raises:
            UnsupportedError: the tower saw something else than these videos.
        """


class PictureTower(Tower):
    """A tower that is given pictures (n, channels, height, width) of one size, and attends inside each.

    Args:
        module: see `Tower`.
        pool: how the square of a picture's patches becomes its cells.
        class_cell: whether the class token stands before the patches as a cell of its own. It gets the highest
            salience of its frame: methods keep it first of all, and attention to itself says nothing.
    """

    def __init__(self, module: nn.Module, pool: Pool, class_cell: bool = False):
        super().__init__(module)
        self.pool, self.class_cell = pool, class_cell

    def patches(self, queries: Tensor, keys: Tensor, call: dict[str, Any], split_heads: bool) -> Patches:
        """See `Tower.patches`; (pictures, tokens, heads, d)."""
        shown = _shown(call.get("attention_mask"), keys)
        if self.class_token:
            queries = queries[:, :1]
        parts = []
        for part in _parts(len(keys), _numbers(keys.shape[1:], queries.shape[1])):
            mask = None if shown is None else shown[part]
            total = column_sums(queries[part].float(), keys[part].float(), split_heads, mask, not self.class_token)
            asked = 1 if self.class_token else keys.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
            parts.append(total / asked)
        return Patches(torch.cat(parts), keys)

    def views(self, seen: Patches, layouts: list[VideoLayout], arguments: dict[str, Any]) -> list[TowerView]:
        """See `Tower.views`."""
        counts = [layout.frames or 1 for layout in layouts]
        if sum(counts) != len(seen.keys):
            raise UnsupportedError(
                f"The vision tower was given {len(seen.keys)} pictures, but the videos have {sum(counts)} frames; pass "
                "what the model's processor returned."
            )
        salience, keys = seen.salience.split(counts), seen.keys.split(counts)
        return [self._view(s[: v.frames], k[: v.frames]) for v, s, k in zip(layouts, salience, keys)]

    def _view(self, salience: Tensor, keys: Tensor) -> TowerView:
        """The cells of the (T, tokens) salience and (T, tokens, heads, d) keys of one video."""
        first = int(self.class_token)
        side = math.isqrt(salience.shape[1] - first)

        def cells(values: Tensor) -> Tensor:
            return pooled(values[:, first:].unflatten(1, (side, side)), self.pool)

        cell_salience, cell_keys = cells(salience[..., None])[..., 0], cells(keys.flatten(2))
        if self.class_cell:
            cell_salience = torch.cat((cell_salience.amax(1, keepdim=True), cell_salience), 1)
            cell_keys = torch.cat((keys[:, :1].flatten(2).float(), cell_keys), 1)
        return TowerView(cell_salience, cell_keys.unflatten(-1, keys.shape[2:]), self.class_token)


class PackedTower(Tower):
    """A tower that is given the patches of all frames in one row (tokens, channels), merge block by merge block.

    Args:
        module: see `Tower`.
        pool: makes the pool for a merge size.
        merges: the merge size of every video, from the feature function's arguments and the layouts.
        order: which merge block stands at each place of the tower's row, from the arguments; None: as they come.
    """

    def __init__(
        self,
        module: nn.Module,
        pool: Callable[[int], Pool],
        merges: Callable[[dict[str, Any], list[VideoLayout]], list[int]],
        order: Callable[[dict[str, Any]], Tensor] | None = None,
    ):
        super().__init__(module)
        self.pool, self.merges, self.order = pool, merges, order

    def patches(self, queries: Tensor, keys: Tensor, call: dict[str, Any], split_heads: bool) -> Patches:
        """See `Tower.patches`; (tokens, heads, d); the salience is the sum over the patches that attend."""
        bounds = call["cu_seqlens"].tolist()
        salience = torch.zeros(len(keys), device=keys.device)
        starts: dict[int, list[int]] = {}
        for start, end in itertools.pairwise(bounds):
            starts.setdefault(end - start, []).append(start)
        for length, begin in starts.items():
            if not length:
                continue
            places = torch.tensor(begin, device=keys.device)[:, None] + torch.arange(length, device=keys.device)
            for part in _parts(len(places), _numbers((length, *keys.shape[1:]), length)):
                turned = [_turned(states, places[part], call["position_embeddings"]) for states in (queries, keys)]
                salience[places[part]] = column_sums(turned[0], turned[1], split_heads)
        return Patches(salience, keys)

    def views(self, seen: Patches, layouts: list[VideoLayout], arguments: dict[str, Any]) -> list[TowerView]:
        """See `Tower.views`."""
        merges = self.merges(arguments, layouts)
        counts = [layout.cells * merge**2 for layout, merge in zip(layouts, merges)]
        if sum(counts) != len(seen.keys):
            raise UnsupportedError(
                f"The vision tower was given {len(seen.keys)} patches, but the videos have {sum(counts)}; pass what "
                "the model's processor returned."
            )
        salience, keys = seen.salience, seen.keys
        if self.order is not None:
            back = self.order(arguments).to(keys.device).argsort()
            block = merges[0] ** 2
            salience, keys = (values.unflatten(0, (-1, block))[back].flatten(0, 1) for values in (salience, keys))
        split = zip(layouts, merges, salience.split(counts), keys.split(counts))
        return [self._view(*video) for video in split]

    def _view(self, layout: VideoLayout, merge: int, salience: Tensor, keys: Tensor) -> TowerView:
        """The cells of the (tokens,) salience and (tokens, heads, d) keys of one video."""
        grid = (layout.frames, layout.height, layout.width, merge, merge)

        def cells(values: Tensor) -> Tensor:
            rows = values.unflatten(0, grid).transpose(2, 3)
            return pooled(rows.flatten(3, 4).flatten(1, 2), self.pool(merge))

        patches = layout.height * layout.width * merge**2
        cell_salience = cells(salience[:, None])[..., 0] / patches
        return TowerView(cell_salience, cells(keys.flatten(1)).unflatten(-1, keys.shape[1:]), self.class_token)


class Watch:
    """What one layer of a tower computes while `watch_tower` is in force."""

    def __init__(self, tower: Tower, request: TowerRequest):
        self.tower, self.request = tower, request
        self._thread = threading.get_ident()
        self._call: dict[str, Any] = {}
        self._projected: dict[str, Tensor] = {}
        self._seen: list[Patches] = []
        self._handles: list[Any] = []

    def views(self, layouts: list[VideoLayout], arguments: dict[str, Any]) -> list[TowerView]:
        """The view of every video, in the order of the layouts.

        Args:
            layouts: `Adapter.layouts` of the call.
            arguments: the feature function's arguments by name, as `Adapter.layouts` gets them.

        Raises:
            UnsupportedError: the tower was not run, or saw something else than these videos.
        """
        if not self._seen:
            raise UnsupportedError(
                f"No queries and keys of the vision tower's layer {self.request.layer} were seen while the video was "
                "encoded, so what it attends to is not known; take a method that does not ask for the vision tower."
            )
        seen = self._seen[0]
        if len(self._seen) > 1:
            salience, keys = (torch.cat([getattr(s, name) for s in self._seen]) for name in ("salience", "keys"))
            seen = Patches(salience, keys)
        with torch.autocast(seen.keys.device.type, enabled=False):
            return self.tower.views(seen, layouts, arguments)

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Puts the hooks on.

        Raises:
            ConfigError: the tower has no such layer.
        """
        attention = self.tower.attention(self.request.layer)
        for name, module in _projections(attention).items():
            self._handles.append(module.register_forward_hook(self._keep(name)))
        self._handles.append(attention.register_forward_pre_hook(self._before, with_kwargs=True))
        self._handles.append(attention.register_forward_hook(self._after))

    def stop(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._call, self._projected = {}, {}

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if threading.get_ident() == self._thread:
                self._projected[name] = output.detach()

        return hook

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            kind: Any = type(module)
            bound = inspect.signature(kind.forward).bind_partial(module, *args).arguments
            self._call = {**bound, **kwargs}

    def _after(self, module: Any, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        call, self._call = self._call, {}
        projected, self._projected = self._projected, {}
        if not projected:  # a kernel that goes round the projections; `views` says so
            return
        with torch.autocast(next(iter(projected.values())).device.type, enabled=False):
            queries, keys = _by_head(projected, int(module.num_heads))
            self._seen.append(self.tower.patches(queries, keys, call, self.request.split_heads))


@contextmanager
def watch_tower(adapter: Adapter, base: nn.Module, request: TowerRequest) -> Iterator[Watch]:
    """Watches one layer of the vision tower while its block runs the feature function in the calling thread.

    Other threads that use the model meanwhile are not recorded. What the model computes stays as it is, bit for bit.

    Args:
        adapter: the family.
        base: the base model (`model.model`).
        request: which layer; a layer >= 0 counts from the tower's start. Layers whose output the features don't use
            count too: for LLaVA families, whose features are the output of the last layer but one, that is -2.

    Yields:
        A `Watch`; call its `views` after the feature function.

    Raises:
        UnsupportedError: the family's tower is not known.
        ConfigError: the tower has no such layer.
    """
    watch = Watch(adapter.tower(base), request)
    try:
        watch.start()
        yield watch
    finally:
        watch.stop()


def column_sums(
    queries: Tensor, keys: Tensor, split_heads: bool, shown: Tensor | None = None, only_shown: bool = True
) -> Tensor:
    """How much attention every key gets in all, without the whole map in memory at once.

    Args:
        queries: (n, q, heads, d) float32; keys: (n, P, heads, d) float32.
        split_heads: see `TowerRequest`.
        shown: (n, P) boolean, the keys that are no padding; None: all.
        only_shown: whether the queries are the same tokens, so that those which are padding don't count.

    Returns:
        (n, P) float32: sums over the queries of the mean over heads; rows of the map sum to 1.
    """
    if not split_heads:
        queries, keys = queries.flatten(2)[:, :, None], keys.flatten(2)[:, :, None]
    count, tokens, heads, width = keys.shape
    across = keys.permute(0, 2, 3, 1) / math.sqrt(width)
    total = torch.zeros(count, tokens, device=keys.device)
    for rows in _parts(queries.shape[1], count * heads * tokens):
        scores = queries[:, rows].transpose(1, 2) @ across
        if shown is not None:
            scores.masked_fill_(~shown[:, None, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if shown is not None and only_shown:
            weights *= shown[:, None, rows, None]
        total += weights.sum((1, 2))
    return total / heads


def pooled(patches: Tensor, pool: Pool) -> Tensor:
    """(T, rows, columns, channels) of patches as (T, cells, channels) float32 of cells."""
    frames = max(1, MAP_ELEMENTS // max(1, patches[:1].numel()))
    parts = [pool(part.permute(0, 3, 1, 2).float()) for part in patches.split(frames)]
    return torch.cat(parts).flatten(2).transpose(1, 2).contiguous()


def mean_pool(size: int) -> Pool:
    """Means over squares of size x size patches; what is left over at the right and at the bottom goes nowhere."""
    return lambda patches: functional.avg_pool2d(patches, size)


def bilinear_pool(size: int) -> Pool:
    """Bilinear interpolation to 1 / size of the rows and columns, rounded up."""

    def pool(patches: Tensor) -> Tensor:
        shape = [math.ceil(side / size) for side in patches.shape[-2:]]
        return functional.interpolate(patches, size=shape, mode="bilinear")

    return pool


def _part(holder: Any, module: nn.Module, *names: str) -> Any:
    """The first of these parts that a module has.

    Raises:
        UnsupportedError: it has none of them.
    """
    found = next((getattr(holder, name) for name in names if hasattr(holder, name)), None)
    if found is None:
        raise UnsupportedError(
            f"A {type(module).__name__} has none of the parts {', '.join(names)}, so what the vision tower attends to "
            "is not known; take a method that does not ask for the vision tower."
        )
    return found


def _projections(attention: Any) -> dict[str, nn.Module]:
    """The modules whose outputs are the queries and keys, or both and the values, before any rotary embedding."""
    if hasattr(attention, "qkv"):
        return {"fused": attention.qkv}
    if hasattr(attention, "q_norm"):
        return {"queries": attention.q_norm, "keys": attention.k_norm}
    return {"queries": attention.q_proj, "keys": attention.k_proj}


def _by_head(projected: dict[str, Tensor], heads: int) -> tuple[Tensor, Tensor]:
    """Queries and keys as (..., tokens, heads, d); the keys don't hold the memory of a fused projection."""
    fused = projected.get("fused")
    if fused is None:
        queries, keys = (projected[name].unflatten(-1, (heads, -1)) for name in ("queries", "keys"))
        return queries, keys
    queries, keys, _ = fused.unflatten(-1, (3, heads, -1)).unbind(-3)
    return queries, keys.contiguous()


def _turned(states: Tensor, places: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of the (tokens, heads, d) states at some places, rounded as the tower rounds; float32."""
    cos, sin = (table.to(states.device)[places].unsqueeze(-2).float() for table in tables)
    part = states[places].float()
    half = part.shape[-1] // 2
    turned = part * cos + torch.cat((-part[..., half:], part[..., :half]), -1) * sin
    return turned.to(states.dtype).float()


def _shown(mask: Any, keys: Tensor) -> Tensor | None:
    """(pictures, tokens) boolean, the keys that an attention mask lets through; None where there is no mask.

    Raises:
        UnsupportedError: the mask is no tensor (flex attention).
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise UnsupportedError(
            f"The vision tower's attention mask is a {type(mask).__name__}, which can't be read; load the model with "
            'attn_implementation="sdpa".'
        )
    row = mask[:, 0, 0] if mask.ndim == 4 else mask
    shown = row == 0 if row.is_floating_point() else row.bool()
    return shown.expand(keys.shape[:2]).to(keys.device)


def _numbers(shape: Sequence[int], rows: int) -> int:
    """Numbers that one picture's keys or its map of so many rows take, whichever are more; shape: (P, heads, d)."""
    tokens, heads, width = shape
    return tokens * heads * max(width, rows)


def _parts(count: int, numbers: int) -> list[slice]:
    """Slices of `count` things of so many numbers each, so that a slice stays within `MAP_ELEMENTS` where it can."""
    size = max(1, MAP_ELEMENTS // max(1, numbers))
    return [slice(start, start + size) for start in range(0, count, size)]
