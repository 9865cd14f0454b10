# SPDX-License-Identifier: Apache-2.0
"""How the question's attention to the video changes over the layers (the paper's figures 1c and 4).

A method that keeps everything "chooses" after every layer, so that the engine's own hooks write the scores down in the
token map, a few question rows at a time. The model computes what it computes without pruning, to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunevid.config import PruneVidConfig
from prunevid.errors import ConfigError, InputError
from prunevid.methods.base import Choice, Choosing, Method
from prunevid.methods.prunevid import PruneVid
from prunevid.view.pictures import heat_map
from prunevid.view.sheets import begin, draw_frames, draw_heat, tile_width
from prunevid.view.style import LIGHT, Theme
from prunevid.view.subject import Subject

if TYPE_CHECKING:
    from PIL.Image import Image

    from prunevid.answers import Answer
    from prunevid.engine import TokenMap
    from prunevid.qa import VideoQA


@dataclass(frozen=True)
class Recorder(Method):
    """Keeps every token, and scores all of them after some layers as stage 2 of "prunevid" does.

    Attributes:
        layers: 0-based decoder layers, ascending; empty: all from the first on after which the family allows a choice.
        config: `attention_aggregation`, `score_rope` and `score_causal` say how to score.
    """

    name: ClassVar[str] = "attention"
    layers: tuple[int, ...] = ()
    config: PruneVidConfig = dataclasses.field(default_factory=PruneVidConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.layers) != sorted(set(self.layers)):
            raise ConfigError(f"layers is {self.layers}, but must ascend, each layer once.")

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return self.layers

    def for_depth(self, depth: int, first: int = 0) -> Recorder:
        """See `Method.for_depth`: no layers mean all."""
        return self if self.layers else dataclasses.replace(self, layers=tuple(range(first, depth)))

    def choose(self, choosing: Choosing) -> Choice:
        """See `Method.choose`."""
        scores = PruneVid(self.config).scores(choosing)
        return Choice(torch.arange(len(scores), device=scores.device), scores)


@dataclass(frozen=True, eq=False)
class Watched:
    """The question's attention to every cell after some layers.

    Attributes:
        answer: the unpruned model's, with the record in its maps.
        layers: 0-based decoder layers.
    """

    answer: Answer
    layers: tuple[int, ...]

    @property
    def scores(self) -> list[NDArray[np.float32]]:
        """Of each video (layers, T * H * W) float32, cells in the order frame, row, column."""
        return [layer_scores(item) for item in self.answer.maps]


def layer_scores(item: TokenMap) -> NDArray[np.float32]:
    """(layers, T * H * W) float32: what a `Recorder` left in the token map of an unmerged video.

    Raises:
        InputError: the map is of another method.
    """
    rows = [scores for scores in item.step_scores if scores is not None]
    if not rows or len(rows) != len(item.steps) or item.merged is not None:
        raise InputError("This token map holds no attention over layers; make it with prunevid.view.watch.")
    return torch.stack([_on_cpu(row) for row in rows]).numpy()


def _on_cpu(scores: Tensor) -> Tensor:
    return scores.detach().float().cpu()


def watch(
    qa: VideoQA,
    clip: Any,
    question: str,
    *,
    layers: Sequence[int] | None = None,
    config: PruneVidConfig | None = None,
    **options: Any,
) -> Watched:
    """Asks without pruning, and records the question's attention to every cell after some layers.

    Args:
        qa: the model.
        clip, question: see `VideoQA.ask`.
        layers: 0-based decoder layers; None: all from the first on after which the family allows a choice.
        config: how to score (`attention_aggregation`, `score_rope`, `score_causal`); None: as `qa` does.
        options: see `VideoQA.ask`.

    Raises:
        ConfigError: a layer that the model lacks, or one twice.
        InputError, AlreadyAttachedError: see `VideoQA.using` and `VideoQA.ask`.
    """
    recorder = Recorder(tuple(sorted(layers or ())), config or qa.config or PruneVidConfig())
    answer = qa.using(recorder).ask(clip, question, **options)
    found = answer.maps[0].layers if answer.maps else []
    return Watched(answer, tuple(found))


def attention_sheet(
    watched: Watched,
    frames: Any = None,
    *,
    layers: Sequence[int] | None = None,
    width: int = 1120,
    columns: int = 8,
    theme: Theme | str = LIGHT,
    scale: str = "linear",
    title: str | None = None,
) -> Image:
    """A still picture: the frames, and under them the question's attention after every layer.

    Args:
        watched: of `watch`.
        layers: those to show; None: all that were recorded.
        frames, width, columns, theme, scale, title: see `prunevid.view.sheet`.

    Raises:
        ConfigError: a layer that was not recorded; see `prunevid.view.sheet` too.
        InputError: see `prunevid.view.sheet`.
    """
    wanted = watched.layers if layers is None else tuple(layers)
    unknown = [layer for layer in wanted if layer not in watched.layers]
    if unknown:
        raise ConfigError(f"Layer {unknown[0]} was not recorded; choose from {', '.join(map(str, watched.layers))}.")
    subject = Subject.of(watched.answer, frames)
    page = begin(subject, width, columns, theme, title)
    for part in subject.parts:
        canvas = part.by_step(tile_width(page, part.cells, columns), columns)
        draw_frames(page, part, canvas)
        for step in part.cells.steps:
            if step.layer in wanted and step.scores is not None:
                draw_heat(page, f"layer {step.layer}", heat_map(canvas, step.scores, scale=scale))
    return page.drawn()
