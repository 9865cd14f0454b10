# SPDX-License-Identifier: Apache-2.0
"""PruneVid: merge over time and space, choose by the question, compress the cache (paper section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prunevid.config import DefaultLayer, PruneVidConfig
from prunevid.core import MergedVideo, merge_video, question_scores, select_by_group, select_top
from prunevid.methods.base import Attention, Method


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
    def selection_layer(self) -> int | None:
        """See `Method.selection_layer`."""
        return self.config.pruning_layer if self.config.enable_stage2 else None

    def for_depth(self, depth: int, first: int = 0) -> PruneVid:
        """See `Method.for_depth`: a layer that was not given is scaled to the model."""
        layer = self.config.pruning_layer
        if not isinstance(layer, DefaultLayer):
            return self
        return replace(self, config=self.config.replace(pruning_layer=layer.for_depth(depth, first)))

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
    def positions(self) -> Literal["auto", "renumber", "keep"]:
        """See `Method.positions`."""
        return self.config.positions

    @property
    def collect_stats(self) -> bool:
        """See `Method.collect_stats`."""
        return self.config.collect_stats

    @property
    def verbose(self) -> bool:
        """See `Method.verbose`."""
        return self.config.verbose

    def merge(self, features: Tensor) -> MergedVideo | None:
        """Stage 1 (paper section 3.2)."""
        if not self.config.enable_stage1:
            return None
        return merge_video(
            features,
            tau=self.config.tau,
            cluster_ratio=self.config.cluster_ratio,
            segment_ratio=self.config.temporal_segment_ratio,
            k=self.config.dpc_knn_k,
            static_frame=self.config.static_position,
        )

    def score(self, attention: Attention) -> Tensor:
        """Stage 2's scores (paper section 3.3): how much the question attends to each visual token."""
        queries, keys = attention.rotate() if self.config.score_rope else (attention.queries, attention.keys)
        key_mask = None
        if self.config.score_causal:
            places = torch.arange(keys.shape[1], device=keys.device)
            key_mask = places[None, :] <= attention.rows[:, None]
        return question_scores(
            queries, keys, attention.visual, aggregation=self.config.attention_aggregation, key_mask=key_mask
        )

    def select(self, scores: Tensor, group: Tensor) -> Tensor:
        """Stage 2's choice: the top share of every group, or of all."""
        if self.config.keep_scope == "global":
            return select_top(scores, self.config.keep_ratio)
        return select_by_group(scores, group, self.config.keep_ratio)

    def replace(self, **overrides: Any) -> PruneVid:
        """A copy with some settings of its config changed."""
        return PruneVid(self.config.replace(**overrides))
