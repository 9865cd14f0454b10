# SPDX-License-Identifier: Apache-2.0
"""Stage 1: tokens of a video merged over time and space (docs/algorithm.md, "Stage 1").

All sets of a video (the static tokens of each scene, the dynamic tokens of each frame) go through the same few
tensor operations. The host reads twice: the labels of the frames, which give the scenes, and the number of static
positions of every scene, which gives the size of every set, and with it every shape, every cluster count and
every offset (`prunevid.core._plan`). What depends on the features themselves stays on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid.core._cells import SceneCells, bag_means, frame_means_and_norms, in_float32, lay_out, static_positions
from prunevid.core._plan import Batch, Plan, make_plan
from prunevid.core._tensors import check_count, check_floats, check_number, check_ratio, plain, read, upload
from prunevid.core.clustering import SetSizes, density_peaks, squared_distances
from prunevid.core.scenes import scene_lengths
from prunevid.errors import ConfigError

# Bytes of float32 tokens that are gathered at a time. A processor wants them in its cache, and below the size
# from which its allocator asks the system for fresh pages each time; other devices want few large steps.
_GATHER_BYTES = {"cpu": 24 * 2**20}
_GATHER_BYTES_DEVICE = 256 * 2**20
# Numbers in one tensor of distances: 64 MiB of float32; about four such tensors live at a time.
_DISTANCE_ELEMENTS = 2**24
# Multiplications that must be saved before sets of unlike sizes are padded apart: some milliseconds of a processor.
_CUT_PRODUCTS = 2**28


@dataclass(frozen=True)
class MergedVideo:
    """What stage 1 makes of T frames of N tokens.

    Attributes:
        features: (n, C) merged tokens, scene by scene: static clusters, then the dynamic ones frame by frame.
            Each is the mean of its members, taken in float32 and returned in the dtype of the input.
        assignment: (T * N,) int64, the merged token of every cell t * N + position; -1 would be a dropped cell
            (merging drops none).
        representative: (n,) int64, the cell that stands for each merged token: its cluster's centre; for a static
            token in the scene's first or middle frame.
        group: (n,) int64, the set that each merged token belongs to, numbered 0, 1, … in sequence order.
        scene_lengths: frames of each scene.
        static_sizes: merged static tokens of each scene.
        dynamic_sizes: merged dynamic tokens of each scene, over all its frames.
    """

    features: Tensor
    assignment: Tensor
    representative: Tensor
    group: Tensor
    scene_lengths: list[int]
    static_sizes: list[int]
    dynamic_sizes: list[int]


@plain
def merge_video(
    features: Tensor,
    tau: float = 0.8,
    cluster_ratio: float = 0.5,
    segment_ratio: float = 0.25,
    k: int = 7,
    *,
    static_frame: str = "first",
    budget: int | None = None,
    seed: int | None = None,
) -> MergedVideo:
    """Merge the visual tokens of one video over time and space (docs/algorithm.md, "Stage 1").

    Deterministic. The number of tensor operations does not depend on frames, scenes or tokens as long as the
    video fits one chunk; chunks bound the memory. The host reads twice (once where the video has one frame).

    Args:
        features: (T, N, C) visual tokens, any floating dtype; clustering runs in float32.
        tau: a position of a scene is static where its mean pairwise cosine exceeds this; from 1 on none is, below
            -1 all are (in scenes of two frames or more).
        cluster_ratio: merged tokens per token, in a set of more than 14: int(size * cluster_ratio), at least 1.
        segment_ratio: scene clusters per frame.
        k: neighbours of the clusterings, capped at the size of a set.
        static_frame: the frame of a scene that stands for its static tokens, "first" or "middle"
            (start + length // 2).
        budget: tokens to leave, instead of what `cluster_ratio` leaves: dealt out to the sets in proportion to their
            sizes. Met exactly, except that every scene keeps a token. Where static positions alone leave fewer, the
            least similar of them count as dynamic; where it is smaller than the number of sets, the smallest are
            dropped.
        seed: draw the clusters' centres by lots of this seed (for comparisons; scenes stay as they are); None: by
            density, as published.

    Raises:
        InputError: features is not (T, N, C) with every axis at least 1, or holds no floats.
        ConfigError: a ratio, k or static_frame out of range.
    """
    check_floats("features", features, "T, N, C")
    check_number("tau", tau)
    check_ratio("cluster_ratio", cluster_ratio)
    check_count("k", k, 1)
    if budget is not None:
        check_count("budget", budget, 1, features.shape[0] * features.shape[1])
    if static_frame not in ("middle", "first"):
        raise ConfigError(f"static_frame is {static_frame!r}, but must be 'first' or 'middle'.")
    positions, channels = features.shape[1:]
    given = features.reshape(-1, channels)
    cells = in_float32(given)
    frame_means, norms = frame_means_and_norms(cells, positions)
    lengths = scene_lengths(frame_means, segment_ratio, k)
    scenes = lay_out(cells, lengths, positions)
    static = static_positions(scenes, norms, tau, budget)
    order = static.sort(dim=1, descending=True, stable=True).indices
    plan = make_plan(
        lengths,
        read(static.sum(1)),
        positions,
        cluster_ratio,
        budget=budget,
        middle=static_frame == "middle",
        gather_tokens=max(1, _GATHER_BYTES.get(cells.device.type, _GATHER_BYTES_DEVICE) // (4 * channels)),
        distance_elements=_DISTANCE_ELEMENTS,
        cut_elements=_CUT_PRODUCTS // channels,
    )
    merged = _assemble(given, scenes, plan, order, k, seed)
    return merged if budget is None or plan.total <= budget else _drop_sets(merged, plan, budget)


def _drop_sets(merged: MergedVideo, plan: Plan, budget: int) -> MergedVideo:
    """Drops the sets with the fewest cells, of which one token each is left, until the budget is met.

    Each scene keeps its largest set at least; a static set has as many cells as it has positions and frames.
    """
    sets = iter(plan.sets)
    scene_of, weights, static = [], [], []
    for scene, (length, count) in enumerate(zip(plan.scene_lengths, plan.static_counts)):
        for one in [next(sets) for _ in range((count > 0) + length * (count < plan.positions))]:
            scene_of.append(scene)
            static.append(one.static)
            weights.append(one.size * (length if one.static else 1))
    ranked = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    first = {scene_of[i]: i for i in reversed(ranked)}  # of every scene the largest set
    rest = [i for i in ranked if first[scene_of[i]] != i]
    kept = sorted([*first.values(), *rest[: max(0, budget - len(first))]])
    table = torch.full((len(weights) + 1,), -1, dtype=torch.long)
    table[torch.tensor(kept)] = torch.arange(len(kept))
    table = table.to(merged.assignment.device)
    chosen = torch.tensor(kept, device=table.device)
    sizes = [
        [sum(scene_of[i] == s and static[i] is kind for i in kept) for s in range(len(first))] for kind in (True, False)
    ]
    return MergedVideo(
        merged.features[chosen],
        table[merged.assignment],
        merged.representative[chosen],
        torch.arange(len(kept), device=table.device),
        merged.scene_lengths,
        *sizes,
    )


def _assemble(given: Tensor, scenes: SceneCells, plan: Plan, order: Tensor, k: int, seed: int | None) -> MergedVideo:
    """Cluster every set, then number, average and describe the merged tokens.

    Args:
        given: (T * N, C), the features as they came.
        scenes: the cells.
        plan: the sets.
        order: (S, N) int64, the positions of each scene: static ones first, ascending.
        k: neighbours.
        seed: of centres by lot, or None.
    """
    columns = [plan.ends(), plan.set_columns(), plan.frame_columns()]
    for batch in plan.batches:
        columns += batch.columns()
    numbers = upload([value for column in columns for value in column], order.device, torch.int64)
    ends, set_table, frame_table, *tables = numbers.split([len(column) for column in columns])
    tokens = torch.arange(plan.total, device=order.device)
    places = order.flatten()
    labels, centres = [tokens], [tokens]
    still = None
    if any(piece.static for batch in plan.batches for piece in batch.pieces):
        still = bag_means(scenes.cells, scenes.members, scenes.runs, torch.float32)
    for i, batch in enumerate(plan.batches):
        own = None if seed is None else len(plan.batches) * seed + i
        found, best = _cluster(scenes, still, batch, places, k, own, *tables[2 * i : 2 * i + 2])
        labels.append(found)
        centres.append(best)
    del still
    assignment = _assign(torch.cat(labels), scenes, frame_table, order)
    by_token = assignment.sort(stable=True)
    wide = scenes.cells if given.dtype != torch.float64 else given
    starts = torch.searchsorted(by_token.values, tokens)
    features = bag_means(wide, by_token.indices, starts, given.dtype)
    group = torch.searchsorted(ends, tokens, right=True)
    representative = _represent(torch.cat(centres), set_table, tokens, group, places)
    sizes = plan.scene_lengths, plan.static_sizes, plan.dynamic_sizes
    return MergedVideo(features, assignment, representative, group, *sizes)


def _cluster(
    scenes: SceneCells,
    still: Tensor | None,
    batch: Batch,
    places: Tensor,
    k: int,
    seed: int | None,
    where: Tensor,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cluster the sets of one batch.

    Args:
        scenes: the cells.
        still: (S * N, C), the mean of each position over a scene's frames; None where no static set is clustered.
        batch: the sets.
        places: (S * N,), the positions of each scene, static ones first.
        k: neighbours.
        seed: of centres by lot, or None.
        where, counts: see `Batch.columns`.

    Returns:
        The merged token of every slot of every set, and the slot of every centre; both flat.
    """
    last, start, row, first = where.view(4, -1, 1).unbind()
    size, clusters = counts.view(2, -1, 1, 1).unbind()
    slots = torch.arange(batch.width, device=places.device)
    rows = places[torch.minimum(slots, last) + start] + row
    shape = SetSizes(
        batch.most_clusters,
        min(one.size for one in batch.sets),
        None if all(one.size == batch.width for one in batch.sets) else size,
        None if all(one.clusters == batch.most_clusters for one in batch.sets) else clusters,
    )
    squared = squared_distances(_gram(scenes, still, batch, rows))
    labels, centres = density_peaks(squared, scenes.cells.shape[1], k, shape, seed)
    return (labels + first).flatten(), centres.flatten()


def _gram(scenes: SceneCells, still: Tensor | None, batch: Batch, rows: Tensor) -> Tensor:
    """Inner products (sets, width, width) of the tokens of every set, piece by piece.

    Args:
        scenes, still, batch: as `_cluster` has them.
        rows: (sets, width), where each token stands in its table; beyond the end of a set its last one again.
    """
    count = len(scenes.positions)
    grams = []
    done = 0
    for piece in batch.pieces:
        frames = piece.whole_frames(count)
        if frames is not None:
            tokens = scenes.cells.unflatten(0, (-1, count))[frames].float()
        else:
            wanted = rows if len(batch.pieces) == 1 else rows[done : done + len(piece.sets), : piece.width]
            table = still if still is not None and piece.static else scenes.cells
            tokens = torch.embedding(table, wanted).float()
        tokens = tokens - tokens[:, :1]  # what all tokens of a set share would only cost digits
        gram = torch.bmm(tokens, tokens.mT)
        del tokens
        missing = batch.width - piece.width
        if missing:  # repeat the last slot, as the padding inside a piece does
            gram = torch.nn.functional.pad(gram, (0, missing, 0, missing), mode="replicate")
        grams.append(gram)
        done += len(piece.sets)
    return grams[0] if len(grams) == 1 else torch.cat(grams)


def _assign(labels: Tensor, scenes: SceneCells, frame_table: Tensor, order: Tensor) -> Tensor:
    """(T * N,) int64: the merged token of every cell.

    Args:
        labels: merged token of every slot of every set, one set behind the other.
        scenes: the cells.
        frame_table: (3 * T,), see `Plan.frame_columns`.
        order: (S, N), the positions of each scene, static ones first.
    """
    static_count, static_at, dynamic_at = frame_table.view(3, -1, 1, 1).unbind()
    slots = scenes.positions
    found = labels[torch.where(slots < static_count, static_at, dynamic_at) + slots]  # (T, 1, N)
    return torch.empty_like(found).scatter_(2, order[scenes.scene_of_frame], found).flatten()


def _represent(centres: Tensor, set_table: Tensor, tokens: Tensor, group: Tensor, places: Tensor) -> Tensor:
    """(n,) int64: the cell that stands for each merged token.

    Args:
        centres: slot of every centre of every set, one set behind the other.
        set_table: (3 * sets,), see `Plan.set_columns`.
        tokens: (n,), 0, 1, … n - 1.
        group: (n,), the set of each.
        places: (S * N,), the positions of each scene, static ones first.
    """
    centre_at, start, cell = set_table.view(3, -1).index_select(1, group).unbind()
    return places[centres[tokens + centre_at] + start] + cell
