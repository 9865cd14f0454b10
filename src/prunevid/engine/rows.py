# SPDX-License-Identifier: Apache-2.0
"""Where the visual tokens of a batch are, and the shorter sequence that stage 1 makes of every row.

Everything that can be decided from token ids is decided on the host after one read; features stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.errors import UnsupportedError
from prunevid.models.base import VideoLayout

CHUNK_MESSAGE = (
    "The prompt holds {found} {kind} tokens but the encoder was asked for {known}; pruning needs the whole prompt in "
    "one forward pass, so leave prefill_chunk_size unset and let the attached model encode its own {kind}s."
)


@dataclass(frozen=True)
class RowVideo:
    """One video (or image) of one row.

    kind: "video" or "image", whose placeholders it has; index: which layout of that kind of the batch it is; cells:
    (T*N,) int64, the places of its cells in the row, ascending.
    """

    kind: str
    index: int
    layout: VideoLayout
    cells: Tensor


@dataclass(frozen=True)
class RowPlan:
    """One row of the unpruned batch, on the host.

    videos: in the order in which they stand in the row.
    other: (n,) int64 places of the row's valid tokens that are no grid cells (text, whole images, protected tokens).
    after: number of valid tokens after the last visual token of any kind: the question rows of stage 2.
    """

    videos: list[RowVideo]
    other: Tensor
    after: int

    @property
    def tokens(self) -> int:
        """Valid tokens of the row."""
        return len(self.other) + sum(len(video.cells) for video in self.videos)

    @property
    def visual(self) -> int:
        """Visual tokens of the row's videos, the protected ones included."""
        return sum(video.layout.tokens for video in self.videos)


def plan_rows(masks: Mapping[str, Tensor], valid: Tensor, layouts: Mapping[str, list[VideoLayout]]) -> list[RowPlan]:
    """Finds every video of every row, and every image that is treated as one.

    Args:
        masks: "video" and "image" to (B, L) boolean on the CPU: their placeholders.
        valid: (B, L) boolean on the CPU: tokens that are no padding.
        layouts: by the same names, in the order of the placeholders, before `generate` repeated rows for beams or
            several return sequences (the rows then are a multiple of what the layouts describe). What has no entry
            stays whole.

    Raises:
        UnsupportedError: placeholders and layouts don't fit together (a chunk of a prompt, foreign features).
    """
    visual = torch.stack(list(masks.values())).any(0)
    found: list[list[RowVideo]] = [[] for _ in valid]
    for kind, known in layouts.items():
        for row, videos in zip(found, _find(kind, masks[kind], known)):
            row += videos
    return [_plan_row(visual[r], valid[r], videos) for r, videos in enumerate(found)]


def _find(kind: str, mask: Tensor, layouts: list[VideoLayout]) -> list[list[RowVideo]]:
    """The videos (or images) of every row, from the (B, L) mask of their placeholders."""
    counts = mask.sum(1).tolist()
    if not layouts and not any(counts):
        return [[] for _ in counts]
    known = sum(layout.tokens for layout in layouts)
    repeat = sum(counts) // known if known else 0
    if repeat < 1 or repeat * known != sum(counts) or len(counts) % repeat:
        raise UnsupportedError(CHUNK_MESSAGE.format(found=sum(counts), known=known, kind=kind))
    groups = _share_out(kind, counts[::repeat], layouts)
    return [_place(kind, row.nonzero()[:, 0], groups[r // repeat]) for r, row in enumerate(mask)]


def _share_out(kind: str, counts: list[int], layouts: list[VideoLayout]) -> list[list[tuple[int, VideoLayout]]]:
    """Deals the layouts to the rows by their numbers of placeholders."""
    rows: list[list[tuple[int, VideoLayout]]] = []
    upcoming = iter(enumerate(layouts))
    for count in counts:
        row: list[tuple[int, VideoLayout]] = []
        filled = 0
        while filled < count:
            index, layout = next(upcoming)
            row.append((index, layout))
            filled += layout.tokens
        if filled != count:
            raise UnsupportedError(CHUNK_MESSAGE.format(found=count, known=filled, kind=kind))
        rows.append(row)
    return rows


def _place(kind: str, places: Tensor, row: list[tuple[int, VideoLayout]]) -> list[RowVideo]:
    """Where the cells of one row's layouts are, from the places of all their placeholders."""
    videos, start = [], 0
    for index, layout in row:
        if layout.cells:  # a picture that stays whole has none
            videos.append(RowVideo(kind, index, layout, places[start + layout.places()]))
        start += layout.tokens
    return videos


def _plan_row(visual: Tensor, valid: Tensor, videos: list[RowVideo]) -> RowPlan:
    other = valid.clone()
    for video in videos:
        other.index_fill_(0, video.cells, False)
    last = visual.nonzero()[-1:, 0]
    after = int(valid[int(last) + 1 :].sum()) if len(last) else 0
    return RowPlan(sorted(videos, key=lambda video: int(video.cells[0])), other.nonzero()[:, 0], after)


@dataclass
class Row:
    """One row after stage 1, without padding, on the model's device.

    source: (n,) int64, the place in the unpruned row that each token comes from (a merged token: its representative's).
    visual: (v,) int64, places in this row of the tokens that stage 2 may drop.
    order: (v,) int64, which merged token (numbered through the row's videos) stands at each of these places.
    group: (v,) int64, their groups, different for different videos.
    after: question rows at the row's end.
    embeds: (n, C), or None where nothing changed; None, too, once they stand in the batch.
    target: (L,) int64, the place in this row that each token of the unpruned row went to or was merged into, -1 for
        padding; empty once the batch was made of it.
    """

    source: Tensor
    visual: Tensor
    order: Tensor
    group: Tensor
    after: int
    embeds: Tensor | None
    target: Tensor

    @property
    def tokens(self) -> int:
        """n."""
        return int(self.source.shape[0])


def merge_row(
    plan: RowPlan,
    embeds: Tensor,
    merge: Callable[[RowVideo, Tensor], MergedVideo | None],
    raster: Callable[[VideoLayout], bool],
) -> tuple[Row, list[MergedVideo | None]]:
    """Builds one row's shorter sequence.

    Args:
        plan: the unpruned row.
        embeds: (L, C) its embeddings, visual features already in place.
        merge: called once for each video with its features (T, N, C); None where nothing is merged.
        raster: whether a video's merged tokens stand in the order of their representatives; otherwise in the order of
            stage 1, from the place of the first cell on.

    Returns:
        The row, and what `merge` returned for each video.
    """
    device = embeds.device
    other = plan.other.to(device)
    places, keys, features, groups, maps = [other], [other], [embeds[other]], [], []
    next_group = 0
    members = [torch.arange(len(other), device=device)]
    for video in plan.videos:
        cells = video.cells.to(device)
        frames = video.layout.frames
        grid = embeds[cells]
        merged = merge(video, grid.view(frames, -1, grid.shape[-1]))
        maps.append(merged)
        if merged is None:
            place, feature = cells, grid
            group = torch.arange(frames, device=device).repeat_interleave(len(cells) // frames, output_size=len(cells))
            went = torch.arange(len(cells), device=device)
        else:
            place, feature, group = cells[merged.representative], merged.features, merged.group
            went = merged.assignment
        before = sum(map(len, places))
        members.append(torch.where(went < 0, went, went + before))
        places.append(place)
        keys.append(place if merged is None or raster(video.layout) else cells[: len(place)])
        features.append(feature.to(embeds.dtype))
        groups.append(group + next_group)
        next_group += frames * 2
    order = torch.cat(keys).argsort()
    texts = len(other)
    # Their number is known, so that nobody waits for the device: a stable sort brings them to the end.
    visual = (order >= texts).sort(stable=True).indices[texts:] if groups else order[:0]
    which = order[visual] - texts
    changed = any(merged is not None for merged in maps)
    row = Row(
        source=torch.cat(places)[order],
        visual=visual,
        order=which,
        group=torch.cat(groups)[which] if groups else which,
        after=plan.after,
        embeds=torch.cat(features)[order] if changed else None,
        target=_targets(plan, order, torch.cat(members), embeds.shape[0]),
    )
    return row, maps


def _targets(plan: RowPlan, order: Tensor, members: Tensor, length: int) -> Tensor:
    """See `Row.target`; `members` says which of the unordered tokens each token of the plan belongs to, or -1."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    tokens = torch.cat([plan.other, *(video.cells for video in plan.videos)]).to(order.device)
    target = torch.full((length,), -1, dtype=torch.long, device=order.device)
    target[tokens] = torch.where(members < 0, members, place[members.clamp(min=0)])
    return target
