# SPDX-License-Identifier: Apache-2.0
"""One still picture of an answer: frames, scenes, merged cells, scores and what is left, row under row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prunevid.errors import ConfigError
from prunevid.view.colours import Pixels, rgb
from prunevid.view.diagram import total_line
from prunevid.view.lettering import font, readable, wrapped
from prunevid.view.pictures import Canvas, Heat, colour_bar, heat_map, kept, merged, timeline
from prunevid.view.style import LIGHT, Theme, theme_of
from prunevid.view.subject import Part, Subject
from prunevid.view.tokens import Cells

if TYPE_CHECKING:
    from PIL.Image import Image

MARGIN, GUTTER, GAP, STRIP = 18, 150, 6, 12
LEAST = 240  # pixels of a sheet's width


@dataclass
class Page:
    """A picture that grows downwards.

    Attributes:
        width: pixels.
        theme: of the page.
        pieces: (left, top, what): letters as (text, size, colour, bold), or an array of pixels.
        height: pixels so far.
    """

    width: int
    theme: Theme
    pieces: list[tuple[int, int, Any]] = field(default_factory=list)
    height: int = MARGIN

    def write(self, text: str, size: int = 13, *, muted: bool = False, bold: bool = False, most: int = 2) -> None:
        """Lines over the whole width."""
        letters = font(size, bold)
        for line in wrapped(text, letters, self.width - 2 * MARGIN, most):
            self.letter(MARGIN, self.height, line, size, muted=muted, bold=bold)
            self.height += round(1.4 * size)

    def letter(self, left: int, top: int, text: str, size: int, *, muted: bool = False, bold: bool = False) -> None:
        """One line at a place."""
        colour = self.theme.muted if muted else self.theme.text
        self.pieces.append((left, top, (readable(text), size, colour, bold)))

    def place(self, left: int, top: int, pixels: Pixels) -> None:
        """A picture (h, w, 3) at a place."""
        self.pieces.append((left, top, pixels))

    def row(self, label: str, remarks: Sequence[str], pictures: Pixels) -> None:
        """Pictures (n, h, w, 3) side by side behind a label and remarks under it."""
        top, left = self.height, MARGIN + GUTTER
        used = self._label(label, remarks, top)
        for picture in pictures:
            self.place(left, top, picture)
            left += picture.shape[1] + GAP
        self.height = max(top + pictures.shape[1], used) + GAP

    def _label(self, label: str, remarks: Sequence[str], top: int) -> int:
        """Writes both; returns where they end."""
        for line in wrapped(label, font(13, True), GUTTER - 12, 3):
            self.letter(MARGIN, top, line, 13, bold=True)
            top += 17
        for remark in remarks:
            for line in wrapped(remark, font(11), GUTTER - 12, 3):
                self.letter(MARGIN, top, line, 11, muted=True)
                top += 15
        return top

    def drawn(self) -> Image:
        """The page as a Pillow image."""
        from PIL import Image, ImageDraw

        page = Image.new("RGB", (self.width, self.height + MARGIN), rgb(self.theme.background))
        draw = ImageDraw.Draw(page)
        for left, top, piece in self.pieces:
            if isinstance(piece, np.ndarray):
                page.paste(Image.fromarray(piece), (left, top))
            else:
                text, size, colour, bold = piece
                draw.text((left, top), text, fill=rgb(colour), font=font(size, bold))
        return page


def sheet(
    subject: Any,
    frames: Any = None,
    *,
    width: int = 1120,
    columns: int = 8,
    theme: Theme | str = LIGHT,
    scale: str = "linear",
    title: str | None = None,
) -> Image:
    """A still picture: for each video its frames, scenes, merged cells, scores of every choice, and what is left.

    Args:
        subject: an `Answer`, or the token maps of one row (`pruning.maps[row]`).
        frames: see `Subject.of`; None: an answer's own, plain cells for token maps.
        width: of the picture, in pixels, at least 240.
        columns: grid steps that are shown, at most; of more those at equal distances.
        theme: "light" or "dark", or a theme of `prunevid.view.style`.
        scale: of the scores' colours, see `prunevid.view.heat_map`.
        title: the first line, instead of the question.

    Returns:
        A Pillow image.

    Raises:
        InputError: there is no video to draw, its frames can't be read again, or they don't fit.
        ConfigError: a width, a number of columns, a theme or a scale that is none.
    """
    shown = Subject.of(subject, frames)
    page = begin(shown, width, columns, theme, title)
    for number, part in enumerate(shown.parts):
        if len(shown.parts) > 1:
            page.height += GAP
            page.write(f"{'Image' if part.cells.image else 'Video'} {number + 1} of {len(shown.parts)}", 14, bold=True)
        _draw_part(page, part, columns, scale)
    if shown.stats:
        page.height += GAP
        page.write(total_line(shown.stats), 12, muted=True)
    return page.drawn()


def begin(subject: Subject, width: int, columns: int, theme: Theme | str, title: str | None) -> Page:
    """A page with its heading.

    Raises:
        ConfigError: see `sheet`.
    """
    if width < LEAST:
        raise ConfigError(f"width is {width}, but must be at least {LEAST} pixels.")
    if columns < 1:
        raise ConfigError(f"columns is {columns}, but must be at least 1.")
    page = Page(width, theme_of(theme))
    first, *others = (title, *subject.heading[1:]) if title is not None else (subject.heading or ("",))
    if first:
        page.write(first, 17, bold=True)
    for line in others:
        page.write(line, 14)
    if subject.heading or title:
        page.height += GAP
    return page


def tile_width(page: Page, cells: Cells, columns: int) -> int:
    """Pixels of one picture of a row, so that all columns fit; few columns stay small enough to look at."""
    count = min(columns, cells.shape[0])
    room = (page.width - 2 * MARGIN - GUTTER - (count - 1) * GAP) // count
    return max(8, min(room, 320))


def _draw_part(page: Page, part: Part, columns: int, scale: str) -> None:
    """The rows of one video."""
    cells = part.cells
    canvas = part.by_step(tile_width(page, cells, columns), columns)
    counts = cells.counts
    draw_frames(page, part, canvas)
    if len(cells.scenes) > 1:
        draw_timeline(page, cells, canvas)
    if len(cells.sizes) and (cells.sizes > 1).any():
        remarks = [f"{counts[0]} tokens to {counts[1]}", "a colour: one token of several cells"]
        page.row("merged", remarks, merged(canvas))
    elif counts[1] < counts[0]:
        remarks = [f"{counts[0]} tokens to {counts[1]}", "dark: dropped"]
        page.row("before the model", remarks, kept(canvas, cells.merged))
    for step in cells.steps:
        if step.scores is not None:
            draw_heat(page, f"score after layer {step.layer}", heat_map(canvas, step.scores, scale=scale))
    remarks = [f"{counts[-1]} of {counts[0]} tokens", *(["dark: dropped"] if (cells.final < 0).any() else [])]
    page.row("kept", remarks, kept(canvas))
    for note in cells.notes:
        page.write(note, 11, muted=True, most=3)


def draw_frames(page: Page, part: Part, canvas: Canvas) -> None:
    """The frames, with their times above them where they are known."""
    steps = part.cells.shape[0]
    if part.times and len(part.times) >= steps:
        left = MARGIN + GUTTER
        width = canvas.frames.shape[2]
        for step in canvas.steps:
            first = part.times[step * len(part.times) // steps]
            page.letter(left, page.height, f"{first:.1f} s", 11, muted=True)
            left += width + GAP
        page.height += 16
    shown = len(canvas.steps)
    remarks = [f"{len(part.frames)} frames"] if part.frames is not None else ["frames not at hand"]
    _, rows, columns = part.cells.shape
    remarks.append(f"{steps} x {rows} x {columns} cells" + ("" if shown == steps else f", {shown} steps shown"))
    page.row("image" if part.cells.image else "frames", remarks, canvas.frames)


def draw_timeline(page: Page, cells: Cells, canvas: Canvas) -> None:
    """The scenes, under all columns."""
    count, width = len(canvas.steps), canvas.frames.shape[2]
    whole = count * width + (count - 1) * GAP
    strip = timeline(cells, whole, STRIP, colours=page.theme.colours[5:3:-1], line=page.theme.text)
    top = page.height
    page.letter(MARGIN, top - 2, f"{len(cells.scenes)} scenes", 11, muted=True)
    page.place(MARGIN + GUTTER, top, strip)
    page.height = top + STRIP + GAP


def draw_heat(page: Page, label: str, found: Heat) -> None:
    """A row of scores, with its colour bar under the label."""
    top = page.height
    page.row(label, [], found.pictures)
    bar = min(GUTTER - 24, 110)
    below = top + 4 + 17 * len(wrapped(label, font(13, True), GUTTER - 12, 3))
    page.place(MARGIN, below, colour_bar(bar, 9))
    page.letter(MARGIN, below + 11, f"{found.low:.2g}", 10, muted=True)
    high = f"{found.high:.2g}"
    page.letter(MARGIN + bar - round(font(10).getlength(high)), below + 11, high, 10, muted=True)
    page.height = max(page.height, below + 11 + 15 + GAP)
