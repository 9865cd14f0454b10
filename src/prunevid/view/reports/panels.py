# SPDX-License-Identifier: Apache-2.0
"""The pieces of a page as plain data: rows of pictures, scenes, bars of stages. Lookups in the record, nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prunevid.view.colours import Pixels
from prunevid.view.export import png
from prunevid.view.pictures import Canvas, Heat, colour_bar, heat_map, kept, merged
from prunevid.view.subject import Part
from prunevid.view.tokens import Cells

_BAR = (256, 12)  # pixels of a colour bar


@dataclass(frozen=True)
class Tile:
    """One picture.

    Attributes:
        source: a data URL of a PNG.
        caption: under it.
        text: for those who can't see it.
        width, height: pixels.
    """

    source: str
    caption: str
    text: str
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """Pictures of all steps that are shown, under one heading.

    Attributes:
        title, remark: what they are, and how to read them.
        tiles: in the order of the clip.
        bar: the colours of a heat map; None elsewhere.
        low, high: the numbers at its ends.
    """

    title: str
    remark: str
    tiles: list[Tile]
    bar: Tile | None = None
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class SceneBlock:
    """One scene on the timeline.

    Attributes:
        number: from 1.
        length: in grid steps.
        start, stop: in seconds or in steps, as words.
        tokens, left: after the merge, and in the end.
        static: those of `tokens` that stand still.
    """

    number: int
    length: int
    start: str
    stop: str
    tokens: int
    left: int
    static: int


@dataclass(frozen=True)
class Panel:
    """One video or image of the prompt.

    Attributes:
        title: empty where there is only one.
        size: its grid in words.
        rows: see `Row`.
        scenes: empty where there is one only.
        notes: what the pictures can't show.
    """

    title: str
    size: str
    rows: list[Row]
    scenes: list[SceneBlock] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def panel(part: Part, title: str, width: int, columns: int, scale: str) -> Panel:
    """Everything about one video: frames, merged cells, scores of every choice, and what is left."""
    canvas = part.by_step(width, columns)
    times = step_times(part, canvas.steps)
    rows = [frames_row(part, canvas), *_before(canvas, times), *score_rows(canvas, times, scale)]
    rows.append(kept_row(canvas, times))
    return Panel(title, size(part.cells, len(canvas.steps)), rows, scene_blocks(part), part.cells.notes)


def size(cells: Cells, shown: int) -> str:
    """The grid in words, and how much of it is shown."""
    steps, rows, columns = cells.shape
    words = f"{steps} x {rows} x {columns} cells (steps in time x rows x columns)"
    if cells.protected:
        words += f" and {cells.protected} tokens that are no cells and always stay"
    return words if shown == steps else f"{words}; {shown} steps at equal distances are shown"


def step_times(part: Part, steps: Sequence[int]) -> list[str]:
    """When each step begins: in seconds where that is known, else its number."""
    count = part.cells.shape[0]
    if part.cells.image:
        return ["image"] * len(steps)
    if len(part.times) < count:
        return [f"step {step + 1}" for step in steps]
    return [f"{part.times[step * len(part.times) // count]:.1f} s" for step in steps]


def frames_row(part: Part, canvas: Canvas) -> Row:
    """The frames as they are."""
    steps, times = part.cells.shape[0], step_times(part, canvas.steps)
    if part.frames is None:
        remark = "The frames are not at hand: plain cells stand for them."
    elif len(part.frames) > steps:
        remark = f"The model joins its {len(part.frames)} frames to {steps} steps; the first frame of each is shown."
    else:
        remark = "What the model was shown."
    return Row("Image" if part.cells.image else "Frames", remark, tiles(canvas.frames, times, "frame"))


def _before(canvas: Canvas, times: list[str]) -> list[Row]:
    """What was done before the language model, where anything was."""
    cells, counts = canvas.cells, canvas.cells.counts
    if (cells.sizes > 1).any():
        remark = (
            f"{counts[0]} tokens became {counts[1]} before the language model. Cells of one colour are one token; "
            "clear cells are tokens of their own"
        )
        remark += "; dark ones were dropped." if (cells.merged < 0).any() else "."
        if cells.static.any():
            remark += " What stands still keeps its colour through its scene."
        return [Row("Merged cells", remark, tiles(merged(canvas), times, "merged cells"))]
    if counts[1] < counts[0]:
        remark = f"{counts[0]} tokens became {counts[1]} before the language model; dark cells were dropped."
        return [Row("Before the language model", remark, tiles(kept(canvas, cells.merged), times, "kept before"))]
    return []


def score_rows(canvas: Canvas, times: list[str], scale: str, layers: Sequence[int] | None = None) -> list[Row]:
    """The scores of every choice that was made by scores, or of those after some layers."""
    found = []
    for number, step in enumerate(canvas.cells.steps):
        if step.scores is None or (layers is not None and step.layer not in layers):
            continue
        left = canvas.cells.counts[number + 2]
        remark = "Light cells scored high, dark blue ones low; grey cells took no part."
        if layers is None:
            remark = f"What the choice after layer {step.layer} went by; it left {left} tokens. {remark}"
        name = f"Score after layer {step.layer}" if layers is None else f"Attention after layer {step.layer}"
        found.append(
            heat_row(name, remark if layers is None else "", heat_map(canvas, step.scores, scale=scale), times)
        )
    return found


def heat_row(title: str, remark: str, found: Heat, times: list[str]) -> Row:
    """A heat map with its colour bar."""
    bar = tiles(colour_bar(*_BAR)[None], [""], "colour bar")[0]
    return Row(title, remark, tiles(found.pictures, times, title.lower()), bar, f"{found.low:.3g}", f"{found.high:.3g}")


def kept_row(canvas: Canvas, times: list[str], title: str = "Kept", remark: str | None = None) -> Row:
    """What is left in the end, with the share of each step."""
    cells = canvas.cells
    _, rows, columns = cells.shape
    shares = [f"{time}: {int(cells.clear[step].sum())}/{rows * columns}" for time, step in zip(times, canvas.steps)]
    if remark is None:
        gone = (
            "Clear cells are covered by a token that stayed, dark ones were dropped."
            if (~cells.clear).any()
            else ("Every cell is covered by a token that stayed.")
        )
        remark = f"{cells.counts[-1]} of {cells.counts[0]} tokens in the end. {gone} Below: clear cells of each step."
    return Row(title, remark, tiles(kept(canvas), shares, "kept cells"))


def tiles(pictures: Pixels, captions: Sequence[str], what: str) -> list[Tile]:
    """(n, h, w, 3) uint8 as pictures of a page."""
    height, width = pictures.shape[1:3]
    return [
        Tile(data_url(picture), caption, f"{what}, {caption}" if caption else what, width, height)
        for picture, caption in zip(pictures, captions)
    ]


def data_url(pixels: Pixels) -> str:
    """(h, w, 3) uint8 as a PNG inside its own address."""
    from PIL import Image

    content = png(Image.fromarray(np.ascontiguousarray(pixels)))
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def scene_blocks(part: Part) -> list[SceneBlock]:
    """The scenes of a video; none where there is one only."""
    cells = part.cells
    if len(cells.scenes) < 2:
        return []
    found = []
    for number, scene in enumerate(cells.scenes, start=1):
        start, last = step_times(part, [scene.start, scene.stop - 1])
        tokens, left = scene.static + scene.dynamic, scene.kept_static + scene.kept_dynamic
        found.append(SceneBlock(number, scene.stop - scene.start, start, last, tokens, left, scene.static))
    return found
