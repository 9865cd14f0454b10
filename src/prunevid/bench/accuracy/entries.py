# SPDX-License-Identifier: Apache-2.0
"""What is compared: an entry for each method and control at each share, and how it becomes a method for one clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prunevid import methods
from prunevid.bench import controls
from prunevid.builtin.clips import SyntheticClip
from prunevid.builtin.questions import Question
from prunevid.choice import choose_method
from prunevid.config import PruneVidConfig
from prunevid.errors import ConfigError, InputError
from prunevid.methods import Method
from prunevid.methods.budget import Split, mean_over_layers

UNPRUNED, NO_VIDEO = "unpruned", "no video"


@dataclass(frozen=True)
class Entry:
    """One column of the comparison.

    Attributes:
        name: what it is called in tables; draws of one control share it.
        control: "method", or one of `CONTROLS`.
        method: for "method" its name as `prunevid.methods.get` takes it; for a swapped question whose scores they are.
        options: of the method, as JSON types.
        retention: share of the visual tokens to keep; None: as the method's own options say.
        layer: 0-based decoder layer after which it chooses; None where it acts before the language model only.
        draw: number of a control by lot.
        needs: key of an entry that has to be asked before on the same clip: whose scores are swapped, or whose number
            of tokens is kept ("random", before the language model).
        beside: keys of entries that it is a control for, besides those at its own layer and share.
    """

    name: str
    control: str = "method"
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    retention: float | None = None
    layer: int | None = None
    draw: int = 0
    needs: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def point(self) -> tuple[str, int | None, float | None]:
        """What all draws of an entry share."""
        return self.name, self.layer, self.retention

    @property
    def key(self) -> str:
        """Its name in files, different for different entries of a plan."""
        parts = [self.name]
        if self.layer is not None:
            parts.append(f"@{self.layer}")
        if self.retention is not None:
            parts.append(f"{self.retention:g}")
        if self.draw:
            parts.append(f"#{self.draw}")
        return " ".join(parts)

    @property
    def by_question(self) -> bool:
        """Whether it shows each question another clip, so that every question needs a pass of its own."""
        return self.control == "oracle" and self.layer is None

    @property
    def place(self) -> str:
        """Where it acts: "before" the language model, "inside" it, or "none"."""
        if self.control in (UNPRUNED, NO_VIDEO):
            return "none"
        return "before" if self.layer is None else "inside"


@dataclass
class Context:
    """What entries may know of the clip that is being asked about.

    Attributes:
        seed: of the clip.
        clip: with its plan.
        questions: the rows of the batch.
        grid: steps, rows and columns of its visual tokens.
        features: (cells, C) of the vision tower.
        depth: decoder layers of the model.
        scores: by the key of an entry that was asked, the scores that each row's tokens were given.
        tokens: by that key, visual tokens that were left (of the first row).
    """

    seed: int
    clip: SyntheticClip
    questions: Sequence[Question]
    grid: tuple[int, int, int]
    features: Tensor
    depth: int
    scores: dict[str, list[Tensor]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """Visual tokens of the clip."""
        return len(self.features)

    def of_row(self, row: int) -> Context:
        """The same for one of the questions."""
        return dataclasses.replace(self, questions=self.questions[row : row + 1])


def method_of(entry: Entry, context: Context) -> Method:
    """The method that an entry is on one clip.

    Raises:
        ConfigError: the method's options don't fit it.
        InputError: what it needs is missing.
    """
    if entry.control not in CONTROLS:
        raise ConfigError(f"{entry.control!r} is no control; choose one of {', '.join(CONTROLS)}.")
    return CONTROLS[entry.control](entry, context)


def registered(entry: Entry, retention: float | None) -> Method:
    """The registered method of an entry with a share of its own."""
    return choose_method(entry.method, retention_ratio=retention, method_options=entry.options)


def split_of(entry: Entry, cells: int, steps: int, depth: int) -> tuple[tuple[int, ...], Split]:
    """After which layers a method chooses, and how many of the cells of a clip of so many steps it leaves there."""
    method = registered(entry, entry.retention).for_depth(depth)
    return method.selection_layers, method.split(cells, steps, depth)


def _registered(entry: Entry, context: Context) -> Method:
    return registered(entry, entry.retention)


def _keep_all(entry: Entry, context: Context) -> Method:
    """Everything is chosen, by the hooks by which another method would choose less."""
    return controls.Lots(layer=_layer(entry), retention_ratio=1.0)


def _random(entry: Entry, context: Context) -> Method:
    seed = _lot(entry, context)
    if entry.layer is not None:
        return controls.Lots(layer=entry.layer, seed=seed, retention_ratio=entry.retention)
    if entry.needs is not None:
        return methods.get("random", seed=seed, retention_tokens=_known(context.tokens, entry))
    return methods.get("random", seed=seed, retention_ratio=entry.retention)


def _same_cost(entry: Entry, context: Context) -> Method:
    """Random before the language model: as many tokens as a decoder layer processes on average with a method inside."""
    layers, split = split_of(entry, context.cells, context.grid[0], context.depth)
    if split.chosen is None:
        raise ConfigError(f"{entry.method!r} makes no choice inside the language model; its cost is its share.")
    merged = context.cells if split.merged is None else split.merged
    mean = mean_over_layers(merged, split.chosen, layers, context.depth)
    return methods.get("random", seed=_lot(entry, context), retention_tokens=max(1, round(mean)))


def _stage1_then_random(entry: Entry, context: Context) -> Method:
    """PruneVid's merge to the same number as with its own choice, then a choice by lot."""
    whole = choose_method("prunevid", retention_ratio=entry.retention, method_options=entry.options)
    split = whole.split(context.cells, context.grid[0], context.depth)
    merge = choose_method(
        "prunevid", retention_tokens=split.merged, method_options={**entry.options, "enable_stage2": False}
    )
    return methods.compose(
        merge, controls.Lots(layer=_layer(entry), seed=_lot(entry, context)), retention_ratio=entry.retention
    )


def _random_centres(entry: Entry, context: Context) -> Method:
    """PruneVid's merge with centres by lot where it takes them by density."""
    options = {**entry.options, "cluster_centres": "random", "cluster_seed": _lot(entry, context)}
    return choose_method("prunevid", retention_ratio=entry.retention, method_options=options)


def _uniform(entry: Entry, context: Context) -> Method:
    if entry.layer is None:
        return methods.get("uniform", retention_ratio=entry.retention)
    wanted = Method(retention_ratio=entry.retention).budget(context.cells)
    scores = controls.even_scores(context.cells, wanted or context.cells)
    return _given(entry, [scores] * len(context.questions))


def _frames(entry: Entry, context: Context) -> Method:
    return methods.get("frames", retention_ratio=entry.retention)


def _saliency(entry: Entry, context: Context) -> Method:
    scores = controls.saliency(context.features)
    if entry.layer is None:
        return controls.Shown(scores=scores, retention_ratio=entry.retention)
    return _given(entry, [scores] * len(context.questions))


def _saliency_by_frame(entry: Entry, context: Context) -> Method:
    return _by_rule(entry, [controls.saliency(context.features)] * len(context.questions), {})


def _saliency_peaks(entry: Entry, context: Context) -> Method:
    rule = {"keep_scope": "global", "keep_rule": "peaks"}
    return _by_rule(entry, [controls.saliency(context.features)] * len(context.questions), rule)


def _swapped(entry: Entry, context: Context) -> Method:
    """The scores of another question, by the rule of the method that they are of."""
    scores = _known(context.scores, entry)
    swapped = [scores[other] for other in controls.partners(context.questions)]
    if entry.method != "prunevid":
        return _given(entry, swapped)
    # What is swapped are the peaks themselves, where the method goes by peaks.
    return _by_rule(entry, swapped, {**entry.options, "keep_rule": "score"})


def _oracle(entry: Entry, context: Context) -> Method:
    scores = [
        controls.oracle_scores(context.clip, question, context.grid, (context.seed, row))
        for row, question in enumerate(context.questions)
    ]
    if entry.layer is None:
        return controls.Shown(scores=scores[0], retention_ratio=entry.retention)
    return _given(entry, scores)


def _asked_cells(entry: Entry, context: Context) -> Method:
    marked = tuple(controls.asked_cells(context.clip, question, context.grid) for question in context.questions)
    return controls.Exactly(layer=_layer(entry), marked=marked)


def _dropped(entry: Entry, context: Context) -> Method:
    return controls.Dropped(layer=_layer(entry))


CONTROLS: dict[str, Callable[[Entry, Context], Method]] = {
    "method": _registered,
    "keep all": _keep_all,
    "random": _random,
    "same cost": _same_cost,
    "stage 1, random": _stage1_then_random,
    "random centres": _random_centres,
    "uniform": _uniform,
    "frames": _frames,
    "saliency": _saliency,
    "saliency by frame": _saliency_by_frame,
    "saliency, peaks": _saliency_peaks,
    "swapped question": _swapped,
    "oracle": _oracle,
    "asked cells": _asked_cells,
    "dropped": _dropped,
}
"""Makers of methods; "unpruned" and "no video" need none."""


def _given(entry: Entry, scores: Sequence[Tensor]) -> Method:
    return controls.Given(layer=_layer(entry), scores=tuple(scores), retention_ratio=entry.retention)


def _by_rule(entry: Entry, scores: Sequence[Tensor], options: Mapping[str, Any]) -> Method:
    """Given scores by the rule of PruneVid's stage 2, which its options choose."""
    config = PruneVidConfig(enable_stage1=False, pruning_layer=_layer(entry)).replace(**options)
    return controls.GivenByGroup(config=config, given=tuple(scores), retention_ratio=entry.retention)


def _layer(entry: Entry) -> int:
    if entry.layer is None:
        raise ConfigError(f"The control {entry.control!r} acts inside the language model; give a layer.")
    return entry.layer


def _lot(entry: Entry, context: Context) -> int:
    """The seed of a draw on a clip: other lots for every clip and every draw."""
    return 1_000_003 * entry.draw + context.seed


def _known(found: Mapping[str, Any], entry: Entry) -> Any:
    if entry.needs is None or entry.needs not in found:
        raise InputError(f"{entry.key!r} needs {entry.needs!r} to be asked before it; put it earlier.")
    return found[entry.needs]


def as_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON types."""
    return {**dataclasses.asdict(entry), "options": dict(entry.options), "beside": list(entry.beside)}
