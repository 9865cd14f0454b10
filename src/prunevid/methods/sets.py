# SPDX-License-Identifier: Apache-2.0
"""What the merging methods share: picking, clustering and joining cells, in sets of one frame each.

A method describes its result by `joins`: for every cell the cell that it joins (a kept cell: its own), -1 where it is
dropped. `blended` and `averaged` make the merged tokens of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._cells import _slices as channel_slices
from prunevid.core._cells import bag_means
from prunevid.core._tensors import read, upload
from prunevid.core.clustering import SetSizes, density_peaks, squared_distances
from prunevid.errors import InputError, UnsupportedError
from prunevid.methods.base import TowerView, Video, merge_cells
from prunevid.methods.budget import share_out

# Numbers in one tensor of similarities or distances: 64 MiB of float32.
_MAP_ELEMENTS = 2**24


def tower_of(name: str, video: Video) -> TowerView:
    """What the vision tower computed for the video.

    Raises:
        UnsupportedError: it was not recorded.
        InputError: it does not fit the video's cells.
    """
    if video.tower is None:
        raise UnsupportedError(
            f"The method {name!r} needs the vision tower's attention, which this model does not offer; choose a "
            "method that needs no tower."
        )
    frames, positions = video.features.shape[:2]
    if video.tower.salience.shape != (frames, positions):
        raise InputError(
            f"The tower's salience has shape {tuple(video.tower.salience.shape)}, but the video has {frames} frames of "
            f"{positions} tokens; hand in one number a token."
        )
    device = video.features.device
    return TowerView(video.tower.salience.to(device), video.tower.keys.to(device), video.tower.class_token)


# ---- picking -----------------------------------------------------------------------------------------------------


def counts_on(counts: Sequence[int], device: torch.device) -> Tensor:
    """(b, 1) int64 on the device."""
    return upload(list(counts), device, torch.int64).unsqueeze(1)


def pick_best(scores: Tensor, counts: Sequence[int], allowed: Tensor | None = None) -> Tensor:
    """(b, n) bool: the counts[i] highest scores of every row i; the lower index wins a tie.

    Args:
        scores: (b, n) float.
        counts: how many of each row, at most as many as are allowed.
        allowed: (b, n) bool, where picking is allowed; None: everywhere.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices
    if allowed is not None:  # a second stable sort instead of a score of -inf, which a token may have itself
        order = order.gather(1, allowed.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    rank = torch.arange(scores.shape[1], device=scores.device)
    chosen = rank < counts_on(counts, scores.device)
    return torch.empty_like(chosen).scatter_(1, order, chosen)


def pick_evenly(allowed: Tensor, sizes: Sequence[int], counts: Sequence[int]) -> Tensor:
    """(b, n) bool: counts[i] of the sizes[i] allowed cells of every row i, evenly spaced, the first one among them."""
    rank = allowed.cumsum(1) - 1
    size, count = counts_on(sizes, allowed.device), counts_on(counts, allowed.device)
    return allowed & ((rank * count) % size.clamp(min=1) < count)


# ---- segments ----------------------------------------------------------------------------------------------------


def adjacent_cosines(vectors: Tensor) -> Tensor:
    """(T, ..., C) -> (T - 1, ...) float32: cosines of each vector with the same one of the next frame."""
    unit = torch.nn.functional.normalize(vectors.float(), dim=-1)
    return (unit[1:] * unit[:-1]).sum(-1)


def frame_vectors(features: Tensor) -> Tensor:
    """(T, N, C) -> (T, C) float32: the mean of each frame's tokens."""
    frames, positions, channels = features.shape
    members = torch.arange(frames * positions, device=features.device)
    return bag_means(features.reshape(-1, channels), members, members[::positions], torch.float32)


def dynamic_segments(features: Tensor, least: int, tau: float) -> list[int]:
    """Lengths of the segments of a video: cut at the least similar frames, and wherever similarity is below tau.

    The host reads once.

    Args:
        features: (T, N, C).
        least: how many segments there are at least, up to T: the least - 1 least similar neighbours are cut.
        tau: bound on the cosine of neighbouring frames' mean vectors.
    """
    frames = len(features)
    cosines = read(adjacent_cosines(frame_vectors(features)))
    weakest = sorted(range(frames - 1), key=lambda i: (cosines[i], i))[: least - 1]
    cuts = sorted(set(weakest) | {i for i, cosine in enumerate(cosines) if cosine < tau})
    ends = [cut + 1 for cut in cuts] + [frames]
    return [end - start for start, end in zip([0, *ends], ends)]


def deal_to_frames(budget: int, lengths: Sequence[int], positions: int) -> list[int]:
    """A budget dealt to segments, one each at least where there is enough, and within them to their frames."""
    least = [1] * len(lengths) if budget >= len(lengths) else None
    shares = share_out(budget, [length * positions for length in lengths], least)
    return [one for share, length in zip(shares, lengths) for one in share_out(share, [positions] * length)]


# ---- clustering and joining --------------------------------------------------------------------------------------


def peaks(
    table: Tensor, rows: Tensor, mask: Tensor, sizes: Sequence[int], counts: Sequence[int], k: int
) -> tuple[Tensor, Tensor]:
    """Density peaks (docs/algorithm.md, "Clustering") in the members of every set; the host waits for nothing.

    Args:
        table: (R, C) tokens, any floating dtype.
        rows: (b, n) int64, where the tokens of each set stand in the table; read where the mask is True.
        mask: (b, n) bool, the members.
        sizes: members of each set.
        counts: clusters of each set, at most its size; 0: the set is left out.
        k: neighbours, the token itself included, capped at the size of the set.

    Returns:
        (b, n) int64, the slot of the centre that each member joins (a centre: its own), -1 for what is no member
        or in a set that is left out; and (b, n) bool, the centres.
    """
    joins = torch.full_like(rows, -1)
    busy = sorted((i for i, count in enumerate(counts) if count), key=lambda i: sizes[i])
    while busy:
        width = sizes[busy[-1]]
        step = max(1, _MAP_ELEMENTS // (width * max(width, table.shape[1])))
        part, busy = busy[-step:], busy[:-step]
        where = upload(part, rows.device, torch.int64)
        chunk = _peaks(table, rows[where], mask[where], [sizes[i] for i in part], [counts[i] for i in part], k)
        joins[where] = chunk
    return joins, joins == torch.arange(rows.shape[1], device=rows.device)


def _peaks(table: Tensor, rows: Tensor, mask: Tensor, sizes: list[int], counts: list[int], k: int) -> Tensor:
    """`peaks` for some sets at a time, each padded to the largest by copies of its last member."""
    order = mask.sort(dim=1, descending=True, stable=True).indices[:, : max(sizes)]
    size, count = counts_on(sizes, rows.device), counts_on(counts, rows.device)
    ramp = torch.arange(max(sizes), device=rows.device)
    members = order.gather(1, torch.minimum(ramp, size - 1))
    points = table[rows.gather(1, members)].float()
    points = points - points[:, :1]  # what all tokens of a set share would only cost digits
    shape = SetSizes(max(counts), min(sizes), size.unsqueeze(2), count.unsqueeze(2))
    labels, centres = density_peaks(squared_distances(torch.bmm(points, points.mT)), table.shape[1], k, shape)
    joined = order.gather(1, centres[:, :, 0]).gather(1, labels).masked_fill_(ramp >= size, -1)
    return torch.full_like(rows, -1).scatter_(1, order, joined)


def nearest_target(tokens: Tensor, targets: Tensor) -> Tensor:
    """(n, C), (m, C) -> (n,) int64: the target of the highest cosine, the lower index on a tie; float32, by slices."""
    unit = torch.nn.functional.normalize(targets.float(), dim=1).mT
    step = max(1, _MAP_ELEMENTS // unit.shape[1])
    # The length of a token itself does not change which target is nearest.
    return torch.cat([(part.float() @ unit).argmax(1) for part in tokens.split(step)])


def frame_chunks(frames: int, positions: int) -> list[slice]:
    """Slices of the frames, so that one map of N x N numbers a frame stays within bounds."""
    step = max(1, _MAP_ELEMENTS // positions**2)
    return [slice(start, start + step) for start in range(0, frames, step)]


def nearest_in_frame(vectors: Tensor, targets: Tensor) -> Tensor:
    """For every token the target of the highest cosine in its frame; a target is its own.

    Args:
        vectors: (T, N, C).
        targets: (T, N) bool.

    Returns:
        (T, N) int64 positions; what stands in a frame without targets means nothing.
    """
    found = []
    for part in frame_chunks(*targets.shape):
        unit = torch.nn.functional.normalize(vectors[part].float(), dim=-1)
        found.append((unit @ unit.mT).masked_fill_(~targets[part].unsqueeze(1), -torch.inf).argmax(2))
    own = torch.arange(targets.shape[1], device=targets.device)
    return torch.where(targets, own, torch.cat(found))


# ---- merged tokens -----------------------------------------------------------------------------------------------


def ranks(chosen: Tensor) -> Tensor:
    """(n,) bool -> (n,) int64: how many are chosen before each."""
    return chosen.cumsum(0) - chosen.long()


def averaged(table: Tensor, joins: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means of the rows that join each chosen one, taken in float32; deterministic on every device.

    Args:
        table: (R, C).
        joins: (R,) int64, the chosen row that each row joins, or -1.
        chosen: (R,) bool.
        count: how many are chosen.

    Returns:
        (count, C) float32, zero where nothing joins, and (count,) int64, how many rows join.
    """
    number = torch.where(joins < 0, count, ranks(chosen)[joins.clamp(min=0)])
    by_token = number.sort(stable=True)
    starts = torch.searchsorted(by_token.values, torch.arange(count + 1, device=table.device))
    means = bag_means(table, by_token.indices, starts, torch.float32)
    return means[:count], starts.diff()


def weighted_sums(table: Tensor, members: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums of weighted rows, bag after bag, in float32.

    Args:
        table: (R, C).
        members: (m,) int64 rows.
        starts: (b,) int64, where each bag begins in `members`.
        weights: (m,) float32.

    Returns:
        (b, C) float32, zero for an empty bag.
    """
    parts = [
        torch.embedding_bag(table[:, part].float(), members, starts, mode=0, per_sample_weights=weights)[0]
        for part in channel_slices(table)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def blended(table: Tensor, joins: Tensor, chosen: Tensor, count: int, beta: float) -> Tensor:
    """Chosen rows mixed with the means of the n rows that join each: w * own + (1 - w) * mean, w = max(beta, 1/(n+1)).

    Args:
        table, joins, chosen, count: as `averaged` has them.
        beta: the least weight of the chosen row itself.

    Returns:
        (count, C) float32.
    """
    others, number = averaged(table, joins.masked_fill(chosen, -1), chosen, count)
    weight = (1 / (number + 1).float()).clamp(min=beta).unsqueeze(1)
    own = table[chosen].float()
    return torch.where(number.unsqueeze(1) > 0, weight * own + (1 - weight) * others, own)


def finish(features: Tensor, joins: Tensor, merged: Tensor) -> MergedVideo:
    """The result of a method.

    Args:
        features: (T, N, C), for shape and dtype.
        joins: (T * N,) int64, the cell that each cell joins, or -1.
        merged: (n, C) the tokens, one for each cell that joins itself, in raster order. A value beyond the range of
            the features' dtype becomes the nearest in range.
    """
    chosen = joins == torch.arange(len(joins), device=joins.device)
    assignment = torch.where(joins < 0, joins, ranks(chosen)[joins.clamp(min=0)])
    limit = torch.finfo(features.dtype).max
    return merge_cells(features, assignment, chosen.nonzero()[:, 0], merged.clamp(-limit, limit))


def finish_tokens(features: Tensor, table: Tensor, joins: Tensor, root: Tensor, count: int, beta: float) -> MergedVideo:
    """Joins tokens that are means over cells.

    Args:
        features: (T, N, C).
        table: (R, C) the tokens.
        joins: (T, N), the cell of the token that each token joins, or -1.
        root: (T * N,), the cell of the token that each cell belongs to.
        count: how many tokens are left.
        beta: least weight of the token that others join.
    """
    head = root == torch.arange(len(root), device=root.device)
    target = joins.flatten()[head]
    row = torch.where(target < 0, target, ranks(head)[target.clamp(min=0)])
    chosen = row == torch.arange(len(row), device=row.device)
    return finish(features, joins.flatten()[root], blended(table, row, chosen, count, beta))


# ---- links over time ---------------------------------------------------------------------------------------------


def cut_weakest(linked: Tensor, strength: Tensor, cuts: int) -> Tensor:
    """Links without the weakest `cuts` of them; of equal ones the earlier is cut first.

    Args:
        linked: bool of any shape.
        strength: float32 of the same shape.
        cuts: how many to cut, at most as many as there are.
    """
    if not cuts:
        return linked
    flat, order = linked.flatten(), strength.flatten().sort(stable=True).indices
    order = order[flat[order].sort(descending=True, stable=True).indices]  # the linked ones first, weakest first
    return flat.index_fill(0, order[:cuts], False).view(linked.shape)


def tree_roots(parents: Tensor, linked: Tensor, frames: int) -> Tensor:
    """(T * N,) int64: the cell where the chain of links of each cell ends; a cell without a link is its own.

    Args:
        parents: (T * N,) int64, the cell of the frame before that a linked cell hangs on.
        linked: (T * N,) bool.
        frames: T.
    """
    root = torch.where(linked, parents, torch.arange(len(parents), device=parents.device))
    for _ in range((frames - 1).bit_length()):  # every step doubles the links that are followed
        root = root[root]
    return root
