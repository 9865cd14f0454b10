# SPDX-License-Identifier: Apache-2.0
"""HoliTom: merge what stands still, choose, merge again inside the decoder (docs/methods/holitom.md)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.config import DefaultCount
from prunevid.core import MergedVideo
from prunevid.core._tensors import check_count, check_number, check_ratio, plain, upload
from prunevid.methods.base import Choosing, TowerRequest, Video
from prunevid.methods.budget import share_out
from prunevid.methods.inner import MergeThenChoose
from prunevid.methods.sets import (
    adjacent_cosines,
    averaged,
    cut_weakest,
    finish,
    finish_tokens,
    nearest_target,
    peaks,
    pick_best,
    ranks,
    tower_of,
)


@dataclass(frozen=True)
class HoliTom(MergeThenChoose):
    """The method of Shao and others (NeurIPS 2025, arXiv 2505.21334).

    Attributes:
        layer: the choice inside the decoder is made after so many layers; 18 of 28 as published.
        inner_keep: share that it keeps; every other token is averaged into the most similar kept one. 1: no choice.
        keep: share of the video's tokens that the merge leaves where no budget is given.
        tau: neighbouring frames' tokens at a position stand still where their cosine is above this.
        beta: least weight of a cluster's centre in its token.
        contextual: share of a frame's moving tokens that are clusters; the others are kept by attention.
        k: neighbours of the clusterings.
        max_window: frames of the longest window.
    """

    name: ClassVar[str] = "holitom"
    layer: int = DefaultCount(18, of=28)
    inner_keep: float = 0.5
    keep: float = 0.10
    tau: float = 0.65
    beta: float = 0.6
    contextual: float = 0.0
    k: int = 7
    max_window: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("keep", self.keep)
        check_ratio("beta", self.beta, zero=True)
        check_ratio("contextual", self.contextual, zero=True)
        check_number("tau", self.tau)
        check_count("k", self.k, 1)
        check_count("max_window", self.max_window, 1)

    @property
    def tower(self) -> TowerRequest:
        """The last layer, head by head."""
        return TowerRequest(layer=-1, split_heads=True)

    def merge(self, video: Video) -> MergedVideo:
        """Slot 1: the outer merge."""
        return _merge(video.features, tower_of(self.name, video).salience.float(), video.budget, self)

    def targets(self, choosing: Choosing, kept: Tensor) -> Tensor:
        """(n,) int64: the kept token of the same video with the most similar hidden state; -1 where it has none."""
        return _inner_targets(choosing.hidden, choosing.video, kept, len(choosing.cells))


@plain
def _inner_targets(hidden: Tensor, video: Tensor, kept: Tensor, videos: int) -> Tensor:
    """See `HoliTom.targets`; hidden (n, C), video (n,), kept ascending."""
    video, kept = video.to(hidden.device), kept.to(hidden.device)
    target = torch.full((len(hidden),), -1, device=hidden.device)
    for number in range(videos):
        members = (video == number).nonzero()[:, 0]
        stay = kept[video[kept] == number]
        if len(stay):
            target[members] = stay[nearest_target(hidden[members], hidden[stay])]
    target[kept] = kept
    return target


# ---- windows -----------------------------------------------------------------------------------------------------


def still_runs(still: Tensor) -> Tensor:
    """(T - 1, N) bool -> (T, N) int64: through how many frames before each a position has stood still."""
    frame = torch.arange(len(still) + 1, device=still.device).unsqueeze(1)
    moved = torch.nn.functional.pad(~still, (0, 0, 1, 0), value=True)
    return frame - torch.where(moved, frame, 0).cummax(0).values


def still_counts(runs: Tensor, longest: int) -> Tensor:
    """(T, N) -> (T, longest) int64: how many positions stand still in the d frames before each frame, d = 0, 1, ..."""
    wanted = torch.arange(longest, device=runs.device).expand(len(runs), -1).contiguous()
    return runs.shape[1] - torch.searchsorted(runs.sort(dim=1).values, wanted)


def best_windows(counts: Tensor) -> list[int]:
    """Lengths of the windows that save the most tokens: each saves its still positions in all frames but one.

    Of partitions that save as much, the one whose last windows are shorter.

    Args:
        counts: `still_counts`, on the host.
    """
    frames, longest = counts.shape
    saved = counts * torch.arange(longest)
    best = torch.zeros(frames + 1, dtype=torch.int64)
    before = []  # frames of the last window's begin, by the window's end
    for frame in range(frames):
        width = min(frame + 1, longest)
        total = best[frame + 1 - width : frame + 1].flip(0) + saved[frame, :width]
        choice = int(total.argmax())
        best[frame + 1] = total[choice]
        before.append(choice + 1)
    lengths: list[int] = []
    while sum(lengths) < frames:
        lengths.append(before[frames - sum(lengths) - 1])
    return lengths[::-1]


def _static(runs: Tensor, lengths: list[int]) -> Tensor:
    """(T, N) bool: positions that stand still all through the window that holds each frame."""
    ends = [end - 1 for end, length in zip(accumulate(lengths), lengths) for _ in range(length)]
    spans = [length - 1 for length in lengths for _ in range(length)]
    end, span = upload([*ends, *spans], runs.device, torch.int64).view(2, -1)
    return (runs[end] >= span.unsqueeze(1)) & (span > 0).unsqueeze(1)


# ---- merge -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Windows:
    """The windows of a video.

    Attributes:
        lengths: frames of each.
        still: positions that stand still in each; 0 in a window of one frame.
        positions: N.
    """

    lengths: list[int]
    still: list[int]
    positions: int

    @property
    def firsts(self) -> list[int]:
        """The first frame of each."""
        return [end - length for end, length in zip(accumulate(self.lengths), self.lengths)]

    @property
    def tokens(self) -> list[int]:
        """Tokens that the merge over time leaves of each."""
        return [count + length * (self.positions - count) for count, length in zip(self.still, self.lengths)]

    def deal(self, wanted: int) -> tuple[list[int], list[int]]:
        """(T,) still and (T,) moving tokens to leave of every frame; the still ones stand in a window's first."""
        least = [1] * len(self.lengths) if wanted >= len(self.lengths) else None
        still: list[int] = []
        moving: list[int] = []
        for share, count, length in zip(share_out(wanted, self.tokens, least), self.still, self.lengths):
            own, *rest = share_out(share, [count] + [self.positions - count] * length)
            still += [own] + [0] * (length - 1)
            moving += rest
        return still, moving

    def sizes(self) -> tuple[list[int], list[int]]:
        """(T,) still and (T,) moving tokens that every frame has; the still ones stand in a window's first."""
        still = [size for count, length in zip(self.still, self.lengths) for size in [count] + [0] * (length - 1)]
        moving = [self.positions - count for count, length in zip(self.still, self.lengths) for _ in range(length)]
        return still, moving


@plain
def _merge(features: Tensor, salience: Tensor, budget: int | None, options: HoliTom) -> MergedVideo:
    """The merged video of features (T, N, C) and salience (T, N)."""
    frames, positions, channels = features.shape
    alike = adjacent_cosines(features)
    runs = still_runs(alike > options.tau)
    counts = still_counts(runs, min(frames, options.max_window)).cpu()  # the host waits here
    lengths = best_windows(counts)
    ends = list(accumulate(lengths))
    still = [int(counts[end - 1, length - 1]) if length > 1 else 0 for end, length in zip(ends, lengths)]
    windows = _Windows(lengths, still, positions)
    left = sum(windows.tokens)
    static = _static(runs, lengths)
    linked = static.index_fill(0, upload(windows.firsts, features.device, torch.int64), False)
    if budget is not None and budget > left:  # more than the merge over time leaves: undo its weakest links
        linked = torch.cat([linked[:1], cut_weakest(linked[1:], alike, budget - left)])
        left = budget
    cell = torch.arange(frames * positions, device=features.device).view(frames, positions)
    root = torch.where(linked, 0, cell).cummax(0).values.flatten()
    table, _ = averaged(features.reshape(-1, channels), root, ~linked.flatten(), left)
    wanted = max(1, round(frames * positions * options.keep)) if budget is None else budget
    if wanted >= left:
        return finish(features, root, table)
    joins = _condense(table, salience, static, ~linked, windows, wanted, options)
    return finish_tokens(features, table, joins, root, wanted, options.beta)


def _condense(
    table: Tensor, salience: Tensor, static: Tensor, head: Tensor, windows: _Windows, wanted: int, options: HoliTom
) -> Tensor:
    """(T, N) int64: the cell that each token joins, -1 where it is dropped (and where no token stands).

    Args:
        table: (R, C) tokens that the merge over time leaves.
        salience: (T, N).
        static: (T, N) bool, cells that stand still.
        head: (T, N) bool, where a token stands.
        windows: the windows.
        wanted: tokens to leave, fewer than R.
        options: of the method.
    """
    frames, positions = static.shape
    rows = ranks(head.flatten()).view_as(static)
    first = (torch.arange(frames, device=static.device) * positions).unsqueeze(1)
    own = torch.arange(positions, device=static.device)
    still_counts, moving_counts = windows.deal(wanted)
    still_sizes, moving_sizes = windows.sizes()
    clusters = [int(count * options.contextual) for count in moving_counts]
    attended = [count - other for count, other in zip(moving_counts, clusters)]
    best = pick_best(salience, attended, ~static)
    rest = [size - count for size, count in zip(moving_sizes, attended)]
    joins = torch.where(best, own, -1)
    for mask, sizes, counts in [(static & head, still_sizes, still_counts), (~static & ~best, rest, clusters)]:
        found, _ = peaks(table, rows, mask, sizes, counts, options.k)
        joins = torch.where(found < 0, joins, found)
    return torch.where(joins < 0, joins, joins + first)
