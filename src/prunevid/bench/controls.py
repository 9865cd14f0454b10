# SPDX-License-Identifier: Apache-2.0
"""Controls: what a pruning method has to be compared with before its accuracy means anything.

They are methods like any other, so the engine cuts as many tokens at the same layer out of the same sequence. What
they go by is made beforehand, for one clip and its questions, and handed over as scores: nothing is kept between runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prunevid.builtin.clips import SyntheticClip
from prunevid.builtin.questions import Question
from prunevid.core import MergedVideo
from prunevid.errors import ConfigError, InputError
from prunevid.methods import Choice, Choosing, Method, PruneVid, Video, keep_cells, top_tokens
from prunevid.methods.dropping import evenly, without_gradients

# eq=False: tensors can't be compared as fields, and the engine remembers what it merged by the method itself.


@dataclass(frozen=True, eq=False)
class After(Method):
    """Base of those that choose once inside the language model.

    Attributes:
        layer: 0-based decoder layer after which the choice is made.
    """

    layer: int = 0

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return (self.layer,)


@dataclass(frozen=True, eq=False)
class Given(After):
    """Inside the language model: keeps the tokens with the highest of given scores.

    Attributes:
        scores: of every prompt of the batch, (n,) float, for the n visual tokens that the language model is given.
    """

    name: ClassVar[str] = "given"
    scores: tuple[Tensor, ...] = ()

    def choose(self, choosing: Choosing) -> Choice:
        """See `Method.choose`."""
        scores = _of_row(self.scores, choosing)
        return Choice(top_tokens(scores, choosing.video, _quota(self, choosing)), scores)


@dataclass(frozen=True, eq=False)
class GivenByGroup(PruneVid):
    """The same by PruneVid's own rule: the highest of every group (of every frame, where nothing was merged).

    Attributes:
        given: the scores, as `Given.scores`.
    """

    name: ClassVar[str] = "given by group"
    given: tuple[Tensor, ...] = ()

    def scores(self, choosing: Choosing) -> Tensor:
        """See `PruneVid.scores`."""
        return _of_row(self.given, choosing)


@dataclass(frozen=True, eq=False)
class Exactly(After):
    """Inside the language model: keeps the marked tokens, whatever their number; it takes no budget.

    Attributes:
        marked: of every prompt of the batch, (n,) boolean.
    """

    name: ClassVar[str] = "exactly"
    marked: tuple[Tensor, ...] = ()

    def choose(self, choosing: Choosing) -> Choice:
        """See `Method.choose`."""
        return Choice(self.marked[choosing.row].to(choosing.video.device).nonzero()[:, 0])


@dataclass(frozen=True)
class Dropped(After):
    """Inside the language model: no visual token goes on after a layer."""

    name: ClassVar[str] = "dropped"

    def choose(self, choosing: Choosing) -> Choice:
        """See `Method.choose`."""
        return Choice(torch.zeros(0, dtype=torch.long, device=choosing.video.device))


@dataclass(frozen=True)
class Lots(After):
    """Inside the language model: keeps tokens by lot, other ones for each prompt of the batch.

    A larger budget keeps what a smaller one keeps, and more.

    Attributes:
        seed: of the lots, at least 0.
    """

    name: ClassVar[str] = "lots"
    seed: int = 0

    def choose(self, choosing: Choosing) -> Choice:
        """See `Method.choose`."""
        lots = np.random.default_rng([self.seed, choosing.row]).permutation(len(choosing.video))
        scores = torch.from_numpy(lots).to(choosing.video.device, torch.float32)
        return Choice(top_tokens(scores, choosing.video, _quota(self, choosing)), scores)


@dataclass(frozen=True, eq=False)
class Shown(Method):
    """Before the language model: keeps the cells with the highest of given scores.

    Attributes:
        scores: (T * N,) float, for every cell of the one video.
    """

    name: ClassVar[str] = "shown"
    scores: Tensor | None = None

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`."""
        cells = video.features[..., 0].numel()
        if self.scores is None or len(self.scores) != cells or video.budget is None:
            raise InputError(f"The video has {cells} cells; give a score for each, and a budget.")
        best = self.scores.to(video.features.device).sort(descending=True, stable=True).indices
        return keep_cells(video.features, best[: video.budget].sort().values)


def _of_row(given: tuple[Tensor, ...], choosing: Choosing) -> Tensor:
    """(n,) float32: the scores that were given for a prompt.

    Raises:
        InputError: there are none, or not as many as tokens.
    """
    if choosing.row >= len(given) or len(given[choosing.row]) != len(choosing.video):
        raise InputError(
            f"Prompt {choosing.row} has {len(choosing.video)} visual tokens, but the scores are for "
            f"{[len(one) for one in given]}; give a score for each token of each prompt."
        )
    return given[choosing.row].to(choosing.video.device, torch.float32)


def _quota(method: Method, choosing: Choosing) -> list[int]:
    if choosing.quota is None:
        raise ConfigError(f"The control {method.name!r} has no share of its own; give retention_ratio.")
    return choosing.quota


# ---- what they go by -------------------------------------------------------------------------------------------------


def saliency(features: Tensor) -> Tensor:
    """(cells, C) features of the vision tower -> (cells,) float32: distance of each from the clip's mean.

    The score of a method that has not been told the question.
    """
    features = features.float()
    return torch.linalg.vector_norm(features - features.mean(0), dim=1)


def even_scores(cells: int, wanted: int) -> Tensor:
    """(cells,) float32: 1 at so many cells at equal steps, from the first to the last, and 0 elsewhere."""
    scores = torch.zeros(cells)
    scores[evenly(cells, wanted)] = 1.0
    return scores


def cover(clip: SyntheticClip, about: Sequence[int], grid: tuple[int, int, int]) -> np.ndarray:
    """How many of a cell's pixels each of some things covers.

    Args:
        clip: with its owner map.
        about: places of the things in the clip's plan (`Question.about`).
        grid: steps, rows and columns of the visual tokens.

    Returns:
        (things, T, N) int64.
    """
    steps, rows, columns = grid
    frames, height, width = clip.owner.shape
    if frames % steps or height % rows or width % columns:
        raise InputError(f"A clip of {clip.owner.shape} pixels can't be divided into {grid} cells.")
    blocks = clip.owner.reshape(steps, frames // steps, rows, height // rows, columns, width // columns)
    found = [(blocks == place + 1).sum(axis=(1, 3, 5)).reshape(steps, -1) for place in about]
    return np.stack(found) if found else np.zeros((0, steps, rows * columns), np.int64)


def asked_cells(clip: SyntheticClip, question: Question, grid: tuple[int, int, int]) -> Tensor:
    """(cells,) boolean: the cells that show any pixel of what a question is about; all, where it is about the clip."""
    if not question.about:
        return torch.ones(int(np.prod(grid)), dtype=torch.bool)
    return torch.from_numpy(cover(clip, question.about, grid).sum(0).reshape(-1) > 0)


def oracle_scores(clip: SyntheticClip, question: Question, grid: tuple[int, int, int], seed: Sequence[int]) -> Tensor:
    """(cells,) float32: the cells of the things asked about first, the others by lot behind them.

    Of the asked ones, the best cell of each thing in each step comes before the second best of any, so that a budget
    too small for all of them still sees every thing at every time; more pixels come first among equals.

    Args:
        seed: of the lots.
    """
    lots = np.random.default_rng(list(seed)).permutation(int(np.prod(grid))) / np.prod(grid)
    covered = cover(clip, question.about, grid)
    if not len(covered):
        return torch.from_numpy(lots).float()
    rank = (-covered).argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
    most = covered.max() + 1
    scores = np.where(covered > 0, covered.shape[2] + 1 - rank + covered / most, 0).max(axis=0).reshape(-1)
    return torch.from_numpy(np.where(scores > 0, scores + 1, lots)).float()


def partners(questions: Sequence[Question]) -> list[int]:
    """For each question another one of the same clip, whose score it is given: the next one that is about other things.

    Where none is, the next one with another wording.

    Raises:
        InputError: all questions are the same, or there is one alone.
    """
    found = []
    for place, question in enumerate(questions):
        others = [(place + step) % len(questions) for step in range(1, len(questions))]
        apart = [other for other in others if not set(questions[other].about) & set(question.about)]
        unlike = [other for other in others if questions[other].text != question.text]
        known = [other for other in apart if questions[other].about and other in unlike] or unlike
        if not known:
            raise InputError(f"A clip has no other question than {question.text!r} to swap with; ask more of each.")
        found.append(known[0])
    return found
