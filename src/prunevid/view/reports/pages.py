# SPDX-License-Identifier: Apache-2.0
"""The three pages: one answer, several answers about the same frames, and the question's attention over layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunevid.comparing import alike
from prunevid.errors import ConfigError, InputError
from prunevid.view.diagram import stages, total_line
from prunevid.view.reports.facts import clip_facts
from prunevid.view.reports.panels import (
    Panel,
    Row,
    frames_row,
    kept_row,
    panel,
    scene_blocks,
    score_rows,
    size,
    step_times,
)
from prunevid.view.style import DARK, LIGHT
from prunevid.view.subject import Part, Subject

if TYPE_CHECKING:
    from prunevid.answers import Answer
    from prunevid.view.attention import Watched

WIDTH, COLUMNS = 240, 16


def report(
    subject: Any,
    *,
    unpruned: Answer | None = None,
    frames: Any = None,
    facts: Mapping[str, str] | None = None,
    width: int = WIDTH,
    columns: int = COLUMNS,
    scale: str = "linear",
    title: str | None = None,
    date: str | None = None,
) -> str:
    """A page about one answer.

    Args:
        subject: an `Answer`, or the token maps of one row (`pruning.maps[row]`).
        unpruned: the unpruned model's answer to the same question, to be set beside it.
        frames: see `prunevid.view.sheet`.
        facts: how it was made, a line for each (see `facts_of`); lines may hold several lines.
        width: of each picture, in pixels.
        columns: grid steps that are shown, at most; of more those at equal distances.
        scale: of the scores' colours, see `prunevid.view.heat_map`.
        title: the heading; None: the question.
        date: to be printed; None: none, so that the same answer gives the same page.

    Returns:
        HTML, whole in itself: every picture is inside, nothing is fetched, and no script runs.

    Raises:
        InputError: there is no video to draw, or its frames can't be read again.
        ConfigError: a width, a number of columns or a scale that is none.
    """
    _check(width, columns)
    shown = Subject.of(subject, frames)
    answer = subject if hasattr(subject, "question") else None
    maps = getattr(subject, "maps", subject if isinstance(subject, Sequence) else ())
    return _page(
        "answer.html",
        title=title or (answer.question if answer else "What became of the tokens"),
        kind="What was kept",
        answer=answer,
        unpruned=unpruned,
        same=bool(answer and unpruned and alike(answer.text, unpruned.text)),
        stages=stages(shown.stats, maps),
        plain_stages=stages(unpruned.stats, unpruned.maps) if unpruned else [],
        totals=total_line(shown.stats) if shown.stats else "",
        panels=[panel(part, name, width, columns, scale) for part, name in _named(shown.parts)],
        facts={**(clip_facts(answer.clip) if answer else {}), **(facts or {})},
        date=date,
    )


def compare_report(
    answers: Sequence[Answer],
    labels: Sequence[str],
    *,
    unpruned: Answer | None = None,
    failures: Mapping[str, str] | None = None,
    frames: Any = None,
    facts: Mapping[str, str] | None = None,
    width: int = WIDTH,
    columns: int = 8,
    title: str | None = None,
    date: str | None = None,
) -> str:
    """A page about several answers to one question about the same frames: a table, and what each kept.

    Args:
        answers: of several methods or budgets.
        labels: a name for each.
        unpruned: the unpruned model's answer.
        failures: by name, why others have no answer, in one sentence each.
        frames: of the video; None: the first answer's own.
        facts, width, columns, title, date: see `report`.

    Raises:
        InputError: there are no answers, not as many labels, or answers about other frames or questions.
        ConfigError: see `report`.
    """
    _check(width, columns)
    if not answers or len(labels) != len(answers):
        raise InputError(f"There are {len(answers)} answers and {len(labels)} labels; give a label for each answer.")
    everyone = [*answers, *([unpruned] if unpruned else [])]
    if len({(answer.clip.source, answer.clip.indices, answer.question) for answer in everyone}) > 1:
        raise InputError("The answers are about different frames or questions; compare answers to the same one.")
    first = Subject.of(answers[0], frames)
    others = [Subject.of(answer, [part.frames for part in first.parts]) for answer in answers[1:]]
    return _page(
        "compare.html",
        title=title or answers[0].question,
        kind="Side by side",
        unpruned=unpruned,
        sides=[_side(*pair, unpruned) for pair in zip(labels, answers)],
        failures=dict(failures or {}),
        panels=[
            _beside(name, [subject.parts[number] for subject in (first, *others)], labels, width, columns)
            for number, (_, name) in enumerate(_named(first.parts))
        ],
        facts={**clip_facts(answers[0].clip), **(facts or {})},
        date=date,
    )


def attention_report(
    watched: Watched,
    *,
    layers: Sequence[int] | None = None,
    frames: Any = None,
    facts: Mapping[str, str] | None = None,
    width: int = WIDTH,
    columns: int = 8,
    scale: str = "linear",
    title: str | None = None,
    date: str | None = None,
) -> str:
    """A page about the question's attention to the clip after every layer.

    Args:
        watched: of `prunevid.view.watch`.
        layers: those to show; None: all that were recorded.
        frames, facts, width, columns, scale, title, date: see `report`.

    Raises:
        ConfigError: a layer that was not recorded; see `report` too.
        InputError: see `report`.
    """
    _check(width, columns)
    wanted = watched.layers if layers is None else tuple(layers)
    unknown = [layer for layer in wanted if layer not in watched.layers]
    if unknown:
        raise ConfigError(f"Layer {unknown[0]} was not recorded; choose from {', '.join(map(str, watched.layers))}.")
    answer = watched.answer
    panels = []
    for part, name in _named(Subject.of(answer, frames).parts):
        canvas = part.by_step(width, columns)
        rows = score_rows(canvas, step_times(part, canvas.steps), scale, wanted)
        panels.append(Panel(name, size(part.cells, len(canvas.steps)), [frames_row(part, canvas), *rows]))
    return _page(
        "attention.html",
        title=title or answer.question,
        kind="Attention over layers",
        answer=answer,
        panels=panels,
        facts={**clip_facts(answer.clip), **(facts or {})},
        date=date,
    )


def _check(width: int, columns: int) -> None:
    """Raises:
    ConfigError: a size that is none.
    """
    for name, value in (("width", width), ("columns", columns)):
        if value < 1:
            raise ConfigError(f"{name} is {value}, but must be at least 1.")


def _named(parts: Sequence[Part]) -> list[tuple[Part, str]]:
    """Videos with their headings; a single one needs none."""
    if len(parts) == 1:
        return [(parts[0], "")]
    kinds = ["Image" if part.cells.image else "Video" for part in parts]
    return [(part, f"{kind} {number} of {len(parts)}") for number, (part, kind) in enumerate(zip(parts, kinds), 1)]


def _side(label: str, answer: Answer, unpruned: Answer | None) -> dict[str, Any]:
    """One line of the table."""
    stats = answer.stats
    numbers = {}
    if stats:
        original, share = stats["stage1"]["original_tokens"], stats["total"]["retained_ratio"]
        numbers = {
            "original": original,
            "tokens": round(share * original),
            "share": share,
            "flops": stats["total"]["flops_ratio"],
            "cache": 1.0 - stats["stage3"]["reduction_ratio"],
            "prefill": stats.get("milliseconds", {}).get("prefill"),
        }
    same = None if unpruned is None else alike(answer.text, unpruned.text)
    return {"label": label, "text": answer.text, "same": same, **numbers}


def _beside(title: str, parts: Sequence[Part], labels: Sequence[str], width: int, columns: int) -> Panel:
    """What each answer kept of one video, the frames on top."""
    canvases = [part.by_step(width, columns) for part in parts]
    times = step_times(parts[0], canvases[0].steps)
    rows: list[Row] = [frames_row(parts[0], canvases[0])]
    notes = []
    for label, part, canvas in zip(labels, parts, canvases):
        counts = part.cells.counts
        scenes = len(scene_blocks(part))
        remark = f"{counts[-1]} of {counts[0]} tokens" + (f", {scenes} scenes" if scenes else "")
        rows.append(kept_row(canvas, times, label, remark))
        notes += [f"{label}: {note}" for note in part.cells.notes]
    return Panel(title, size(parts[0].cells, len(canvases[0].steps)), rows, notes=notes)


@functools.cache
def _environment() -> Any:
    """The templates, in which every value is escaped unless it is a template's own."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("prunevid.view.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(template: str, **values: Any) -> str:
    return str(_environment().get_template(template).render(light=LIGHT, dark=DARK, **values))
