# SPDX-License-Identifier: Apache-2.0
"""The overlay through time: every sampled frame with its merged cells and with what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunevid.errors import ConfigError, InputError
from prunevid.view.colours import Pixels, rgb
from prunevid.view.pictures import Canvas, heat_map, kept, merged, timeline
from prunevid.view.sheets import GAP, MARGIN, STRIP, Page
from prunevid.view.style import LIGHT, Theme, theme_of
from prunevid.view.subject import Part, Subject

PANELS = ("frame", "merged", "score", "kept")


@dataclass(frozen=True, eq=False)
class Film:
    """Pictures through time.

    Attributes:
        pictures: (n, h, w, 3) uint8.
        fps: pictures a second.
    """

    pictures: Pixels
    fps: float


def overlay(
    subject: Any,
    frames: Any = None,
    *,
    width: int = 320,
    panels: tuple[str, ...] | None = None,
    video: int = 0,
    fps: float = 2.0,
    theme: Theme | str = LIGHT,
    scale: str = "linear",
) -> Film:
    """Every sampled frame with its overlays side by side, and where it stands among the scenes.

    Args:
        subject, frames: see `prunevid.view.sheet`.
        width: of each panel, in pixels.
        panels: any of "frame", "merged", "score" (of the last choice) and "kept"; None: those that differ.
        video: which of the prompt's videos.
        fps: pictures a second.
        theme, scale: see `prunevid.view.sheet`.

    Raises:
        InputError: there is no such video, or its choices were not made by scores.
        ConfigError: a panel, a rate or a width that is none.
    """
    shown = Subject.of(subject, frames)
    if not 0 <= video < len(shown.parts):
        raise InputError(f"video is {video}, but the prompt has {len(shown.parts)}; they count from 0.")
    if not fps > 0:
        raise ConfigError(f"fps is {fps}, but must be above 0.")
    part, colours = shown.parts[video], theme_of(theme)
    canvas = part.by_frame(width)
    chosen = _panels(part) if panels is None else tuple(panels)
    rows = [(name, _panel(name, canvas, scale)) for name in chosen]
    return Film(np.stack([_picture(part, canvas, rows, number, colours) for number in range(len(canvas.steps))]), fps)


def _panels(part: Part) -> tuple[str, ...]:
    """The frame, and what differs from it."""
    cells = part.cells
    joins = bool((cells.sizes > 1).any())
    return ("frame", *(["merged"] if joins else []), "kept")


def _panel(name: str, canvas: Canvas, scale: str) -> Pixels:
    """(n, h, w, 3): one panel through time.

    Raises:
        ConfigError: there is none of that name.
        InputError: there are no scores to draw.
    """
    if name not in PANELS:
        raise ConfigError(f"{name!r} is no panel; choose from {', '.join(PANELS)}.")
    if name == "frame":
        return canvas.frames
    if name == "score":
        scored = [step.scores for step in canvas.cells.steps if step.scores is not None]
        if not scored:
            raise InputError("There are no scores to draw: nothing was chosen by them; leave out the panel 'score'.")
        return heat_map(canvas, scored[-1], scale=scale).pictures
    return merged(canvas) if name == "merged" else kept(canvas)


def _picture(part: Part, canvas: Canvas, rows: list[tuple[str, Pixels]], number: int, theme: Theme) -> Pixels:
    """One picture of the film."""
    height, width = canvas.frames.shape[1:3]
    page = Page(2 * MARGIN + len(rows) * width + (len(rows) - 1) * GAP, theme)
    for column, (name, pictures) in enumerate(rows):
        left = MARGIN + column * (width + GAP)
        page.letter(left, page.height, name, 13, bold=True)
        page.place(left, page.height + 20, pictures[number])
    if len(part.times) == len(canvas.steps):
        page.letter(MARGIN + 70, page.height + 2, f"{part.times[number]:.1f} s", 11, muted=True)
    page.height += 20 + height + GAP
    page.place(MARGIN, page.height, _strip(canvas, page.width - 2 * MARGIN, number, theme))
    page.height += STRIP
    return np.asarray(page.drawn())


def _strip(canvas: Canvas, width: int, number: int, theme: Theme) -> Pixels:
    """The scenes, and above them a bar that has come as far as this frame."""
    strip = timeline(canvas.cells, width, STRIP, colours=theme.colours[5:3:-1], line=theme.text)
    strip[: STRIP // 3] = rgb(theme.background)
    strip[: STRIP // 3, : round((number + 1) * width / len(canvas.steps))] = rgb(theme.text)
    return strip
