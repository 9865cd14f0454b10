# SPDX-License-Identifier: Apache-2.0
"""PruneVid: merge over time and space, choose by the question, compress the cache (paper section 3)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prunevid.config import DefaultLayer, PruneVidConfig
from prunevid.core import (
    MergedVideo,
    Mixing,
    merge_video,
    mixed_scores,
    peak_scores,
    question_scores,
    select_by_group,
    select_top,
    share_out,
)
from prunevid.errors import InputError
from prunevid.methods.base import Attention, Choice, Choosing, Method, Video, top_tokens
from prunevid.methods.budget import Split, expanded_split


@dataclass(frozen=True)
class PruneVid(Method):
    """The method of Huang, Zhou and Han (Findings of ACL 2025), with the options of `PruneVidConfig`."""

    name: ClassVar[str] = "prunevid"
    config: PruneVidConfig = field(default_factory=PruneVidConfig)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return self.config.enable_stage1

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return (self.config.pruning_layer,) if self.config.enable_stage2 else ()

    def for_depth(self, depth: int, first: int = 0) -> PruneVid:
        """See `Method.for_depth`: a layer that was not given is scaled to the model."""
        layer = self.config.pruning_layer
        if not isinstance(layer, DefaultLayer):
            return self
        return dataclasses.replace(self, config=self.config.replace(pruning_layer=layer.for_depth(depth, first)))

    @property
    def compresses_cache(self) -> bool:
        """See `Method.compresses_cache`."""
        return self.config.enable_stage2 and self.config.enable_cache_compression

    @property
    def prunes_images(self) -> bool:
        """See `Method.prunes_images`."""
        return self.config.prune_images

    @property
    def token_order(self) -> Literal["auto", "merged", "raster"]:
        """See `Method.token_order`."""
        return self.config.token_order

    @property
    def position_scheme(self) -> Literal["auto", "renumber", "keep"]:
        """See `Method.position_scheme`."""
        return self.config.positions if self.positions == "auto" else self.positions

    @property
    def collect_stats(self) -> bool:
        """See `Method.collect_stats`."""
        return self.config.collect_stats

    @property
    def verbose(self) -> bool:
        """See `Method.verbose`."""
        return self.config.verbose

    def merge(self, video: Video) -> MergedVideo | None:
        """Stage 1 (paper section 3.2)."""
        if not self.config.enable_stage1:
            return None
        return merge_video(
            video.features,
            tau=self.config.tau,
            cluster_ratio=self.config.cluster_ratio,
            segment_ratio=self.config.temporal_segment_ratio,
            k=self.config.dpc_knn_k,
            static_frame=self.config.static_position,
            budget=video.budget,
            seed=self.config.cluster_seed if self.config.cluster_centres == "random" else None,
        )

    def choose(self, choosing: Choosing) -> Choice:
        """Stage 2 (paper section 3.3): the top share of every group, or of all, by the question's attention."""
        scores = self.ranking(choosing)
        group = choosing.group.to(scores.device)
        if choosing.quota is not None:
            return Choice(self._within_quota(choosing, scores, choosing.quota), scores)
        if self.config.keep_scope == "global":
            return Choice(select_top(scores, self.config.keep_ratio), scores)
        return Choice(select_by_group(scores, group, self.config.keep_ratio), scores)

    def ranking(self, choosing: Choosing) -> Tensor:
        """(n,) float32: by what tokens are kept, the highest first: the scores, or their peaks in each video."""
        scores = self.scores(choosing)
        if self.config.keep_rule == "score":
            return scores
        if len(choosing.cells) == 1:
            return peak_scores(scores, choosing.hidden)
        found, video = torch.empty_like(scores), choosing.video.to(scores.device)
        for number in range(len(choosing.cells)):
            own = (video == number).nonzero().flatten()
            if len(own):
                found[own] = peak_scores(scores[own], choosing.hidden[own])
        return found

    def scores(self, choosing: Choosing) -> Tensor:
        """(n,) float32: how much the question attends to each visual token."""
        config, attention = self.config, choosing.attention
        queries, keys = attention.rotate() if config.score_rope else (attention.queries, attention.keys)
        last = queries.shape[1]
        start, end = self._question_rows(last)
        scores = self._attended(attention, queries, keys, slice(start, end))
        if config.score_contrast == "none":
            return scores
        without = self._attended(attention, queries, keys, slice(0, min(config.prompt_head, last)))
        return scores - without if config.score_contrast == "difference" else scores / (without + 1 / keys.shape[1])

    def _question_rows(self, rows: int) -> tuple[int, int]:
        """The first and the end of the rows that score, among those after the last visual token.

        Raises:
            InputError: the prompt has no row between its head and its tail.
        """
        head, tail = self.config.prompt_head, self.config.prompt_tail
        if self.config.score_rows == "last":
            return rows - 1, rows
        if self.config.score_rows == "all":
            return 0, rows
        if rows <= head + tail:
            raise InputError(
                f"The prompt has {rows} tokens after its last visual token, but prompt_head {head} and prompt_tail "
                f"{tail} leave none of them to be the question; give smaller ones."
            )
        return head, rows - tail

    def _attended(self, attention: Attention, queries: Tensor, keys: Tensor, rows: slice) -> Tensor:
        """(n,) float32: what some of the rows attend to, all heads together."""
        config, key_mask = self.config, None
        if config.score_causal:
            places = torch.arange(keys.shape[1], device=keys.device)
            key_mask = places[None, :] <= attention.rows[rows, None]
        mixed = (config.score_heads, config.score_row_mix, config.score_normalise)
        if mixed == ("auto", "auto", "none"):
            return question_scores(
                queries[:, rows], keys, attention.visual, config.attention_aggregation, key_mask=key_mask
            )
        heads, row_mix = (config.attention_aggregation if mix == "auto" else mix for mix in mixed[:2])
        mixing = Mixing(heads, row_mix, config.score_normalise)
        return mixed_scores(queries[:, rows], keys, attention.visual, mixing, key_mask=key_mask)

    def _within_quota(self, choosing: Choosing, scores: Tensor, quota: list[int]) -> Tensor:
        """The best tokens of every group, its share of a video's quota being its share of the video's tokens."""
        video = choosing.video.to(scores.device)
        if self.config.keep_scope == "global":
            return top_tokens(scores, video, quota)
        _, number, sizes = choosing.group.to(scores.device).unique(return_inverse=True, return_counts=True)
        owners = torch.empty(2, len(sizes), dtype=torch.long, device=scores.device)
        owners[:, number] = torch.stack([video, choosing.scene.to(scores.device)])
        of_video, of_scene, counts = torch.cat([owners, sizes[None]]).tolist()
        shares = [0] * len(counts)
        for index, allowed in enumerate(quota):
            scenes = sorted({scene for own, scene in zip(of_video, of_scene) if own == index})
            members = [[i for i, scene in enumerate(of_scene) if scene == one] for one in scenes]
            totals = [sum(counts[i] for i in group) for group in members]
            for group, total in zip(members, share_out(allowed, totals, least=[1] * len(totals))):
                for i, share in zip(group, share_out(total, [counts[i] for i in group])):
                    shares[i] = share
        return top_tokens(scores, number, shares)

    def split(self, cells: int, frames: int, depth: int) -> Split:
        """See `Method.split`: the merge leaves so many that the choice keeps `keep_ratio` of them."""
        allowed, config = self.budget(cells), self.config
        if allowed is None or not (config.enable_stage1 and config.enable_stage2):
            return super().split(cells, frames, depth)

        if not self.average_over_layers:
            merged = round(allowed / config.keep_ratio) if config.keep_ratio else cells
            return Split(min(cells, max(allowed, merged)), (allowed,))
        keep = config.keep_ratio or 1 / cells  # nothing kept is no share that a merge could be worked out from
        merged, chosen = expanded_split(cells, allowed, keep, config.pruning_layer, depth)
        return Split(merged, (chosen,))

    def expected_tokens(self, cells: int) -> tuple[int, int]:
        """See `Method.expected_tokens`: as if no cell were static and all sets were clustered."""
        config, allowed = self.config, self.budget(cells)
        merged = round(cells * config.cluster_ratio) if config.enable_stage1 else cells
        kept = round(merged * config.keep_ratio) if config.enable_stage2 else merged
        if allowed is None:
            return merged, kept
        split = self.split(cells, 1, 1) if not self.average_over_layers else None
        return (split.merged if split is not None and split.merged is not None else merged), allowed

    def replace(self, **overrides: Any) -> PruneVid:
        """A copy with some settings of its config, or of its budget, changed."""
        settings = {field.name for field in dataclasses.fields(self.config)}
        budget = {field.name for field in dataclasses.fields(Method)} - settings
        own = {name: value for name, value in overrides.items() if name in budget}
        rest = {name: value for name, value in overrides.items() if name not in budget}
        return dataclasses.replace(self, config=self.config.replace(**rest), **own)
