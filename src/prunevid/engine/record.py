# SPDX-License-Identifier: Apache-2.0
"""What is remembered of an encoded video and of a prefill: token maps, counts, times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.engine.rows import RowPlan
from prunevid.models.base import VideoLayout
from prunevid.stats import flops_ratio, row_stats


@dataclass
class Encoded:
    """Travels on the encoder's output: the layouts of its videos or images, and what stage 1 made of them."""

    layouts: list[VideoLayout]  # in the order of the placeholders
    milliseconds: float
    merged: dict[tuple[Any, int], MergedVideo | None] = field(default_factory=dict)  # by method and video


@dataclass
class TokenMap:
    """What became of every cell of one video's grid in one prompt (enough to draw it; `docs/architecture.md`).

    layout: the grid; `layout.image` tells an image from a video.
    merged: stage 1's result, or None where the video passed whole (every cell its own token).
    kept: (k,) int64, merged tokens that stage 2 kept, ascending; None where it did not act.
    scores: (n,) float32, stage 2's scores in the numbering of the merged tokens; None where it did not act.
    """

    layout: VideoLayout
    merged: MergedVideo | None
    kept: Tensor | None = None
    scores: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens after stage 1, the protected ones left out."""
        return self.layout.cells if self.merged is None else int(self.merged.features.shape[0])


@dataclass
class RowRecord:
    """Counts of one row of a prefill."""

    plan: RowPlan
    maps: list[TokenMap]

    @property
    def removed_by_merge(self) -> int:
        """Tokens that stage 1 took away."""
        return sum(item.layout.cells - item.tokens for item in self.maps)

    @property
    def removed_by_choice(self) -> int:
        """Tokens that stage 2 took away."""
        return sum(item.tokens - len(item.kept) for item in self.maps if item.kept is not None)


@dataclass(frozen=True)
class Summary:
    """What a handle remembers of its last prefill: stats and token maps, an entry a row."""

    stats: list[dict[str, Any]]
    maps: list[list[TokenMap]]


def report(
    record: RowRecord,
    config: Any,
    layer: int | None,
    token_bytes: int,
    held_bytes: int,
    milliseconds: dict[str, float],
) -> dict[str, dict[str, Any]]:
    """The stats dictionary of one row (the keys are a contract, see `prunevid.stats.row_stats`).

    Args:
        record: the row.
        config: the language model's config, for the FLOPs formula.
        layer: selection layer, or None where stage 2 did not act on this row.
        token_bytes: bytes of one token in the whole cache.
        held_bytes: bytes that the row's tokens take in the cache after the prefill.
        milliseconds: of the whole batch.
    """
    tokens, visual = record.plan.tokens, record.plan.visual
    merged = tokens - record.removed_by_merge
    kept = merged - record.removed_by_choice
    static = sum(sum(item.merged.static_sizes) for item in record.maps if item.merged is not None)
    scenes = sum(len(item.merged.scene_lengths) for item in record.maps if item.merged is not None)
    ratio = flops_ratio(
        tokens, merged, kept, config.num_hidden_layers, layer, config.hidden_size, config.intermediate_size
    )
    return row_stats(
        original=visual,
        merged=visual - record.removed_by_merge,
        kept=visual - record.removed_by_merge - record.removed_by_choice,
        static=static,
        scenes=scenes,
        selection_layer=layer,
        original_bytes=tokens * token_bytes,
        compressed_bytes=held_bytes,
        flops_ratio=ratio,
        milliseconds=milliseconds,
    )
