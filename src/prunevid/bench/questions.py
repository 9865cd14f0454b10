# SPDX-License-Identifier: Apache-2.0
"""What the second and every later question about an open clip costs the model, beside the first one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from prunevid import methods as registry
from prunevid.bench import clips as made
from prunevid.bench.clock import Clock
from prunevid.bench.costs import visual_tokens
from prunevid.bench.goals import FURTHER
from prunevid.bench.probe import Probe
from prunevid.bench.results import Asked, Goal, QuestionsResult, Spread, machine_facts
from prunevid.bench.rounds import Tell, left_out, rounds
from prunevid.bench.settings import Settings, plain, side_name
from prunevid.bench.speed import subject_facts
from prunevid.bench.subjects import Frames, Subject
from prunevid.engine import Held, attach
from prunevid.errors import ConfigError, PruneVidError
from prunevid.generation import greedy_by_default
from prunevid.methods import Method

NOTHING = "nothing pruned"
"""The side that holds the whole clip's keys and values and prunes nothing."""


def measure_questions(subject: Subject, settings: Settings, further: int, tell: Tell | None = None) -> QuestionsResult:
    """Measures one opening question and some further ones on the same clip, every method in turns.

    A question's model time is that of its vision tower and of its first forward pass, to the first new token; a new
    token costs the same whoever asked. Every round opens the clip anew.

    Args:
        subject: the model. Nothing may be attached to it.
        settings: as for `measure_speed`; its batches, new_tokens and memory are not used.
        further: questions after the first one of each round.
        tell: see `measure_speed`.

    Returns:
        What was found. A method that can't run on this model is left out, with a note that says why.

    Raises:
        ConfigError: further is below 1.
    """
    if further < 1:
        raise ConfigError(f"questions is {further}, but must be at least 1.")
    facts = machine_facts(subject.device)
    clock = Clock(subject.device, settings.cpu_time)
    frames = made.make_frames(settings.frames, settings.width, settings.height, settings.seed)
    with torch.inference_mode(), clock.running(), Probe(subject, clock) as probe:
        series = _Series(subject, settings, probe, frames, further, tell or (lambda text: None))
        sides = series.run()
    held = tuple(Goal("a further question / the first one", side.name, side.share, FURTHER) for side in sides)
    chosen = {**plain(settings), "questions": further}
    return QuestionsResult(facts, subject_facts(subject), chosen, tuple(sides), held, tuple(series.notes))


@dataclass
class _Side:
    """One method while it is measured: milliseconds of every round."""

    name: str
    method: Method
    vision: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    further: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    reused: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    stats: list[dict[str, Any]] = field(default_factory=list)


class _Series:
    """The rounds: every side once in each, in an order that is drawn anew."""

    def __init__(self, subject: Subject, settings: Settings, probe: Probe, frames: Frames, further: int, tell: Tell):
        self.subject, self.settings, self.probe, self.tell = subject, settings, probe, tell
        inputs = subject.encode([frames])
        self.questions = [subject.another_question(inputs, number) for number in range(1 + further)]
        self.frames = subject.frames_per_video([frames])
        self.options = greedy_by_default(subject.model, None, {"pad_token_id": 0})
        self.sides = [_Side(NOTHING, registry.get("none")), *(_Side(side_name(one), one) for one in settings.methods)]
        self.notes: list[str] = []

    def run(self) -> list[Asked]:
        """All rounds of all sides, and what was found of those that can run."""
        for side, counts in rounds(self.settings, self.sides, lambda turn, side: self.tell(f"{turn}: {side.name}")):
            try:
                self._round(side, counts)
            except PruneVidError as error:
                self.notes.append(left_out(side.name, side.method, self.settings, error))
                self.sides.remove(side)
        return [_measured(side) for side in self.sides]

    def _round(self, side: _Side, counts: bool) -> None:
        """Opens the clip, asks everything, and forgets the clip."""
        held = Held(inputs=lambda: self.questions[0])
        with attach(self.subject.model, side.method, frames_per_video=self.frames) as pruning:
            vision, first = self._ask(self.questions[0], pruning, held)
            later = [sum(self._ask(question, pruning, held)) for question in self.questions[1:]]
            side.reused, side.memory, side.stats = held.reused, held.sizes(), pruning.stats
        held.release()
        if counts:
            side.vision.append(vision)
            side.first.append(vision + first)
            side.further += later
            side.shares.append(Spread.of(later).median / (vision + first))

    def _ask(self, inputs: dict[str, Any], pruning: Any, held: Held) -> tuple[float, float]:
        """Milliseconds of the vision tower and of the first forward pass."""

        def work() -> None:
            with pruning.reuse(held=held):
                self.subject.model.generate(**inputs, **self.options, max_new_tokens=1)

        line = self.probe.run(work)
        return line.vision, line.prefill


def _measured(side: _Side) -> Asked:
    return Asked(
        name=side.name,
        visual_tokens=visual_tokens(side.stats),
        reused_tokens=side.reused,
        vision=Spread.of(side.vision),
        first=Spread.of(side.first),
        further=Spread.of(side.further),
        share=Spread.of(side.shares),
        held_bytes=side.memory,
    )
