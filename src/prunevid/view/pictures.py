# SPDX-License-Identifier: Apache-2.0
"""Pictures of one video's cells over its frames: arrays (n, h, w, 3) uint8, looked up cell by cell.

Nothing here runs a model: a picture is made of the frames that were asked about and of the recorded token map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from prunevid.errors import ConfigError, InputError
from prunevid.region import WHOLE, Region
from prunevid.view.colours import Pixels, heat, rgb, token_colours
from prunevid.view.tokens import Cells, Grid, frame_steps

_DIM = 0.3  # how light a dropped cell is, as a share of the frame
_LINE = 6  # pixels of a cell from which on lines are drawn between tokens
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # how much each channel counts for lightness (BT.601)


def fit(frames: NDArray[np.uint8], width: int) -> Pixels:
    """Frames at a width, their height in proportion.

    Small pictures are enlarged in whole pixels, so that they stay sharp.

    Args:
        frames: (n, H, W, 3) uint8.
        width: pixels, at least 1.

    Raises:
        InputError: these are no frames.
        ConfigError: a width below 1.
    """
    from PIL import Image

    frames = checked(frames)
    if width < 1:
        raise ConfigError(f"width is {width}, but must be at least 1 pixel.")
    height = max(1, round(frames.shape[1] * width / frames.shape[2]))
    way = Image.Resampling.NEAREST if width >= 2 * frames.shape[2] else Image.Resampling.LANCZOS
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), way)) for frame in frames])


def checked(frames: NDArray[np.uint8]) -> Pixels:
    """Frames as they are.

    Raises:
        InputError: these are no frames.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise InputError(
            f"frames is an array {frames.shape} of {frames.dtype}, but must be (frames, height, width, 3) of uint8."
        )
    return frames


def blank(cells: Cells, width: int) -> Pixels:
    """Plain frames of the grid's own proportions, one for each step, for records whose frames are not at hand."""
    steps, rows, columns = cells.shape
    return np.full((steps, max(1, round(width * rows / columns)), width, 3), 205, dtype=np.uint8)


def _grey(pixels: Pixels) -> NDArray[np.float32]:
    """(..., 3) uint8 as (...) float32, 0 ... 255: how light each pixel is."""
    return pixels.astype(np.float32) @ _GREY


@dataclass(frozen=True, eq=False)
class Canvas:
    """Frames and the grid that lies over them.

    Attributes:
        frames: (n, h, w, 3) uint8, of the size that is drawn.
        cells: the grid.
        steps: the grid step that each frame belongs to.
        region: the part of a frame that the grid covers: left, top, right, bottom as shares; the rest was not seen.
    """

    frames: Pixels
    cells: Cells
    steps: Sequence[int]
    region: Region = WHOLE

    @classmethod
    def by_step(cls, frames: Pixels, cells: Cells, region: Region = WHOLE, most: int | None = None) -> Canvas:
        """The first frame of every step of the grid, or of `most` steps at equal distances."""
        shown = [frames[part.start] for part in frame_steps(len(frames), len(cells.merged))]
        count = len(shown) if most is None else min(most, len(shown))
        steps = [(2 * number + 1) * len(shown) // (2 * count) for number in range(count)]
        return cls(np.stack([shown[step] for step in steps]), cells, steps, region)

    @classmethod
    def by_frame(cls, frames: Pixels, cells: Cells, region: Region = WHOLE) -> Canvas:
        """Every frame, in the grid step that it belongs to; every step, where there are fewer frames than steps."""
        parts = frame_steps(len(frames), len(cells.merged))
        if len(frames) < len(parts):
            return cls.by_step(frames, cells, region)
        steps = [step for step, part in enumerate(parts) for _ in part]
        return cls(frames, cells, steps, region)

    def spread(self, grid: NDArray, outside: object) -> NDArray:
        """(T, H, W, ...) values of cells as (n, h, w, ...) values of pixels; `outside` where no cell lies."""
        height, width = self.frames.shape[1:3]
        left, top, right, bottom = self.region
        down, across = _places(height, grid.shape[1], top, bottom), _places(width, grid.shape[2], left, right)
        found = grid[list(self.steps)][:, np.maximum(down, 0)][:, :, np.maximum(across, 0)]
        found[:, down < 0] = outside
        found[:, :, across < 0] = outside
        return found

    def dimmed(self) -> Pixels:
        """The frames, dark and grey: what no token stands for."""
        return np.repeat((_grey(self.frames) * np.float32(_DIM))[..., None], 3, axis=-1).astype(np.uint8)


def _places(pixels: int, cells: int, start: float, stop: float) -> NDArray[np.int64]:
    """(pixels,) the row (or column) of cells at each row of pixels, -1 outside."""
    share = (np.arange(pixels) + 0.5) / pixels
    place = np.floor((share - start) / (stop - start) * cells).astype(np.int64)
    return np.where((share < start) | (share >= stop), -1, place.clip(0, cells - 1))


def kept(canvas: Canvas, token: Grid | None = None) -> Pixels:
    """What is left clear, the rest dimmed.

    Args:
        canvas: where to draw.
        token: (T, H, W) int64, the token that stands for each cell, -1 for none; None: in the end.
    """
    token = canvas.cells.final if token is None else token
    clear = canvas.spread(token >= 0, False)
    return np.where(clear[..., None], canvas.frames, canvas.dimmed())


def merged(canvas: Canvas, token: Grid | None = None, *, lines: bool = True) -> Pixels:
    """Cells that became one token in one colour, a token of a single cell clear, what was dropped dimmed.

    A static token has its colour in all frames of its scene, a dynamic one in its own frame.

    Args:
        canvas: where to draw.
        token: (T, H, W) int64, the token that stands for each cell, -1 for none; None: after the merge.
        lines: whether a thin line stands between tokens, where cells are large enough.
    """
    token = canvas.cells.merged if token is None else token
    number = canvas.spread(token, -1)
    size = np.bincount(token[token >= 0], minlength=1)
    joined = np.where((token >= 0) & (size[np.maximum(token, 0)] > 1), token, -1)
    colours = token_colours(joined)
    drawn = np.where(number[..., None] >= 0, canvas.frames, canvas.dimmed())
    if len(colours):
        several = canvas.spread(joined >= 0, False)
        tint = colours[number[several]]
        drawn[several] = (0.3 * _grey(canvas.frames[several])[:, None] + 0.7 * tint).round()
    if lines and _cell_size(canvas) >= _LINE:
        drawn[_borders(number)] = 25
    return drawn


def _cell_size(canvas: Canvas) -> float:
    """Pixels of the shorter side of a cell."""
    height, width = canvas.frames.shape[1:3]
    left, top, right, bottom = canvas.region
    _, rows, columns = canvas.cells.shape
    return min(height * (bottom - top) / rows, width * (right - left) / columns)


def _borders(number: Grid) -> NDArray[np.bool_]:
    """(n, h, w): the first pixels of a token to the right of another or below it."""
    found = np.zeros(number.shape, dtype=bool)
    found[:, 1:] |= number[:, 1:] != number[:, :-1]
    found[:, :, 1:] |= number[:, :, 1:] != number[:, :, :-1]
    return found


@dataclass(frozen=True, eq=False)
class Heat:
    """A heat map.

    Attributes:
        pictures: (n, h, w, 3) uint8.
        low, high: the numbers at the ends of the colour bar; equal where all are.
        scale: "linear" or "log", how colours lie between them.
    """

    pictures: Pixels
    low: float
    high: float
    scale: str


def heat_map(canvas: Canvas, scores: NDArray[np.float32], *, scale: str = "linear", mix: float = 0.75) -> Heat:
    """Scores in colours from dark blue (lowest) to light yellow (highest); what took no part is dimmed.

    Args:
        canvas: where to draw.
        scores: (T, H, W) float32, nan for cells that took no part.
        scale: "linear", or "log" (scores must not be negative; a 0 gets the colour of the lowest above it).
        mix: share of the colour; the rest is the frame without colours.

    Raises:
        ConfigError: another scale.
    """
    if scale not in ("linear", "log"):
        raise ConfigError(f"scale is {scale!r}, but must be 'linear' or 'log'.")
    values = scores.astype(np.float64)
    known = values[np.isfinite(values) & ((values > 0) | (scale == "linear"))]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if scale == "log" and known.size:
        part = (np.log(np.maximum(values, low)) - np.log(low)) / max(np.log(high / low), 1e-12)
    else:
        part = (values - low) / max(high - low, 1e-30)
    spread = canvas.spread(np.where(np.isfinite(values), part, np.nan), np.nan)
    grey = _grey(canvas.frames)[..., None]
    mixed = (mix * heat(spread) + (1 - mix) * grey).round().astype(np.uint8)
    return Heat(np.where(np.isnan(spread)[..., None], canvas.dimmed(), mixed), low, high, scale)


def colour_bar(width: int, height: int) -> Pixels:
    """(height, width, 3): the colours of `heat_map` from the lowest score to the highest."""
    return np.repeat(heat(np.linspace(0.0, 1.0, width))[None], height, axis=0)


def boundaries(cells: Cells, width: int) -> list[int]:
    """Where on a line of so many pixels each scene begins, and last where the last one ends."""
    steps = max(1, cells.shape[0])
    return [round(scene.start * width / steps) for scene in cells.scenes] + [width]


def timeline(
    cells: Cells, width: int, height: int, *, colours: Sequence[str] = ("#56b4e9", "#e69f00"), line: str = "#1f2328"
) -> Pixels:
    """(height, width, 3): the scenes from left to right in turns of two colours, a line of two pixels at every border.

    Args:
        cells: the grid.
        width, height: pixels.
        colours: of the scenes, in turns.
        line: colour of the borders.
    """
    found = np.zeros((height, width, 3), dtype=np.uint8)
    places = boundaries(cells, width)
    for number, (start, stop) in enumerate(pairwise(places)):
        found[:, start:stop] = rgb(colours[number % len(colours)])
    for place in places[1:-1]:
        found[:, max(0, place - 1) : place + 1] = rgb(line)
    return found
