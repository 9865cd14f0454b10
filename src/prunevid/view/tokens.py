# SPDX-License-Identifier: Apache-2.0
"""What became of every cell of one video, as arrays to draw from: lookups in the recorded token map, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from prunevid.core import MergedVideo
    from prunevid.engine import TokenMap

Grid = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Step:
    """One choice inside the language model.

    Attributes:
        layer: the 0-based decoder layer after which it was made.
        token: (T, H, W) int64, the merged token that stands for each cell after it, -1 where there is none.
        scores: (T, H, W) float32, the score of each cell's token, nan where it took no part (it was gone); None where
            the choice was not made by scores.
    """

    layer: int
    token: Grid
    scores: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Scene:
    """A run of grid steps that the merge treated as one.

    Attributes:
        start, stop: its grid steps, `stop` not included.
        static, dynamic: its tokens after the merge.
        kept_static, kept_dynamic: those of them that are left in the end.
    """

    start: int
    stop: int
    static: int
    dynamic: int
    kept_static: int
    kept_dynamic: int


@dataclass(frozen=True, eq=False)
class Cells:
    """The grid of one video (an image: T = 1) in one prompt.

    Attributes:
        merged: (T, H, W) int64, the token that each cell is or went into before the language model, -1: dropped there.
        final: (T, H, W) int64, the token that stands for each cell in the end, -1: none.
        group: (T, H, W) int64, the set (a scene's static tokens, a frame's dynamic ones) of each cell's merged token,
            -1: dropped before.
        static: (T, H, W) bool, whether a cell belongs to a token that stands still through its scene.
        scenes: in order; one where the method finds none.
        steps: the choices inside the language model, in order.
        protected: placeholder tokens of the video that are no cells (a newline after every row, say): never pruned.
        image: whether it is an image.
        pictured: whether a cell is a place in the frame (a query slot is none).
        held: tokens that every head of every layer holds in the cache after the prompt, other ones in each, where the
            method shrinks it so; None elsewhere.
        revised: the 0-based layer after which every new token of the answer sees a part only; None: it sees all.
    """

    merged: Grid
    final: Grid
    group: Grid
    static: NDArray[np.bool_]
    scenes: tuple[Scene, ...]
    steps: tuple[Step, ...]
    protected: int = 0
    image: bool = False
    pictured: bool = True
    held: int | None = None
    revised: int | None = None

    @classmethod
    def of(cls, item: TokenMap) -> Cells:
        """The grid that a token map describes; its tensors are copied to the CPU, and the map stays as it is."""
        layout = item.layout
        shape = (layout.frames, layout.height, layout.width)
        merged = np.arange(layout.cells) if item.merged is None else _numbers(item.merged.assignment)
        if item.merged is None:
            group = np.arange(layout.cells) // (layout.height * layout.width)
            still = np.zeros(layout.cells, dtype=bool)
        else:
            group, still = _numbers(item.merged.group), _still(item.merged)
        return cls(
            merged=merged.reshape(shape),
            final=_numbers(item.destination).reshape(shape),
            group=_through(group, merged, -1).reshape(shape),
            static=_through(still, merged, False).reshape(shape),
            scenes=_scenes(item),
            steps=tuple(_steps(item, merged, shape)),
            protected=layout.tokens - layout.cells,
            image=layout.image,
            pictured=layout.pictured,
            held=item.held,
            revised=item.revised,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, H, W."""
        frames, height, width = self.merged.shape
        return int(frames), int(height), int(width)

    @property
    def clear(self) -> NDArray[np.bool_]:
        """(T, H, W): the cells that a token stands for in the end."""
        return self.final >= 0

    @property
    def counts(self) -> list[int]:
        """Tokens of the video, the protected ones included: before the merge, after it, and after every choice."""
        stages = [self.merged, *(step.token for step in self.steps)]
        return [self.merged.size + self.protected, *(_distinct(stage) + self.protected for stage in stages)]

    @property
    def sizes(self) -> Grid:
        """(n,) how many cells each merged token stands for."""
        inside = self.merged[self.merged >= 0]
        return np.bincount(inside) if inside.size else np.zeros(0, dtype=np.int64)

    @property
    def notes(self) -> list[str]:
        """What a picture of this grid can't show, in whole sentences; empty where it shows everything."""
        found = []
        if self.held is not None:
            found.append(
                f"Every layer and head holds {self.held} of these tokens in its cache, each its own choice: the "
                "picture shows all that the language model was given."
            )
        if self.revised is not None:
            found.append(
                f"While it answers, layers after {self.revised} see a part of these tokens only, chosen anew when "
                "the attention turns: the picture shows all that stay in the cache."
            )
        if not self.pictured:
            found.append("The cells are query slots, which have no place in the frame.")
        return found


def _numbers(tensor: Tensor) -> Grid:
    """A tensor of whole numbers as int64 on the CPU."""
    return tensor.detach().cpu().numpy().astype(np.int64)


def _through(values: NDArray, tokens: Grid, missing: float) -> NDArray:
    """The value of each cell's token; `missing` where there is no token."""
    if not len(values):
        return np.full(tokens.shape, missing, dtype=values.dtype)
    return np.where(tokens < 0, missing, values[np.maximum(tokens, 0)]).astype(values.dtype)


def _distinct(tokens: Grid) -> int:
    return len(np.unique(tokens[tokens >= 0]))


def _still(merged: MergedVideo) -> NDArray[np.bool_]:
    """(n,) whether each merged token is static: of every scene the first ones are."""
    parts = zip(merged.static_sizes, merged.dynamic_sizes)
    flags = [flag for still, moving in parts for flag in [True] * still + [False] * moving]
    return np.array(flags, dtype=bool)


def _scenes(item: TokenMap) -> tuple[Scene, ...]:
    found, start = [], 0
    for row in item.describe():
        stop = start + row["frames"]
        found.append(Scene(start, stop, row["static"], row["dynamic"], row["chosen_static"], row["chosen_dynamic"]))
        start = stop
    return tuple(found)


def _steps(item: TokenMap, merged: Grid, shape: tuple[int, int, int]) -> list[Step]:
    found = []
    for layer, joined, scores in zip(item.layers, item.steps, item.step_scores):
        rated = None
        if scores is not None:
            values = scores.detach().float().cpu().numpy()
            values = np.where(np.isneginf(values), np.float32(np.nan), values)
            rated = _through(values, merged, np.nan).reshape(shape)
        found.append(Step(layer, _through(_numbers(joined), merged, -1).reshape(shape), rated))
    return found


def frame_steps(frames: int, steps: int) -> list[range]:
    """Which of the sampled frames each step of the grid shows, in order.

    A step shows several frames where the model joins neighbours (two in Qwen2-VL), the last step fewer where they
    don't divide. Fewer frames than steps are shown more than once, spread evenly.
    """
    size = -(-frames // steps)
    if frames >= steps and size * (steps - 1) < frames:
        return [range(step * size, min(frames, (step + 1) * size)) for step in range(steps)]
    bounds = [step * frames // steps for step in range(steps + 1)]
    return [range(start, max(start + 1, stop)) for start, stop in pairwise(bounds)]
