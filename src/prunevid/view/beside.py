# SPDX-License-Identifier: Apache-2.0
"""Several answers about the same frames under each other: what each method, or each budget, kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prunevid.errors import InputError
from prunevid.view.pictures import kept, merged
from prunevid.view.sheets import Page, begin, draw_frames, tile_width
from prunevid.view.style import LIGHT, Theme
from prunevid.view.subject import Part, Subject

if TYPE_CHECKING:
    from PIL.Image import Image

    from prunevid.answers import Answer


def compare_sheet(
    answers: Sequence[Answer],
    labels: Sequence[str],
    frames: Any = None,
    *,
    show: str = "kept",
    width: int = 1120,
    columns: int = 8,
    theme: Theme | str = LIGHT,
    title: str | None = None,
) -> Image:
    """A still picture: the frames once, and a row for each answer with what it kept and what it said.

    Args:
        answers: about the same frames.
        labels: a name for each, of its method or its budget.
        frames: of the video; None: the first answer's own.
        show: "kept", or "merged" for the tokens before the language model.
        width, columns, theme, title: see `prunevid.view.sheet`.

    Returns:
        A Pillow image.

    Raises:
        InputError: there are no answers, not as many labels, answers about other frames, or another `show`.
        ConfigError: see `prunevid.view.sheet`.
    """
    if show not in ("kept", "merged"):
        raise InputError(f"show is {show!r}, but must be 'kept' or 'merged'.")
    if not answers or len(labels) != len(answers):
        raise InputError(f"There are {len(answers)} answers and {len(labels)} labels; give a label for each answer.")
    other = next((answer for answer in answers if answer.clip.indices != answers[0].clip.indices), None)
    if other is not None or len({answer.clip.source for answer in answers}) > 1:
        raise InputError("The answers are about different frames; compare answers about the same clip.")
    first = Subject.of(answers[0], frames)
    subjects = [first, *(Subject.of(answer, [part.frames for part in first.parts]) for answer in answers[1:])]
    page = begin(Subject(first.parts, first.heading[:1]), width, columns, theme, title)
    for number, part in enumerate(first.parts):
        draw_frames(page, part, part.by_step(tile_width(page, part.cells, columns), columns))
        for label, answer, subject in zip(labels, answers, subjects):
            _row(page, label, answer, subject.parts[number], columns, show)
    return page.drawn()


def _row(page: Page, label: str, answer: Answer, part: Part, columns: int, show: str) -> None:
    """What one answer kept of one video."""
    canvas = part.by_step(tile_width(page, part.cells, columns), columns)
    counts = part.cells.counts
    left = counts[-1] if show == "kept" else counts[1]
    remarks = [f"{left} of {counts[0]} tokens", f"“{answer.text}”"]
    if part.cells.held is not None:
        remarks.append(f"each head holds {part.cells.held}")
    page.row(label, remarks, kept(canvas) if show == "kept" else merged(canvas))
