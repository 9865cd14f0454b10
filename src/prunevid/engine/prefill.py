# SPDX-License-Identifier: Apache-2.0
"""One prefill: stage 1 on the language model's input, stage 2 after the selection layer, stage 3 in the cache.

An object of this class lives for one forward pass of one thread. Its layer hooks are put in place when the language
model starts and are gone when it returns, so decoding runs the model's own code.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunevid.core import MergedVideo
from prunevid.engine import cache as caches
from prunevid.engine.compiled import eagerly
from prunevid.engine.masks import left_padding, padding_mask, prefill_mask
from prunevid.engine.record import Encoded, RowRecord, Summary, TokenMap, report
from prunevid.engine.rows import Row, RowVideo, merge_row, plan_rows
from prunevid.engine.timing import stopwatch
from prunevid.errors import UnsupportedError
from prunevid.methods.base import Attention, Method
from prunevid.models.base import Adapter, Shortening, VideoLayout

logger = logging.getLogger("prunevid")


class Prefill:
    """The state of one prefill (docs/algorithm.md; the mechanism is described in docs/engine.md)."""

    def __init__(self, method: Method, adapter: Adapter, language_model: Any, input_ids: Tensor, config: Any):
        self.method, self.adapter, self.language_model = method, adapter, language_model
        self.video_mask = input_ids == adapter.video_token_id(config)
        image = adapter.image_token_id(config)
        self.image_mask = input_ids == image if image is not None else torch.zeros_like(self.video_mask)
        self.encoded: dict[str, Encoded] = {}  # of videos, and of images where the method prunes them
        self.thread = threading.get_ident()
        self.handles: list[Any] = []
        self.times: dict[str, float] = {}
        self.started = 0.0
        self.cache: Any = None
        self.records: list[RowRecord] = []
        self.rows: list[Row] = []
        self.original_length = input_ids.shape[1]
        self.length = self.original_length
        self.visible: Tensor | None = None
        self.by_layer: list[tuple[int, Tensor | None]] | None = None
        self.shift: Tensor | None = None
        self.chosen = False
        self.states: dict[str, Tensor] = {}
        self.late: dict[str, Any] | None = None

    # ---- stage 1 -------------------------------------------------------------------------------------------------

    def start(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Stage 1 on the language model's keyword arguments; arms stage 2.

        Args:
            kwargs: with `inputs_embeds` (B, L, C), and `attention_mask`, `position_ids`, `past_key_values` or None.

        Returns:
            The arguments to run with: the very same object where nothing changed.
        """
        if self.acts:
            caches.check_cache(kwargs.get("past_key_values"))
        self.cache = kwargs.get("past_key_values")
        embeds = kwargs["inputs_embeds"]
        with stopwatch(self.times, "merge", embeds.device, self.method.collect_stats):
            valid = padding_mask(kwargs.get("attention_mask"), embeds.shape[0], embeds.shape[1], embeds.device)
            on_host = torch.stack([self.video_mask, self.image_mask, valid.to(self.video_mask.device)]).cpu()
            if not self._plan({"video": on_host[0], "image": on_host[1]}, on_host[2], embeds):
                return kwargs
            ragged = self.acts and not _left_padded(on_host[2])
            if ragged or any(row.embeds is not None for row in self.rows):
                kwargs = self._shorten(kwargs)
            elif not bool(on_host[2].all()):
                self.visible = valid
        if self.acts and self.method.selection_layer is not None:
            self._arm(self.method.selection_layer)
        return kwargs

    @property
    def acts(self) -> bool:
        """Whether this prefill holds a video (or an image to prune) and the method does something to it."""
        videos = any(layout.cells for encoded in self.encoded.values() for layout in encoded.layouts)
        return videos and (self.method.merges or self.method.selection_layer is not None)

    def _plan(self, masks: dict[str, Tensor], valid: Tensor, embeds: Tensor) -> bool:
        """Finds the videos of every row and merges them; False where they can't be found and needn't be."""
        layouts = {kind: encoded.layouts for kind, encoded in self.encoded.items()}
        if self.method.prunes_images:
            layouts.setdefault("image", [])
        try:
            plans = plan_rows(masks, valid, {"video": [], **layouts})
        except UnsupportedError:
            if self.acts:
                raise
            return False
        for index, plan in enumerate(plans):
            row, maps = merge_row(plan, embeds[index], self._merge, self._raster)
            self.rows.append(row)
            self.records.append(RowRecord(plan, [TokenMap(v.layout, m) for v, m in zip(plan.videos, maps)]))
        return True

    def _raster(self, layout: VideoLayout) -> bool:
        """Whether a video's merged tokens stand by place: they must where its cells are no unbroken run."""
        order, adapter = self.method.token_order, self.adapter
        if order == "auto":
            order = adapter.token_order if adapter.contiguous else "raster"
        return order == "raster" or layout.newlines > 0 or not (layout.image or adapter.contiguous)

    def _merge(self, video: RowVideo, features: Tensor) -> MergedVideo | None:
        """Stage 1 of one video, once for all rows that show it; None where it would change nothing."""
        if not self.method.merges:
            return None
        known, key = self.encoded[video.kind].merged, (self.method, video.index)
        if key not in known:
            merged = self.method.merge(features)
            whole = merged is None or merged.features.shape[0] == video.layout.cells
            known[key] = None if whole else merged
        return known[key]

    def _shorten(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The language model's arguments for the merged rows, left-padded to the longest."""
        embeds = kwargs["inputs_embeds"]
        lengths = [row.tokens for row in self.rows]
        self.length = max(lengths)
        self.visible = left_padding(lengths, self.length, embeds.device)
        self.by_layer = [(self.length, self.visible)] * len(self.language_model.layers)
        source = torch.zeros(len(self.rows), self.length, dtype=torch.long, device=embeds.device)
        merged = embeds.new_zeros(len(self.rows), self.length, embeds.shape[-1])
        for index, row in enumerate(self.rows):
            start = self.length - row.tokens
            source[index, start:] = row.source
            merged[index, start:] = embeds[index, row.source] if row.embeds is None else row.embeds
        shorter = {
            "inputs_embeds": merged,
            "attention_mask": self.visible,
            "position_ids": self._positions(kwargs.get("position_ids"), source),
        }
        target = torch.stack([row.target + (row.target >= 0) * (self.length - row.tokens) for row in self.rows])
        return {**kwargs, **shorter, **self.adapter.shorten(kwargs, Shortening(source, target))}

    def _positions(self, positions: Tensor | None, source: Tensor) -> Tensor:
        """Positions of the merged rows for the language model; see `_keep_positions` for the kept ones of one axis."""
        rows = source.shape[0]
        if positions is None:
            positions = torch.arange(self.original_length, device=source.device)[None]
            if self.adapter.positions == "mrope":
                positions = positions[None].expand(3, -1, -1)
        positions = positions.to(source.device)
        counted = self._counted(source)
        if self.adapter.positions == "1d":
            if self.method.positions == "keep":
                self._keep_positions(positions.expand(rows, -1).gather(1, source))
            else:
                self.shift = positions[..., -1:].expand(rows, 1) - counted[:, -1:]
            return counted
        gathered = positions.expand(-1, rows, -1).gather(2, source[None].expand(positions.shape[0], -1, -1))
        if gathered.shape[0] == 4:  # row 0 counts text tokens; gaps in it would look like packed sequences
            gathered[0] = counted
        return gathered

    def _keep_positions(self, kept: Tensor) -> None:
        """Gives (B, n) positions to the rotary embedding alone.

        The language model itself gets positions without gaps, because masks and some kernels take a gap for the
        boundary between packed sequences.
        """

        def rotate(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if len(args) > 1:
                return (args[0], kept, *args[2:]), kwargs
            return args, {**kwargs, "position_ids": kept}

        self._hook(self.language_model.rotary_emb.register_forward_pre_hook, rotate, with_kwargs=True)

    def _counted(self, like: Tensor) -> Tensor:
        """(B, n) int64: 0, 1, 2, ... over the tokens that are no padding."""
        if self.visible is None:
            return torch.arange(like.shape[1], device=like.device).expand(like.shape[0], -1)
        return (self.visible.long().cumsum(-1) - 1).clamp(min=0)

    # ---- stage 2 -------------------------------------------------------------------------------------------------

    def _arm(self, layer: int) -> None:
        """Puts the hooks of stage 2 in place: what the selection layer projects, and what later layers are given."""
        layers = self.language_model.layers
        attention = layers[layer].self_attn
        queries, keys = self.adapter.projections(attention)
        self._hook(layers[layer].register_forward_pre_hook, self._see_layer, with_kwargs=True)
        self._hook(queries.register_forward_hook, lambda module, args, output: self._see("queries", output))
        self._hook(keys.register_forward_hook, lambda module, args, output: self._see("keys", output))
        for late in layers[layer + 1 :]:
            self._hook(late.register_forward_pre_hook, self._enter_late, with_kwargs=True)

    def _hook(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        """Registers a hook that acts in this prefill's thread alone."""

        def own(*args: Any) -> Any:
            return hook(*args) if threading.get_ident() == self.thread else None

        self.handles.append(register(eagerly(own), **options))

    def _see_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.states["cos"], self.states["sin"] = kwargs["position_embeddings"]
        if self.cache is None:
            self.cache = kwargs.get("past_key_values")
            caches.check_cache(self.cache)

    def _see(self, name: str, output: Tensor) -> None:
        # A copy of the question's queries, so that the whole of them need not stay in memory.
        rows = max(row.after for row in self.rows)
        self.states[name] = output[:, output.shape[1] - rows :].clone() if name == "queries" else output

    def _enter_late(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gives a layer after the choice the shortened sequence."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if not self.chosen:
            index = self.choose()
            if index is not None:
                hidden = hidden.gather(1, index.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))
                self.late = self._late_arguments(hidden, index, kwargs)
        if self.late is None:
            return None
        kwargs = {**kwargs, **self.late}
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def _late_arguments(self, hidden: Tensor, index: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask, rotary tables and positions of the shortened sequence, made once for all later layers."""
        tables = []
        for table in kwargs["position_embeddings"]:
            where = index.to(table.device)[..., None].expand(-1, -1, table.shape[-1])
            tables.append(table.expand(index.shape[0], -1, -1).gather(1, where))
        keys = None
        if self.cache is not None and self.cache.layers and hasattr(self.cache.layers[0], "max_cache_len"):
            keys = self.cache.layers[0].max_cache_len
        late = {
            "position_embeddings": tuple(tables),
            "attention_mask": prefill_mask(self.language_model, hidden, self.visible, keys),
        }
        if kwargs.get("position_ids") is not None:
            late["position_ids"] = self._counted(index)
        return late

    def choose(self) -> Tensor | None:
        """Stages 2 and 3: scores, choice, and the cache of the layers so far.

        Returns:
            (B, n) int64 places that go on (padding rows point at place 0), or None where everything does.
        """
        self.chosen = True
        kept = [self._choose_row(row, record, i) for i, (row, record) in enumerate(zip(self.rows, self.records))]
        self.states.clear()
        if all(len(places) == row.tokens for places, row in zip(kept, self.rows)):
            return None
        lengths = [len(places) for places in kept]
        before = (self.length, self.visible)
        self.length = max(lengths)
        device = kept[0].device
        self.visible = left_padding(lengths, self.length, device)
        index = torch.zeros(len(kept), self.length, dtype=torch.long, device=device)
        for number, (places, row) in enumerate(zip(kept, self.rows)):
            index[number, self.length - len(places) :] = places + (before[0] - row.tokens)
        early = (self.method.selection_layer or 0) + 1
        late = len(self.language_model.layers) - early
        if self.method.compresses_cache:
            before = (self.length, self.visible)
            for held in self.cache.layers[:early] if self.cache is not None else []:
                caches.gather_tokens(held, index)
        self.by_layer = [before] * early + [(self.length, self.visible)] * late
        return index

    def _choose_row(self, row: Row, record: RowRecord, index: int) -> Tensor:
        """(n,) int64 places of the row (padding left out) that go on, ascending."""
        everything = torch.arange(row.tokens, device=row.source.device)
        if not record.maps or row.after == 0:
            return everything
        scores = self.method.score(self._attention(row, index))
        kept = self.method.select(scores, row.group.to(scores.device)).to(row.visual.device)
        self._remember(row, record, scores, kept)
        dropped = torch.zeros(row.tokens, dtype=torch.bool, device=row.source.device)
        dropped[row.visual] = True
        dropped[row.visual[kept]] = False
        return everything[~dropped]

    def _attention(self, row: Row, index: int) -> Attention:
        """What the method scores for one row: tensors of the selection layer without padding."""
        start = self.length - row.tokens
        attention = self.language_model.layers[self.method.selection_layer].self_attn
        size = attention.head_dim
        keys = self.states["keys"][index, start:]
        queries = self.states["queries"][index, -row.after :]
        keys, queries = (x.reshape(x.shape[0], -1, size).transpose(0, 1) for x in (keys, queries))
        visual = torch.zeros(row.tokens, dtype=torch.bool, device=keys.device)
        visual[row.visual.to(keys.device)] = True
        tables = [
            table.expand(len(self.rows), -1, -1)[index, start:].to(keys.device)
            for table in (self.states["cos"], self.states["sin"])
        ]

        def rotate() -> tuple[Tensor, Tensor]:
            ends = [table[-row.after :] for table in tables]
            return self.adapter.rotate(attention, queries, *ends), self.adapter.rotate(attention, keys, *tables)

        rows = torch.arange(row.tokens - row.after, row.tokens, device=keys.device)
        return Attention(queries, keys, visual, rows, rotate)

    @staticmethod
    def _remember(row: Row, record: RowRecord, scores: Tensor, kept: Tensor) -> None:
        """Writes scores and choice into the token maps, in the numbering of each video's merged tokens."""
        by_token = torch.empty_like(scores)
        by_token[row.order.to(scores.device)] = scores
        chosen = torch.zeros(len(row.order), dtype=torch.bool, device=row.order.device)
        chosen[row.order[kept]] = True
        start = 0
        for item in record.maps:
            end = start + item.tokens
            item.scores = by_token[start:end]
            item.kept = chosen[start:end].nonzero()[:, 0]
            start = end

    # ---- the end -------------------------------------------------------------------------------------------------

    def finish(self, output: Any) -> None:
        """After the language model has run: stage 2 of a last layer, and the cache's logical length."""
        if self.cache is None:
            self.cache = getattr(output, "past_key_values", None)
        if self.acts and self.method.selection_layer is not None and not self.chosen:
            self.choose()
        if self.cache is None or self.by_layer is None:
            return
        after = min(row.after for row in self.rows)
        for layer, (length, visible) in zip(self.cache.layers, self.by_layer):
            band = int(length != self.length or visible is not self.visible)
            caches.mark(layer, self.original_length - length, visible, self.shift, after, band)

    def disarm(self) -> None:
        """Removes every hook of this prefill; safe to call twice."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.states.clear()

    def summary(self) -> Summary:
        """What stays of this prefill for the user; nothing in it holds the cache."""
        return Summary(self._reports(), [record.maps for record in self.records])

    def _reports(self) -> list[dict[str, Any]]:
        """The stats dictionaries, one per row."""
        config, layer = self.language_model.config, self.method.selection_layer
        size = caches.token_bytes(self.cache)
        depth = config.num_hidden_layers
        reports = []
        for row, record in zip(self.rows, self.records):
            after_merge = row.tokens
            after_choice = after_merge - record.removed_by_choice
            late = depth if layer is None or self.method.compresses_cache else depth - layer - 1
            held = (after_choice * late + after_merge * (depth - late)) * (size // depth)
            acted = layer if record.maps and row.after else None
            reports.append(report(record, config, acted, size, held, dict(self.times)))
        if self.method.verbose:
            for number, item in enumerate(reports):
                kept = item["stage2"]["compressed_tokens"]
                logger.info("row %d: %d of %d visual tokens kept", number, kept, item["stage1"]["original_tokens"])
        return reports


def refuse_uncached(kwargs: dict[str, Any], config: Any) -> None:
    """Raises `UnsupportedError` where stage 2 would run without a cache."""
    use_cache = kwargs.get("use_cache")
    if use_cache is None:
        use_cache = getattr(config, "use_cache", True)
    if not use_cache:
        raise UnsupportedError(
            "With use_cache=False every new token would see the dropped tokens again in the early layers; leave the "
            "cache on, or set enable_stage2=False."
        )


def _left_padded(valid: Tensor) -> bool:
    """Whether the padding of every row of a (B, L) boolean mask stands before its tokens."""
    return bool((valid[:, 1:] >= valid[:, :-1]).all())
