# SPDX-License-Identifier: Apache-2.0
"""FlashVID: attended and diverse tokens, trees of the rest, then a choice inside (docs/methods/flashvid.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.config import DefaultCount
from prunevid.core import MergedVideo
from prunevid.core._tensors import check_count, check_number, check_ratio, plain, read, upload
from prunevid.errors import ConfigError
from prunevid.methods.base import TowerRequest, Video
from prunevid.methods.budget import share_out
from prunevid.methods.inner import MergeThenChoose
from prunevid.methods.sets import (
    averaged,
    counts_on,
    cut_weakest,
    deal_to_frames,
    dynamic_segments,
    finish_tokens,
    frame_chunks,
    peaks,
    ranks,
    tower_of,
    tree_roots,
)


@dataclass(frozen=True)
class FlashVid(MergeThenChoose):
    """FlashVID, version 1: without the relevance to events.

    Attributes:
        layer: the choice inside the decoder is made after so many layers; 20 of 28 as published.
        inner_keep: share that it keeps; 1: no choice.
        keep: share of the tokens where no budget is given, as the mean over the decoder's layers.
        expansion: the merge leaves so many times the budget.
        alpha: share of a frame's tokens that are kept for attention and diversity.
        tau: a token joins its most similar one of the frame before where their cosine is above this.
        segments: the video is cut into this many segments at least (up to T), at its least similar frames.
        segment_tau: it is also cut wherever neighbouring frames' cosine is below this.
        k: neighbours of the clusterings.
    """

    name: ClassVar[str] = "flashvid"
    layer: int = DefaultCount(20, of=28)
    inner_keep: float = 0.3
    keep: float = 0.25
    expansion: float = 1.25
    alpha: float = 0.7
    tau: float = 0.8
    segments: int = 8
    segment_tau: float = 0.9
    k: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("keep", self.keep)
        check_ratio("alpha", self.alpha, zero=True)
        check_number("tau", self.tau)
        check_number("segment_tau", self.segment_tau)
        check_count("segments", self.segments, 1)
        check_count("k", self.k, 1)
        if not 1 <= self.expansion < math.inf:
            raise ConfigError(f"expansion is {self.expansion}, but must be a number of at least 1.")

    @property
    def tower(self) -> TowerRequest:
        """The last layer, head by head."""
        return TowerRequest(layer=-1, split_heads=True)

    def expanded(self, allowed: int) -> int:
        """See `MergeThenChoose.expanded`."""
        return math.ceil(allowed * self.expansion)

    def merge(self, video: Video) -> MergedVideo:
        """Slot 1: what is attended and diverse, and trees of the rest."""
        return _merge(video.features, tower_of(self.name, video).salience.float(), video.budget, self)


def diverse(features: Tensor, salience: Tensor, counts: list[int]) -> Tensor:
    """(T, N) bool: counts[t] tokens of every frame, each far from those before it and attended.

    The first has the highest attention; each further one the highest product of attention and cosine distance to the
    nearest token that was picked before. The lower position wins a tie. All frames take each step together.

    Args:
        features: (T, N, C).
        salience: (T, N) float32.
        counts: tokens to pick, at most N each.
    """
    found = []
    for part in frame_chunks(*salience.shape):
        unit = torch.nn.functional.normalize(features[part].float(), dim=-1)
        found.append(_diverse(unit @ unit.mT, salience[part], counts[part]))
    return torch.cat(found)


def _diverse(cosines: Tensor, salience: Tensor, counts: list[int]) -> Tensor:
    """`diverse` for some frames, from the cosines (t, N, N) of their tokens."""
    chosen = torch.zeros_like(salience, dtype=torch.bool)
    limit = counts_on(counts, salience.device)
    distance = torch.ones_like(salience)
    for step in range(max(counts)):
        pick = (distance * salience).masked_fill_(chosen, -torch.inf).argmax(1, keepdim=True)
        chosen.scatter_(1, pick, chosen.gather(1, pick) | (step < limit))
        near = cosines.gather(1, pick.unsqueeze(2).expand(-1, -1, salience.shape[1]))[:, 0]
        gap = (1 - near).clamp_(min=0)
        distance = gap if step == 0 else torch.minimum(distance, gap)
    return chosen


def links(features: Tensor, free: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Every free token's most similar free token in the frame before, in the same segment.

    Args:
        features: (T, N, C).
        free: (T, N) bool.
        lengths: frames of the segments.

    Returns:
        (T, N) int64 cells and (T, N) float32 cosines; a token that has none has the cosine -inf.
    """
    frames, positions = free.shape
    parents = torch.zeros_like(free, dtype=torch.int64)
    strength = torch.full(free.shape, -torch.inf, device=free.device)
    for part in frame_chunks(frames - 1, positions):
        before, here = features[:-1][part].float(), features[1:][part].float()
        cosines = torch.nn.functional.normalize(here, dim=-1) @ torch.nn.functional.normalize(before, dim=-1).mT
        strength[1:][part], parents[1:][part] = cosines.masked_fill_(~free[:-1][part].unsqueeze(1), -torch.inf).max(2)
    strength = strength.masked_fill(~free, -torch.inf)
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    strength.index_fill_(0, upload(firsts, free.device, torch.int64), -torch.inf)
    frame_before = (torch.arange(frames, device=free.device) - 1).clamp(min=0).unsqueeze(1)
    return parents + frame_before * positions, strength


@plain
def _merge(features: Tensor, salience: Tensor, budget: int | None, options: FlashVid) -> MergedVideo:
    """The merged video of features (T, N, C) and salience (T, N)."""
    frames, positions, channels = features.shape
    lengths = dynamic_segments(features, options.segments, options.segment_tau)
    if budget is None:
        shares = [min(positions, math.ceil(positions * options.keep * options.expansion))] * frames
    else:
        shares = deal_to_frames(budget, lengths, positions)
    picks = [math.ceil(share * options.alpha) for share in shares]
    wanted = sum(shares) - sum(picks)
    best = diverse(features, salience, picks)
    parents, strength = links(features, ~best, lengths)
    linked = strength > options.tau
    trees = read((~best & ~linked).sum(1))
    if budget is not None and sum(trees) < wanted:  # more than the trees leave: undo their weakest links
        linked = cut_weakest(linked, strength, wanted - sum(trees))
    root = tree_roots(parents.flatten(), linked.flatten(), frames)
    count = max(sum(trees), wanted) if budget is not None else sum(trees)
    table, _ = averaged(features.reshape(-1, channels), root, ~linked.flatten(), sum(picks) + count)
    joins = torch.arange(frames * positions, device=features.device).view(frames, positions)
    if count > wanted:
        joins = _condense(table, best, linked, trees, share_out(wanted, trees), options.k)
        count = wanted
    return finish_tokens(features, table, joins, root, sum(picks) + count, 0.0)


def _condense(table: Tensor, best: Tensor, linked: Tensor, trees: list[int], counts: list[int], k: int) -> Tensor:
    """(T, N) int64: the cell that each token joins where there are more trees than wanted; -1 where it is dropped.

    Args:
        table: (R, C) tokens: those that were picked and the means of the trees.
        best: (T, N) bool, what was picked.
        linked: (T, N) bool, cells that belong to the tree of another.
        trees: how many trees begin in each frame.
        counts: how many to leave of them.
        k: neighbours.
    """
    frames, positions = best.shape
    rows = ranks(~linked.flatten()).view_as(best)
    found, _ = peaks(table, rows, ~best & ~linked, trees, counts, k)
    joins = torch.where(best, torch.arange(positions, device=best.device), found)
    first = (torch.arange(frames, device=best.device) * positions).unsqueeze(1)
    return torch.where(joins < 0, joins, joins + first)
