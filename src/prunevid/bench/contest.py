# SPDX-License-Identifier: Apache-2.0
"""All sides on one batch of clips: each runs once a round, in an order that is drawn anew for every round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prunevid import methods as registry
from prunevid.bench.clock import peak_bytes
from prunevid.bench.costs import prefill_flops, tokens_of_layers, visual_tokens
from prunevid.bench.probe import Probe, Timeline
from prunevid.bench.results import ALL_KEPT, ATTACHED, UNPRUNED, Side, Spread, ratios
from prunevid.bench.rounds import Tell, left_out, rounds
from prunevid.bench.settings import Settings, side_name
from prunevid.bench.subjects import Frames, Subject
from prunevid.engine import attach
from prunevid.errors import PruneVidError
from prunevid.generation import greedy_by_default
from prunevid.methods import Method


@dataclass
class _Side:
    """One side while it is measured."""

    name: str
    method: Method | None  # None: the model as it is, with nothing attached
    inputs: dict[str, Any]
    lines: list[Timeline] = field(default_factory=list)
    times: list[dict[str, float]] = field(default_factory=list)
    stats: list[dict[str, Any]] = field(default_factory=list)
    layers: list[list[int]] = field(default_factory=list)  # of every row the tokens that each layer processes
    flops: tuple[int, int] = (0, 0)
    peak: int | None = None


class Contest:
    """All sides on one batch of clips."""

    def __init__(self, subject: Subject, settings: Settings, probe: Probe, clips: list[Frames], tell: Tell):
        self.subject, self.settings, self.probe, self.clips, self.tell = subject, settings, probe, clips, tell
        self.inputs = subject.encode(clips)
        self.length = int(self.inputs["input_ids"].shape[1])
        self.options = greedy_by_default(subject.model, None, {"pad_token_id": 0})
        self.sides: list[_Side] = []
        self.twins: dict[str, _Side] = {}
        self.vision: Spread | None = None
        self.notes: list[str] = []

    def run(self, extra: bool, weigh: bool) -> list[Side]:
        """Measures; `extra`: with the sides that only the goals need; `weigh`: with the peak memory."""
        plain = registry.get("none")
        self.sides = [_Side(UNPRUNED, None, self.inputs)]
        if extra:
            self.sides.append(_Side(ATTACHED, plain, self.inputs))
            self.sides.append(_Side(ALL_KEPT, registry.get("prunevid", retention_ratio=1.0), self.inputs))
        self.sides += [_Side(side_name(method), method, self.inputs) for method in self.settings.methods]
        self.vision = self._vision()
        self.sides = [side for side in self.sides if self._begin(side)]
        self._make_twins(extra)
        self._rounds()
        if weigh:
            for side in self.sides:
                self.tell(f"Weighing: {side.name}")
                side.peak = peak_bytes(self.subject.device, partial(self._generate, side, 1))
        return [self._measured(side) for side in self.sides]

    def _begin(self, side: _Side) -> bool:
        """Warms a side up and counts what it does; False, with a note, for a method that can't run on this model."""
        self.tell(f"Warming up: {side.name}")
        try:
            self._once(side, 3)
        except PruneVidError as error:
            self.notes.append(left_out(side.name, side.method, self.settings, error))
            return False
        self._count(side)
        return True

    def _rounds(self) -> None:
        everything = [*self.sides, *self.twins.values()]
        for side, counts in rounds(self.settings, everything, lambda turn, side: self.tell(f"{turn}: {side.name}")):
            line, times = self._once(side, self.settings.new_tokens)
            if counts:
                side.lines.append(line)
                side.times.append(times)

    # ---- one run -------------------------------------------------------------------------------------------------

    def _once(self, side: _Side, new_tokens: int) -> tuple[Timeline, dict[str, float]]:
        """One answer, and the engine's own times of it."""
        times: dict[str, float] = {}

        def work() -> None:
            with self._attached(side) as pruning:
                self.subject.model.generate(**side.inputs, **self.options, max_new_tokens=new_tokens)
                if pruning is not None:
                    times.update(pruning.times)
                    side.stats, side.layers = pruning.stats, self._layers(pruning)

        with self._replayed(side):
            return self.probe.run(work), times

    def _generate(self, side: _Side, new_tokens: int) -> None:
        with self._replayed(side), self._attached(side):
            self.subject.model.generate(**side.inputs, **self.options, max_new_tokens=new_tokens)

    def _attached(self, side: _Side) -> Any:
        if side.method is None:
            return nullcontext()
        return attach(self.subject.model, side.method, frames_per_video=self.subject.frames_per_video(self.clips))

    @contextmanager
    def _replayed(self, side: _Side) -> Iterator[None]:
        """The tower's output of the first run, unless the method watches the tower at work."""
        with self.probe.replay(side.method is None or side.method.tower is None):
            yield

    def _vision(self) -> Spread:
        """Milliseconds of the vision tower over the batch."""
        self.tell("Vision tower")
        side = self.sides[0]
        spent = []
        for _ in range(1 + min(self.settings.repeats, 3)):
            with self.probe.replay(False):
                line = self.probe.run(lambda: _encode_only(self.subject, side.inputs))
            spent.append(line.vision)
        return Spread.of(spent[1:])

    # ---- counting ------------------------------------------------------------------------------------------------

    def _row_lengths(self) -> list[int]:
        """Tokens of every unpruned row."""
        return [int(count) for count in self.inputs["attention_mask"].sum(1).tolist()]

    def _layers(self, pruning: Any) -> list[list[int]]:
        """Of every row the tokens that each layer processes."""
        depth = len(self.subject.language_model.layers)
        choices = pruning.method.selection_layers
        return [tokens_of_layers(n, maps, choices, depth) for n, maps in zip(self._row_lengths(), pruning.maps)]

    def _count(self, side: _Side) -> None:
        """FLOPs of a side."""
        layers = self.subject.language_model.layers
        side.layers = side.layers or [[length] * len(layers) for length in self._row_lengths()]
        full, causal = ([prefill_flops(layers, row, kind) for row in side.layers] for kind in (False, True))
        side.flops = sum(full), sum(causal)

    def _make_twins(self, extra: bool) -> None:
        """For every side that prunes: the model as it is, with a text as long as what the pruned cache holds."""
        self.twins = {}
        for side in self.sides if extra else ():
            if side.name in (UNPRUNED, ATTACHED, ALL_KEPT):  # their caches are as long as the unpruned one
                continue
            held = [row["stage3"]["compressed_bytes"] / max(1, row["stage3"]["original_bytes"]) for row in side.stats]
            length = max(2, round(max(held) * self.length))
            inputs = self.subject.text(length, len(self.clips))
            self.twins[side.name] = _Side(f"twin of {side.name}", None, inputs)

    # ---- results -------------------------------------------------------------------------------------------------

    def goal_ratios(self) -> dict[str, dict[str, Any]]:
        """For `goals_of`: of every side but the first its ratios to the unpruned one, and times in milliseconds."""
        base, found = self.sides[0], {}
        for side in self.sides[1:]:
            measured = self._measured(side)
            entry: dict[str, Any] = {
                "cost": ratios(_prefills(side), _prefills(base)),
                "merge": _named(side, "merge"),
                "choose": _named(side, "choose"),
                "share": _share(side, base),
                "gain": Spread.of([x / measured.ideal for x in _speedups(side, base)]),
                "causal gain": Spread.of([x / measured.ideal_causal for x in _speedups(side, base)]),
                "tokens": measured.visual_tokens[0],
                "memory": None if side.peak is None or not base.peak else Spread.of([round(side.peak / base.peak, 3)]),
                "step": None,
            }
            if side.name in self.twins:
                entry["step"] = ratios(_steps(side), _steps(self.twins[side.name]))
            elif side.name in (ATTACHED, ALL_KEPT):
                entry["step"] = ratios(_steps(side), _steps(base))
            found[side.name] = entry
        return found

    def _measured(self, side: _Side) -> Side:
        base = self.sides[0]
        vision = self.vision.median if self.vision else 0.0
        tower = [line.vision or vision for line in side.lines]
        whole = [
            t + line.prefill + self.settings.new_tokens * _median(line.steps) for t, line in zip(tower, side.lines)
        ]
        return Side(
            name=side.name,
            tokens=(sum(row[0] for row in side.layers), sum(row[-1] for row in side.layers)),
            visual_tokens=self._visual(side),
            prefill=Spread.of(_prefills(side)),
            merge=_named(side, "merge") if side.method is not None and side.method.merges else None,
            choose=_named(side, "choose"),
            step=Spread.of(_steps(side)),
            kv_bytes=side.lines[-1].kv_bytes,
            peak_bytes=side.peak,
            flops=side.flops[0],
            flops_causal=side.flops[1],
            speedup=Spread.of(_speedups(side, base)),
            ideal=base.flops[0] / side.flops[0],
            ideal_causal=base.flops[1] / side.flops[1],
            clips_per_second=Spread.of([1000.0 * len(self.clips) / total for total in whole]),
        )

    def _visual(self, side: _Side) -> tuple[int, int, int]:
        found = visual_tokens(side.stats or self.sides[-1].stats)
        return found if side.stats else (found[0],) * 3


def _encode_only(subject: Subject, inputs: dict[str, Any]) -> None:
    """Runs the vision tower as the first forward pass would."""
    known = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    subject.encode_videos(known)


def _prefills(side: _Side) -> list[float]:
    return [line.prefill for line in side.lines]


def _speedups(side: _Side, base: _Side) -> list[float]:
    return [a / b for a, b in zip(_prefills(base), _prefills(side))]


def _steps(side: _Side) -> list[float]:
    """The median new token of every round."""
    return [_median(line.steps) for line in side.lines]


def _median(values: Sequence[float]) -> float:
    return Spread.of(values).median


def _named(side: _Side, name: str) -> Spread | None:
    """A step that the engine has timed itself; None where it did not happen."""
    spent = [times[name] for times in side.times if name in times]
    return Spread.of(spent) if spent else None


def _share(side: _Side, base: _Side) -> Spread | None:
    """Stage 1 as a share of the unpruned prefill, round by round."""
    spent = [times["merge"] / line.prefill for times, line in zip(side.times, base.lines) if "merge" in times]
    return Spread.of(spent) if spent else None
