# SPDX-License-Identifier: Apache-2.0
"""What is remembered of an encoded video and of a prefill: token maps, counts, times."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.engine.rows import RowPlan
from prunevid.methods.base import TowerView
from prunevid.models.base import VideoLayout
from prunevid.stats import decoder_flops, row_stats


@dataclass
class Encoded:
    """Travels on the encoder's output: the layouts of its videos or images, and what stage 1 made of them."""

    layouts: list[VideoLayout]  # in the order of the placeholders
    milliseconds: float
    merged: dict[tuple[Any, int], MergedVideo | None] = field(default_factory=dict)  # by method and video
    views: list[TowerView] | None = None  # of each video, where the method asks for them
    asked: bool = False  # whether it depends on the question
    identity: object = field(default_factory=object)  # the same for all copies of one encoding
    unreported: float = 0.0  # milliseconds that no prefill has reported yet


class Encodings:
    """Encoder outputs by their pixel tensors (the same objects), for as long as those live.

    Prunings of one model may share them, one after the other.

    Args:
        keep_merged: whether what stage 1 made of a video is remembered too.
    """

    def __init__(self, keep_merged: bool = True):
        self._keep_merged = keep_merged
        self._known: list[tuple[Any, Any, Any, Encoded]] = []

    def __len__(self) -> int:
        return len(self._alive())

    def recall(self, pixels: Tensor | None, key: Any) -> tuple[Any, Encoded | None]:
        """What was remembered of these pixels under a key: the output and its description, or (None, None)."""
        for known, name, output, encoded in self._known:
            if pixels is not None and known() is pixels and name == key:
                merged = encoded.merged if self._keep_merged else {}
                spent, encoded.unreported = encoded.unreported, 0.0
                # A copy: `generate` repeats the features in place for beams.
                return copy.copy(output), dataclasses.replace(
                    encoded, milliseconds=spent, merged=merged, unreported=0.0
                )
        return None, None

    def knows(self, pixels: Tensor | None, key: Any) -> bool:
        """Whether `recall` would find something."""
        return pixels is not None and any(known() is pixels and name == key for known, name, *_ in self._known)

    def remember(self, pixels: Tensor | None, key: Any, output: Any, encoded: Encoded) -> None:
        """Writes an encoder's output down; without pixels it can't be found again, and nothing is written."""
        if pixels is not None:
            self._known = [*self._alive(), (weakref.ref(pixels), key, copy.copy(output), encoded)]

    def pixels_of(self, encoded: Encoded) -> Tensor | None:
        """The pixels under which this encoding, or one that it is a copy of, is remembered; None where it is not."""
        return next((pixels() for pixels, _, _, known in self._alive() if known.identity is encoded.identity), None)

    def contents(self) -> Iterator[Any]:
        """Everything remembered, for counting its tensors."""
        for _, _, output, encoded in self._alive():
            yield output
            yield list(encoded.merged.values())
            yield encoded.views

    def forget_oldest(self) -> None:
        """Forgets what was remembered first."""
        self._known = self._alive()[1:]

    def _alive(self) -> list[tuple[Any, Any, Any, Encoded]]:
        """What can still be recalled; the rest is forgotten."""
        self._known = [entry for entry in self._known if entry[0]() is not None]
        return self._known

    def forget(self) -> None:
        """Forgets everything."""
        self._known.clear()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, mappings, dataclasses and model outputs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from tensors_in(getattr(value, item.name))


@dataclass
class TokenMap:
    """What became of every cell of one video's grid in one prompt (enough to draw it; `docs/architecture.md`).

    layout: the grid; `layout.image` tells an image from a video.
    merged: stage 1's result, or None where the video passed whole (every cell its own token).
    kept: (k,) int64, merged tokens that the choices inside the model kept, ascending; None where none was made.
    scores: (n,) float32, the scores of the last choice that a merged token took part in; None where none was scored.
    joined: (n,) int64, the kept token that each merged token is or went into, -1 where it was dropped; None
        where no choice was made.
    steps: what `joined` was after each choice, the last one included.
    layers: the 0-based decoder layer after which each choice was made.
    step_scores: (n,) float32, the scores of each choice, -inf for tokens that took no part in it; None where it was
        not made by scores. Like all tensors here they stay on the device that made them until something is drawn.
    held: merged tokens that every head of every layer holds in the cache after the prompt, where a method shrinks it;
        which ones differs from head to head. None: the cache holds what `kept` says.
    revised: the 0-based layer after which every new token of the answer sees a part of what is left only, where a
        method says so; None: it sees everything.
    """

    layout: VideoLayout
    merged: MergedVideo | None
    kept: Tensor | None = None
    scores: Tensor | None = None
    joined: Tensor | None = None
    steps: list[Tensor] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    step_scores: list[Tensor | None] = field(default_factory=list)
    held: int | None = None
    revised: int | None = None

    def choose(self, layer: int, place: Tensor, scores: Tensor | None) -> None:
        """Writes one choice down.

        Args:
            layer: the 0-based decoder layer after which it was made.
            place: (n,) int64, the merged token that each one is or goes into now, -1 where it is gone.
            scores: (n,) float32, -inf for tokens that took no part; or None.
        """
        before = self.joined
        self.joined = place if before is None else torch.where(before < 0, before, place[before.clamp(min=0)])
        self.steps.append(self.joined)
        self.layers.append(layer)
        self.step_scores.append(scores)
        self.kept = (self.joined == torch.arange(len(place), device=place.device)).nonzero()[:, 0]
        if scores is not None:
            old = self.scores
            self.scores = scores if old is None else torch.where(scores.isneginf(), old.to(scores.device), scores)

    @property
    def after_choices(self) -> list[int]:
        """How many tokens were left after each choice."""
        own = torch.arange(self.tokens)
        return [int((step.cpu() == own).sum()) for step in self.steps]

    @property
    def destination(self) -> Tensor:
        """(T * N,) int64 on the CPU: the merged token that stands for every cell in the end, -1 where there is none."""
        cells = torch.arange(self.layout.cells) if self.merged is None else self.merged.assignment.cpu()
        if self.joined is None:
            return cells
        return torch.where(cells < 0, cells, self.joined.cpu()[cells.clamp(min=0)])

    @property
    def scene_tokens(self) -> list[int]:
        """Tokens of each scene after stage 1; one scene where nothing was merged."""
        if self.merged is None:
            return [self.layout.cells]
        return [still + moving for still, moving in zip(self.merged.static_sizes, self.merged.dynamic_sizes)]

    def describe(self) -> list[dict[str, int]]:
        """How the tokens are divided: of each scene its frames, static and dynamic tokens, and how many were chosen."""
        if self.merged is None:
            rows = [{"frames": self.layout.frames, "static": 0, "dynamic": self.layout.cells}]
        else:
            columns = zip(self.merged.scene_lengths, self.merged.static_sizes, self.merged.dynamic_sizes)
            rows = [{"frames": n, "static": still, "dynamic": moving} for n, still, moving in columns]
        kept = torch.arange(self.tokens) if self.kept is None else self.kept.cpu()
        start = 0
        for row in rows:
            middle, end = start + row["static"], start + row["static"] + row["dynamic"]
            row["chosen_static"] = int(((kept >= start) & (kept < middle)).sum())
            row["chosen_dynamic"] = int(((kept >= middle) & (kept < end)).sum())
            start = end
        return rows

    @property
    def tokens(self) -> int:
        """Tokens after stage 1, the protected ones left out."""
        return self.layout.cells if self.merged is None else int(self.merged.features.shape[0])


@dataclass
class RowRecord:
    """Counts of one row of a prefill.

    tokens, visual, after: of the unpruned row, see `RowPlan`.
    after_choices: tokens of the whole row after each choice.
    removed_from_cache: visual tokens that each layer's cache lost besides.
    """

    tokens: int
    visual: int
    after: int
    maps: list[TokenMap]
    after_choices: list[int] = field(default_factory=list)
    removed_from_cache: int = 0

    @classmethod
    def of(cls, plan: RowPlan, merged: Sequence[MergedVideo | None]) -> RowRecord:
        """A row before any choice; its plan, which holds places of all tokens, is not kept."""
        maps = [TokenMap(video.layout, one) for video, one in zip(plan.videos, merged)]
        return cls(plan.tokens, plan.visual, plan.after, maps)

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
    """What a handle remembers of its last prefill: stats and token maps, an entry a row; milliseconds of its steps."""

    stats: list[dict[str, Any]]
    maps: list[list[TokenMap]]
    times: dict[str, float] = field(default_factory=dict)


def tokens_by_layer(record: RowRecord, layers: Sequence[int], depth: int) -> list[int]:
    """Tokens of the whole row that each of `depth` decoder layers processes, choices being made after `layers`."""
    tokens, found = record.tokens - record.removed_by_merge, []
    choices = dict(zip(layers, record.after_choices))
    for layer in range(depth):
        found.append(tokens)
        tokens = choices.get(layer, tokens)
    return found


def report(
    record: RowRecord,
    config: Any,
    layers: Sequence[int],
    compressed: bool,
    cache_token_bytes: int,
    milliseconds: dict[str, float],
) -> dict[str, dict[str, Any]]:
    """The stats dictionary of one row (the keys are a contract, see `prunevid.stats.row_stats`).

    Args:
        record: the row.
        config: the language model's config, for the FLOPs formula.
        layers: selection layers that acted on this row.
        compressed: whether the cache of early layers was reduced with every choice.
        cache_token_bytes: bytes of one token in the whole cache.
        milliseconds: of the whole batch.
    """
    tokens, visual, depth = record.tokens, record.visual, config.num_hidden_layers
    removed, gone = record.removed_by_merge, record.removed_by_choice
    by_layer = tokens_by_layer(record, layers, depth)
    held = (tokens - removed - gone) * depth if compressed else sum(by_layer)
    held -= record.removed_from_cache * depth
    flops = [decoder_flops(count, config.hidden_size, config.intermediate_size) for count in (*by_layer, tokens)]
    static = sum(sum(item.merged.static_sizes) for item in record.maps if item.merged is not None)
    scenes = sum(len(item.merged.scene_lengths) for item in record.maps if item.merged is not None)
    return row_stats(
        original=visual,
        merged=visual - removed,
        kept=visual - removed - gone,
        held=visual - removed - gone - record.removed_from_cache,
        static=static,
        scenes=scenes,
        selection_layer=layers[-1] if layers else None,
        original_bytes=tokens * cache_token_bytes,
        compressed_bytes=held * (cache_token_bytes // depth),
        flops_ratio=sum(flops[:-1]) / (depth * flops[-1]) if tokens else 1.0,
        milliseconds=milliseconds,
    )
