# SPDX-License-Identifier: Apache-2.0
"""The plan of a merge, made on the host: every set, shape, cluster count and offset.

It follows from the scenes and their numbers of static positions. The plan knows numbers only;
`prunevid.core.merging` carries it out on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunevid.core.shares import share_out

KEEP_AS_IT_IS = 14
"""Sets of at most so many tokens are kept as they are (Stage 1, step 5)."""


@dataclass(frozen=True)
class TokenSet:
    """The static tokens of a scene, or the dynamic tokens of a frame: what is merged among itself.

    Attributes:
        static: whether it is a scene's static set.
        size: tokens in it.
        clusters: tokens left of it.
        first: index of the first of these in the merged sequence.
        start: where its positions begin in the table of positions (scenes x N, static ones first in each scene).
        row: what is added to a position to find its token: frame * N in the video, scene * N among the static means.
        cell: what is added to a position to find the cell that stands for it: frame * N.
        clustered: whether its tokens go through the clustering; otherwise they stay as they are.
    """

    static: bool
    size: int
    clusters: int
    first: int
    start: int
    row: int
    cell: int
    clustered: bool


@dataclass(frozen=True)
class Piece:
    """Sets whose tokens are gathered and multiplied together, out of one table and padded to one width."""

    sets: list[TokenSet]
    width: int

    @property
    def static(self) -> bool:
        return self.sets[0].static

    def whole_frames(self, positions: int) -> slice | None:
        """The frames that this piece consists of, where it is made of whole consecutive frames: no need to gather."""
        if self.static or any(one.size != positions for one in self.sets):
            return None
        first = self.sets[0].row
        if any(one.row != first + i * positions for i, one in enumerate(self.sets)):
            return None
        return slice(first // positions, first // positions + len(self.sets))


@dataclass(frozen=True)
class Batch:
    """Pieces that are clustered together, padded to one width."""

    pieces: list[Piece]

    @property
    def sets(self) -> list[TokenSet]:
        return [one for piece in self.pieces for one in piece.sets]

    @property
    def width(self) -> int:
        return max(piece.width for piece in self.pieces)

    @property
    def most_clusters(self) -> int:
        return max(one.clusters for one in self.sets)

    def columns(self) -> tuple[list[int], list[int]]:
        """Numbers of each set, column by column: its last slot, start, row and first; its size and clusters."""
        places = [(one.size - 1, one.start, one.row, one.first) for one in self.sets]
        counts = [(one.size, one.clusters) for one in self.sets]
        return _by_column(places), _by_column(counts)


@dataclass(frozen=True)
class Plan:
    """All of it.

    Attributes:
        positions: N.
        total: merged tokens.
        sets: in sequence order, empty ones left out.
        batches: the sets that need clustering.
        scene_lengths, static_sizes, dynamic_sizes: as in MergedVideo.
        static_counts: static positions of each scene, before merging.
    """

    positions: int
    total: int
    sets: list[TokenSet]
    batches: list[Batch]
    scene_lengths: list[int]
    static_counts: list[int]
    static_sizes: list[int]
    dynamic_sizes: list[int]

    def ends(self) -> list[int]:
        """Where the merged tokens of every set end in the sequence."""
        return [one.first + one.clusters for one in self.sets]

    def set_columns(self) -> list[int]:
        """Three numbers a set, column by column.

        What leads from a merged token to its centre among all centres (see `_centres_at`); where the set's
        positions start; the cell that position 0 of its stand-in frame is.
        """
        at = self._centres_at()
        return _by_column([(at[one.first] - one.first, one.start, one.cell) for one in self.sets])

    def frame_columns(self) -> list[int]:
        """Three numbers a frame, column by column.

        Its static positions; where the labels of its scene's static set begin among all labels (see
        `_labels_at`); where the labels of its dynamic set would begin if those of the static positions came
        right before them.
        """
        at = self._labels_at()
        rows: list[tuple[int, int, int]] = []
        sets = iter(self.sets)
        for length, count in zip(self.scene_lengths, self.static_counts):
            static = at[next(sets).first] if count else 0
            for _ in range(length):
                rows.append((count, static, at[next(sets).first] - count if count < self.positions else 0))
        return _by_column(rows)

    def _labels_at(self) -> dict[int, int]:
        """Where the labels of every set begin, by its `first`.

        All labels are 0, 1, … total - 1 and then those of the batches: a set that is kept as it is finds its
        labels in the leading range.
        """
        found = {one.first: one.first for one in self.sets}
        found.update(self._rows_of_batches([batch.width for batch in self.batches]))
        return found

    def _centres_at(self) -> dict[int, int]:
        """The same for the centres: where those of every set begin, by its `first`."""
        found = {one.first: 0 for one in self.sets}
        found.update(self._rows_of_batches([batch.most_clusters for batch in self.batches]))
        return found

    def _rows_of_batches(self, widths: list[int]) -> Iterator[tuple[int, int]]:
        position = self.total
        for batch, width in zip(self.batches, widths):
            for one in batch.sets:
                yield one.first, position
                position += width


def make_plan(
    scene_lengths: list[int],
    static_counts: list[int],
    positions: int,
    cluster_ratio: float,
    *,
    budget: int | None = None,
    middle: bool,
    gather_tokens: int,
    distance_elements: int,
    cut_elements: int,
) -> Plan:
    """Plan the merge of a video.

    Args:
        scene_lengths: frames of each scene.
        static_counts: static positions of each scene.
        positions: N.
        cluster_ratio: merged tokens per token in sets that are clustered.
        budget: merged tokens of the whole video instead, dealt out to the sets in proportion to their sizes; every set
            that is not empty keeps one at least.
        middle: a static token is represented by the scene's middle frame, else by its first.
        gather_tokens: bound on the tokens of a piece.
        distance_elements: bound on sets * width * width of a batch.
        cut_elements: distances that must be saved to cut the frames' sets in two by size.
    """
    sizes: list[int] = []
    for length, count in zip(scene_lengths, static_counts):
        sizes += [count, *[positions - count] * length]
    if budget is None:
        counts = [max(1, int(size * cluster_ratio)) if size > KEEP_AS_IT_IS else size for size in sizes]
    else:  # a set that loses nothing stays as it is, whatever its size
        counts = share_out(budget, sizes, least=[1] * len(sizes))
    waiting = iter(zip(sizes, counts))
    sets: list[TokenSet] = []
    static_sizes: list[int] = []
    dynamic_sizes: list[int] = []
    total = frame = 0

    def add(static: bool, start: int, row: int, cell: int) -> int:
        nonlocal total
        size, clusters = next(waiting)
        if size == 0:
            return 0
        clustered = size > KEEP_AS_IT_IS if budget is None else clusters < size
        sets.append(TokenSet(static, size, clusters, total, start, row, cell, clustered))
        total += clusters
        return clusters

    for scene, (length, count) in enumerate(zip(scene_lengths, static_counts)):
        start = scene * positions
        stand_in = frame + (length // 2 if middle else 0)
        static_sizes.append(add(True, start, start, stand_in * positions))
        rows = range(frame * positions, (frame + length) * positions, positions)
        dynamic_sizes.append(sum(add(False, start + count, row, row) for row in rows))
        frame += length
    clustered = [one for one in sets if one.clustered]
    batches = _make_batches(clustered, gather_tokens, distance_elements, cut_elements)
    return Plan(positions, total, sets, batches, scene_lengths, static_counts, static_sizes, dynamic_sizes)


def _by_column(rows: Sequence[tuple[int, ...]]) -> list[int]:
    return [value for column in zip(*rows) for value in column]


def _make_batches(sets: list[TokenSet], gather_tokens: int, distance_elements: int, cut_elements: int) -> list[Batch]:
    by_size = sorted(sets, key=lambda one: -one.size)
    dynamic = [one for one in by_size if not one.static]
    cut = _cut([one.size for one in dynamic], cut_elements)
    batches: list[Batch] = []
    waiting: list[Piece] = []
    for group in ([one for one in by_size if one.static], dynamic[:cut], dynamic[cut:]):
        width = group[0].size if group else 1
        step = max(1, min(gather_tokens // width, distance_elements // width**2))
        for i in range(0, len(group), step):
            piece = Piece(group[i : i + step], group[i].size)
            joined = Batch([*waiting, piece])
            if waiting and len(joined.sets) * joined.width**2 > distance_elements:
                batches.append(Batch(waiting))
                waiting = []
            waiting.append(piece)
    return [*batches, Batch(waiting)] if waiting else batches


def _cut(sizes: list[int], worth: int) -> int:
    """Where to cut a descending list of sizes in two, so that padding each part to its largest wastes least.

    The cost of a part is sets * width^2, its distances. Not cut unless that saves a sixth, and `worth` distances
    at least, because a cut costs operations.
    """
    if not sizes:
        return 0
    whole = len(sizes) * sizes[0] ** 2
    costs = {i: i * sizes[0] ** 2 + (len(sizes) - i) * sizes[i] ** 2 for i in range(1, len(sizes))}
    best = min(costs, key=costs.__getitem__, default=0)
    return best if best and whole - costs[best] > max(whole / 6, worth) else len(sizes)
