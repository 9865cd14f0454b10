# SPDX-License-Identifier: Apache-2.0
"""Pictures are lookups: clear where a token is left, one colour where one token is, lines where scenes begin."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from prunevid.builtin.model import WEIGHTS
from prunevid.engine import TokenMap
from prunevid.errors import ConfigError, InputError
from prunevid.models.base import VideoLayout
from prunevid.view import Canvas, Cells, boundaries, colour_bar, fit, heat_map, kept, merged, timeline
from prunevid.view.colours import heat, token_colours
from view.drawn import NAMES, answer_of, chosen_map, merged_map, white

needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")


def canvas_of(item: TokenMap, frames: np.ndarray | None = None, **options: Any) -> Canvas:
    cells = Cells.of(item)
    frames = white(cells.shape[0]) if frames is None else frames
    return Canvas.by_step(frames, cells, **options)


def at_cells(pictures: np.ndarray, cells: Cells) -> np.ndarray:
    """(T, H, W, 3): the middle pixel of every cell."""
    _, rows, columns = cells.shape
    height, width = pictures.shape[1:3]
    down, across = ((np.arange(n) * 2 + 1) * size // (2 * n) for n, size in ((rows, height), (columns, width)))
    return pictures[:, down][:, :, across]


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_as_many_cells_are_clear_and_coloured_as_counted(name: str) -> None:
    """For every method; colours are equal exactly where the token is the same."""
    item, stats = answer_of(name).maps[0], answer_of(name).stats
    canvas = canvas_of(item)
    cells, left = canvas.cells, at_cells(kept(canvas), canvas.cells)
    clear = (left == 255).all(-1)
    assert (clear == cells.clear).all() and (left[~clear] < 80).all()
    assert len(np.unique(cells.final[clear])) == stats["stage2"]["compressed_tokens"]
    shown = at_cells(merged(canvas), cells)
    single = (shown == 255).all(-1)
    gone = (shown == shown[..., :1]).all(-1) & (shown[..., 0] < 80)
    tokens = len(np.unique(shown[~single & ~gone].reshape(-1, 3), axis=0)) + int(single.sum())
    assert tokens == stats["stage1"]["compressed_tokens"]
    assert (gone == (cells.merged < 0)).all()
    by_token: dict[int, set[tuple[int, ...]]] = {}
    for token, colour in zip(cells.merged[~single & ~gone].tolist(), shown[~single & ~gone].tolist()):
        by_token.setdefault(token, set()).add(tuple(colour))
    assert all(len(colours) == 1 for colours in by_token.values())
    assert len(set.union(set(), *by_token.values())) == len(by_token)


@needs_weights
def test_static_colours_last_through_their_scene_and_no_longer() -> None:
    canvas = canvas_of(answer_of("prunevid").maps[0])
    cells, shown = canvas.cells, at_cells(merged(canvas), canvas.cells)
    for scene in cells.scenes:
        run, still = shown[scene.start : scene.stop], cells.static[scene.start : scene.stop]
        assert (still == still[0]).all()
        assert (run == run[:1])[still].all()
    token, across = cells.merged[0][cells.static[0]], cells.merged[cells.scenes[0].stop :]
    assert not np.isin(token, across).any()


@pytest.mark.parametrize("width", [5, 48, 113])
@pytest.mark.parametrize("size", [(3, 4), (40, 48), (90, 31)])
def test_any_width(width: int, size: tuple[int, int]) -> None:
    """Also cells of less than a pixel, and frames that the grid does not divide."""
    frames = fit(white(4, *size), width)
    assert frames.shape == (4, max(1, round(size[0] * width / size[1])), width, 3) and (frames == 255).all()
    canvas = canvas_of(chosen_map(), frames)
    for pictures in (kept(canvas), merged(canvas), heat_map(canvas, canvas.cells.steps[0].scores).pictures):
        assert pictures.shape == frames.shape and pictures.dtype == np.uint8
    pixels = canvas.spread(canvas.cells.merged, -9)
    assert (pixels >= -1).all() and ((kept(canvas) == 255).all(-1) == canvas.spread(canvas.cells.clear, False)).all()


def test_frames_that_are_none() -> None:
    for frames in (white(2)[0], white(2).astype(np.float32), white(0)):
        with pytest.raises(InputError, match="frames is an array"):
            fit(frames, 10)
    with pytest.raises(ConfigError, match="width is 0"):
        fit(white(1), 0)


def test_lines_lie_between_tokens_and_only_where_cells_are_large() -> None:
    canvas = canvas_of(merged_map())
    with_lines, without = merged(canvas), merged(canvas, lines=False)
    drawn = (with_lines != without).any(-1)
    number = canvas.spread(canvas.cells.merged, -1)
    beside = np.zeros_like(drawn)
    beside[:, 1:] |= number[:, 1:] != number[:, :-1]
    beside[:, :, 1:] |= number[:, :, 1:] != number[:, :, :-1]
    assert drawn.any() and (drawn == beside).all()
    small = canvas_of(merged_map(), fit(white(4), 9))
    assert (merged(small) == merged(small, lines=False)).all()


def test_only_the_seen_region_is_covered() -> None:
    """A model that cuts its frames to the middle: cells lie there, the rest counts as not seen."""
    canvas = canvas_of(TokenMap(VideoLayout(4, 2, 3), None), region=(0.25, 0.0, 0.75, 1.0))
    clear = (kept(canvas) == 255).all(-1)
    assert clear[:, :, 12:36].all() and not clear[:, :, :12].any() and not clear[:, :, 36:].any()
    columns = canvas.spread(canvas.cells.merged, -1)[0, 0]
    assert columns.tolist() == [-1] * 12 + [0] * 8 + [1] * 8 + [2] * 8 + [-1] * 12


def test_frames_and_steps() -> None:
    """Two frames a step; more steps than frames; some of the steps."""
    cells = Cells.of(merged_map())
    frames = np.stack([np.full((4, 6, 3), shade, dtype=np.uint8) for shade in range(8)])
    assert Canvas.by_frame(frames, cells).steps == [0, 0, 1, 1, 2, 2, 3, 3]
    assert Canvas.by_step(frames, cells).frames[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    assert Canvas.by_frame(frames[:2], cells).frames[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    some = Canvas.by_step(frames, cells, most=2)
    assert some.steps == [1, 3] and some.frames[:, 0, 0, 0].tolist() == [2, 6]


def test_neighbours_get_colours_far_apart_and_no_two_tokens_the_same() -> None:
    rng = np.random.default_rng(0)
    tokens = np.kron(np.arange(16 * 15 * 15).reshape(16, 15, 15), np.ones((1, 1, 1), dtype=np.int64))
    tokens[rng.random(tokens.shape) < 0.1] = -1
    colours = token_colours(tokens)
    assert (colours == token_colours(tokens)).all()
    present = np.unique(tokens[tokens >= 0])
    assert len(np.unique(colours[present], axis=0)) == len(present)
    for axis in range(3):
        one, other = np.moveaxis(tokens, axis, 0)[:-1], np.moveaxis(tokens, axis, 0)[1:]
        both = (one >= 0) & (other >= 0)
        apart = np.abs(colours[one[both]].astype(int) - colours[other[both]]).sum(-1)
        assert apart.min() >= 40


def test_heat_rises_evenly_in_lightness() -> None:
    """So that it reads without colours too."""
    table = heat(np.linspace(0, 1, 256)).astype(float) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    light = np.cbrt(linear @ np.array([0.2126, 0.7152, 0.0722]))
    steps = np.diff(light[::15])
    assert (steps > 0).all() and steps.max() < 2 * steps.min()


def test_a_heat_map_has_its_ends_and_its_gaps() -> None:
    canvas = canvas_of(chosen_map())
    second = canvas.cells.steps[1].scores
    found = heat_map(canvas, second, mix=1.0)
    assert (found.low, found.high, found.scale) == (0.0, 0.5, "linear")
    shown = at_cells(found.pictures, canvas.cells)
    known = np.isfinite(second)
    assert (shown[known] == heat(second[known] / 0.5)).all() and (shown[~known] == 76).all()
    bar = colour_bar(11, 3)
    assert bar.shape == (3, 11, 3) and (bar[0, 0] == heat(np.zeros(()))).all() and (bar[2, -1] == heat(1.0)).all()
    log = heat_map(canvas, second, scale="log", mix=1.0)
    assert (log.low, log.high) == (0.125, 0.5)
    assert (at_cells(log.pictures, canvas.cells)[2, 0] == heat(np.array([1.0, 0.0, 0.0]))).all()
    flat = heat_map(canvas, np.full(second.shape, 2.0, dtype=np.float32))
    assert (flat.low, flat.high) == (2.0, 2.0)
    with pytest.raises(ConfigError, match="scale is 'cubic'"):
        heat_map(canvas, second, scale="cubic")


@pytest.mark.parametrize("lengths", [[4], [1, 3], [2, 1, 1], [1, 1, 1, 1]])
def test_scenes_begin_on_the_timeline_where_they_do_in_the_clip(lengths: list[int]) -> None:
    item = merged_map()
    others = len(lengths) - 1
    sizes = {"static_sizes": [0, *[0] * others], "dynamic_sizes": [5 - others, *[1] * others]}
    item.merged = dataclasses.replace(item.merged, scene_lengths=lengths, **sizes)
    cells = Cells.of(item)
    ends = np.cumsum([0, *lengths])
    assert boundaries(cells, 200) == (ends * 50).tolist()
    strip = timeline(cells, 200, 6, colours=("#0000ff", "#00ff00"), line="#000000")
    assert strip.shape == (6, 200, 3) and (strip == strip[:1]).all()
    for number, (start, stop) in enumerate(zip(ends[:-1] * 50, ends[1:] * 50)):
        assert (strip[0, start + 1 : stop - 1] == [(0, 0, 255), (0, 255, 0)][number % 2]).all()
    black = (strip[0] == 0).all(-1).nonzero()[0].tolist()
    assert black == [place for end in ends[1:-1] for place in (end * 50 - 1, end * 50)]
