# SPDX-License-Identifier: Apache-2.0
"""One prefill: stage 1 on the language model's input, stage 2 after the selection layer, stage 3 in the cache.

An object of this class lives for one forward pass of one thread. Its layer hooks are put in place when the language
model starts and are gone when it returns, so decoding runs the model's own code.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from prunevid.core import MergedVideo
from prunevid.engine import cache as caches
from prunevid.engine.choosing import Chooser, bands
from prunevid.engine.hooks import OwnHooks
from prunevid.engine.masks import left_padding, padding_mask
from prunevid.engine.prefix import Sharing
from prunevid.engine.record import Encoded, RowRecord, Summary, report
from prunevid.engine.rows import Row, RowVideo, merge_row, plan_rows
from prunevid.engine.shrinking import Shrinker
from prunevid.engine.timing import stopwatch
from prunevid.errors import UnsupportedError
from prunevid.methods.base import Method, Video
from prunevid.models.base import Adapter, Shortening, VideoLayout

logger = logging.getLogger("prunevid")


class Prefill:
    """The state of one prefill (docs/algorithm.md; the mechanism is described in docs/engine.md)."""

    def __init__(self, method: Method, adapter: Adapter, language_model: Any, input_ids: Tensor, config: Any):
        self.method, self.adapter, self.language_model = method, adapter, language_model
        self.ids = input_ids
        self.device = input_ids.device
        self.video_mask = input_ids == adapter.video_token_id(config)
        image = adapter.image_token_id(config)
        self.image_mask = input_ids == image if image is not None else torch.zeros_like(self.video_mask)
        self.encoded: dict[str, Encoded] = {}  # of videos, and of images where the method prunes them
        self.hooks = OwnHooks()
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
        self.chooser: Chooser | None = None
        self.shrinker: Shrinker | None = None
        self.sharing: Sharing | None = None  # with the next question about the same video

    # ---- stage 1 -------------------------------------------------------------------------------------------------

    def start(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Stage 1 on the language model's keyword arguments; arms stage 2.

        Args:
            kwargs: with `inputs_embeds` (B, L, C), and `attention_mask`, `position_ids`, `past_key_values` or None.

        Returns:
            The arguments to run with: the very same object where nothing changed.
        """
        if self.acts:
            caches.check_cache(kwargs.get("past_key_values"), growing=self.method.revision_layer is not None)
        self.cache = kwargs.get("past_key_values")
        embeds = kwargs["inputs_embeds"]
        with stopwatch(self.times, "merge", embeds.device, self.method.collect_stats):
            valid = padding_mask(kwargs.get("attention_mask"), embeds.shape[0], embeds.shape[1], embeds.device)
            on_host = torch.stack([self.video_mask, self.image_mask, valid.to(self.video_mask.device)]).cpu()
            self.video_mask = self.image_mask = on_host.new_empty(0)  # not needed on the device while the layers run
            if not self._plan({"video": on_host[0], "image": on_host[1]}, on_host[2], embeds):
                return kwargs
            ragged = self.acts and not _left_padded(on_host[2])
            if ragged or any(row.embeds is not None for row in self.rows):
                kwargs = self._shorten(kwargs)
            elif not bool(on_host[2].all()):
                self.visible = valid
            if self.sharing is not None:
                kwargs = self.sharing.begin(kwargs)
        if self.acts and self.method.selection_layers:
            self.chooser = Chooser(self)
            self.chooser.arm()
        if self.acts and self.method.shrinks_cache:
            self.shrinker = Shrinker(self)
            self.shrinker.arm()
        return kwargs

    @property
    def acts(self) -> bool:
        """Whether this prefill holds a video (or an image to prune) and the method does something to it."""
        videos = any(layout.cells for encoded in self.encoded.values() for layout in encoded.layouts)
        return videos and self.method.acts

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
            if not self.acts and self.sharing is None:  # only reported on
                self.records.append(RowRecord.of(plan, [None] * len(plan.videos)))
                continue
            row, maps = merge_row(plan, embeds[index], self._merge, self._raster)
            self.rows.append(row)
            self.records.append(RowRecord.of(plan, maps))
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
        encoded, layout = self.encoded[video.kind], video.layout
        known, key = encoded.merged, (self.method, video.index)
        if key not in known:
            split = self.method.split(layout.cells, layout.frames, len(self.language_model.layers))
            tower = encoded.views[video.index] if encoded.views is not None else None
            merged = None
            if split.merged is None or split.merged < layout.cells:  # a budget for all of them leaves nothing to do
                merged = self.method.merge(Video(features, layout.height, layout.width, split.merged, tower))
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
        for row in self.rows:  # so that nothing is in memory twice while the layers run
            row.embeds, row.target = None, row.target.new_empty(0)
        return {**kwargs, **shorter, **self.adapter.shorten(kwargs, Shortening(source, target))}

    @property
    def border(self) -> int:
        """Tokens of the unpruned prompt (without padding) up to its last visual one."""
        return self.original_length - self.rows[0].after

    def positions(self, kwargs: dict[str, Any]) -> Tensor:
        """(B or 1, n) or (axes, B or 1, n) positions among the language model's arguments, or as it would count."""
        given = kwargs.get("position_ids")
        if given is not None:
            return given
        counted = torch.arange(self.length, device=kwargs["inputs_embeds"].device)[None]
        return counted[None].expand(3, -1, -1) if self.adapter.positions == "mrope" else counted

    def _positions(self, positions: Tensor | None, source: Tensor) -> Tensor:
        """Positions of the merged rows for the language model; see `_keep_positions` for the kept ones of one axis."""
        rows = source.shape[0]
        if positions is None:
            positions = torch.arange(self.original_length, device=source.device)[None]
            if self.adapter.positions == "mrope":
                positions = positions[None].expand(3, -1, -1)
        positions = positions.to(source.device)
        counted = self.counted(source)
        if self.adapter.positions == "1d":
            if self.method.position_scheme == "keep":
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
            last = kept[:, kept.shape[1] - args[0].shape[1] :]  # all but those of a prefix that is held
            if len(args) > 1:
                return (args[0], last, *args[2:]), kwargs
            return args, {**kwargs, "position_ids": last}

        self.hooks.add(self.language_model.rotary_emb.register_forward_pre_hook, rotate, with_kwargs=True)

    def counted(self, like: Tensor) -> Tensor:
        """(B, n) int64: 0, 1, 2, ... over the tokens that are no padding."""
        if self.visible is None:
            return torch.arange(like.shape[1], device=like.device).expand(like.shape[0], -1)
        return (self.visible.long().cumsum(-1) - 1).clamp(min=0)

    # ---- the end -------------------------------------------------------------------------------------------------

    def finish(self, output: Any) -> None:
        """After the language model has run: stage 2 of a last layer, and the cache's logical length."""
        if self.cache is None:
            self.cache = getattr(output, "past_key_values", None)
        if self.chooser is not None:
            self.chooser.finish(output)
        elif self.sharing is not None:
            self.sharing.leave()
        if self.shrinker is not None:
            self.shrinker.finish()
        revised = self.method.revision_layer if self.acts else None
        for item in (item for record in self.records for item in record.maps):
            item.revised = revised
        if revised is not None and self.by_layer is None:
            self.by_layer = [(self.length, self.visible)] * len(self.language_model.layers)
        if self.cache is None or self.by_layer is None:
            return
        after = min(row.after for row in self.rows)
        for layer, (length, visible), band in zip(self.cache.layers, self.by_layer, bands(self.by_layer)):
            caches.mark(layer, self.original_length - length, visible, self.shift, after, band)
        if revised is not None:
            self.cache.layers[revised].watch = {"visual": self._visual()}

    def _visual(self) -> Tensor:
        """(B, n) boolean: the visual tokens among those that are left."""
        found = torch.zeros(len(self.rows), self.length, dtype=torch.bool, device=self.rows[0].visual.device)
        for row, shown in zip(self.rows, found):
            shown[row.visual + (self.length - row.tokens)] = True
        return found

    def disarm(self) -> None:
        """Removes every hook of this prefill; safe to call twice."""
        self.hooks.remove()
        for part in (self.chooser, self.shrinker):
            if part is not None:
                part.disarm()

    def summary(self) -> Summary:
        """What stays of this prefill for the user; nothing in it holds the cache."""
        return Summary(self._reports(), [record.maps for record in self.records], dict(self.times))

    def _reports(self) -> list[dict[str, Any]]:
        """The stats dictionaries, one per row."""
        layers, compressed = self.method.selection_layers, self.method.compresses_cache
        size = caches.token_bytes(self.cache)
        reports = []
        for record in self.records:
            acted = layers if record.maps and record.after else ()
            reports.append(report(record, self.language_model.config, acted, compressed, size, dict(self.times)))
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
