# SPDX-License-Identifier: Apache-2.0
"""Results of the benchmark as tables for people (rich) and for documents (Markdown)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunevid.bench.results import (
    Asked,
    Batch,
    Goal,
    Growth,
    QuestionsResult,
    Result,
    ScalingResult,
    Side,
    SpeedResult,
    Spread,
)

if TYPE_CHECKING:
    from rich.table import Table

MIB = 2**20


@dataclass(frozen=True)
class Grid:
    """A table: a title, the names of the columns, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def rich(self) -> Table:
        """For a terminal."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=self.title, title_justify="left", pad_edge=False)
        for number, name in enumerate(self.columns):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """For a document."""
        head = ["| " + " | ".join(self.columns) + " |", "|---" * len(self.columns) + "|"]
        return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in self.rows)])


def grids(result: Result) -> list[Grid]:
    """All tables of a result."""
    if isinstance(result, QuestionsResult):
        return [_questions(result.sides), _goals(result.goals)]
    if isinstance(result, ScalingResult):
        return [
            _growth("Stage 1 over frames", result.stage1),
            _growth("Prefill over tokens", result.prefill),
        ]
    first = result.batches[0]
    found = [_stages(result), _sides(first), _goals(result.goals)]
    return [*found, _batches(result.batches)] if len(result.batches) > 1 else found


def headline(result: Result) -> str:
    """What was measured on what, in one line."""
    machine, subject = result.machine, result.subject
    load = f", load {machine['load']}" if "load" in machine else ""
    return (
        f"{subject['name']}: {subject['layers']} layers of {subject['width']}, {subject['dtype']}, "
        f"{subject['attention']}; {machine['device']}, {machine['threads']} of {machine['cores']} threads, "
        f"torch {machine['torch']}, transformers {machine['transformers']}{load}"
    )


def _stages(result: SpeedResult) -> Grid:
    """What comes before the language model, and the time to the first token."""
    rows = [[name.replace("_", " "), _ms(spread)] for name, spread in result.stages.items()]
    before = sum(spread.median for spread in result.stages.values() if spread is not None)
    for side in result.batches[0].sides:
        rows.append([f"first token, {side.name}", f"{before + side.prefill.median:.1f}"])
    return Grid("Before the first token, ms", ["stage", "median (quartiles)"], rows)


def _sides(batch: Batch) -> Grid:
    """Every side of a batch."""
    columns = [
        *("side", "visual tokens", "prefill ms", "speed-up", "ideal", "stage 1 ms", "stages 2+3 ms", "token ms"),
        *("KV MiB", "peak MiB"),
    ]
    return Grid(f"Batch of {batch.size}", columns, [_side(side) for side in batch.sides])


def _side(side: Side) -> list[str]:
    return [
        side.name,
        _visual(side.visual_tokens),
        _ms(side.prefill),
        f"{side.speedup.median:.2f}",
        f"{side.ideal:.2f}",
        _ms(side.merge),
        _ms(side.choose),
        f"{side.step:.2f}",
        f"{side.kv_bytes / MIB:.1f}",
        "" if side.peak_bytes is None else f"{side.peak_bytes / MIB:.1f}",
    ]


def _visual(tokens: tuple[int, int, int]) -> str:
    """Visual tokens before, between and after pruning."""
    original, merged, kept = tokens
    return str(original) if original == merged == kept else f"{original} → {merged} → {kept}"


def _questions(sides: Sequence[Asked]) -> Grid:
    """What further questions cost."""
    columns = ["side", "visual tokens", "vision ms", "first question ms", "further question ms", "share", "held MiB"]
    rows = []
    for side in sides:
        times = [_ms(spread) for spread in (side.vision, side.first, side.further)]
        held = sum(side.held_bytes.values()) / MIB
        rows.append([side.name, _visual(side.visual_tokens), *times, f"{side.share.median:.1%}", f"{held:.1f}"])
    return Grid("Questions about one open clip, model time to the first new token", columns, rows)


def _goals(goals: Sequence[Goal]) -> Grid:
    rows = []
    for goal in goals:
        bound = f"{'at least' if goal.least else 'at most'} {goal.bound:g}"
        rows.append([goal.name, goal.side, f"{goal.value:.3f}", bound, "met" if goal.met else "not met"])
    return Grid("Goals", ["ratio", "side", "measured", "goal", ""], rows)


def _batches(batches: Sequence[Batch]) -> Grid:
    """Throughput over batch sizes."""
    columns = ["batch", "frames", "side", "prefill ms", "token ms", "KV MiB", "clips/s"]
    rows = []
    for batch in batches:
        for side in batch.sides:
            frames = ", ".join(map(str, batch.frames))
            numbers = [_ms(side.prefill), f"{side.step.median:.1f}", f"{side.kv_bytes / MIB:.1f}"]
            rows.append([str(batch.size), frames, side.name, *numbers, f"{side.clips_per_second.median:.3g}"])
    return Grid("Batches", columns, rows)


def _growth(title: str, growth: Sequence[Growth]) -> Grid:
    names = list(growth[0].milliseconds) if growth else []
    weighed = [name for name in names if growth and name in growth[0].peak_bytes]
    columns = ["frames", "tokens", *(f"{name} ms" for name in names), *(f"{name} peak MiB" for name in weighed)]
    rows = [
        [
            str(one.frames),
            str(one.tokens),
            *(_ms(one.milliseconds[name]) for name in names),
            *(f"{one.peak_bytes[name] / MIB:.1f}" for name in weighed),
        ]
        for one in growth
    ]
    return Grid(title, columns, rows)


def _ms(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread:.1f}"
