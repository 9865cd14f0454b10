# SPDX-License-Identifier: Apache-2.0
"""Which frames of an item's clip a protocol shows, and reading exactly these.

The choices are arithmetic on the number of frames, their rate and the part that is asked about; `read_clip` hands one
of them to the package's own reader.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from prunevid.errors import InputError
from prunevid.evaluation.items import VideoSource
from prunevid.video import Clip, load_clip

FOLDER_FPS = 3.0  # frames a second of MVBench's folders of pictures
GIF_FPS = 25.0  # at which the published protocol counts the frames of a gif, whatever the file says
_EARLIEST, _LATEST = -100000.0, 100000.0  # seconds: the part of a clip without bounds
_PICTURE = re.compile(r"\d+\.jpg")

Bound = tuple[float, float] | None
Choose = Callable[[int, float, int, Bound], list[int]]
"""From (frames, frames a second, how many to show, the part asked about) to positions from 0."""


def middles(last: int, fps: float, count: int, bound: Bound = None, first: int = 0) -> list[int]:
    """The published frame choice: the middle of each of `count` equal parts between the first and last frame.

    int(s + seg / 2 + round(seg * i)) with seg = (e - s) / count, halves rounded to the even number. A part with fewer
    frames than `count` gives some of them several times.

    Args:
        last: number of the last frame.
        fps: frames a second.
        count: how many to show, >= 1.
        bound: (start, end) in seconds; None: all of it.
        first: number of the first frame.

    Raises:
        InputError: the bound lies behind the last frame, so that a frame would be shown that isn't there.
    """
    start, end = bound if bound is not None else (_EARLIEST, _LATEST)
    low, high = max(first, round(start * fps)), min(round(end * fps), last)
    part = (high - low) / count
    chosen = [int(low + part / 2 + round(part * place)) for place in range(count)]
    if not all(first <= number <= last for number in chosen):
        raise _outside(start, end, last - first + 1, fps)
    return chosen


def _outside(start: float, end: float, frames: int, fps: float) -> InputError:
    return InputError(
        f"The part from {start:g} to {end:g} s lies outside a clip of {frames} frames at {fps:g} a second; check the "
        "annotation and that this is the whole clip."
    )


def paper_video(total: int, fps: float, count: int, bound: Bound = None) -> list[int]:
    """The published choice for a video file.

    Raises:
        InputError: see `middles`.
    """
    return middles(total - 1, fps, count, bound)


def paper_folder(total: int, fps: float, count: int, bound: Bound = None) -> list[int]:
    """The published choice for a folder of pictures, which are numbered from 1; positions count from 0.

    Raises:
        InputError: see `middles`.
    """
    return [number - 1 for number in middles(total, fps, count, bound, first=1)]


def paper_gif(total: int, fps: float, count: int, bound: Bound = None) -> list[int]:
    """The published choice for a gif: each chosen frame once; where that are too few, all of them in order again.

    Raises:
        InputError: see `middles`.
    """
    distinct = sorted(set(middles(total - 1, GIF_FPS, count, bound)))
    return [distinct[place % len(distinct)] for place in range(count)]


def spread(total: int, fps: float, count: int, bound: Bound = None) -> list[int]:
    """The choice of lmms-eval: `count` positions evenly from the first frame to the last, cut to whole numbers.

    lmms-eval has files that were cut to the part asked about; a whole clip is bounded to the frames of that part.

    Raises:
        InputError: the bound lies behind the last frame.
    """
    start, end = bound if bound is not None else (_EARLIEST, _LATEST)
    low, high = max(0, round(start * fps)), min(round(end * fps), total - 1)
    if low > high:
        raise _outside(start, end, total, fps)
    if count == 1:
        return [low]
    return [low + (high - low) * place // (count - 1) for place in range(count)]


PAPER: dict[str, Choose] = {"video": paper_video, "frames": paper_folder, "gif": paper_gif}
LMMS: dict[str, Choose] = dict.fromkeys(PAPER, spread)


def read_clip(source: VideoSource, choices: dict[str, Choose], count: int) -> Clip:
    """The frames of a clip that a protocol shows.

    Args:
        source: where it is, and which part of it is asked about.
        choices: the protocol's choice for each kind of source (`PAPER`, `LMMS`).
        count: frames to show.

    Returns:
        A clip of `count` frames with their true times; some occur several times where there are few.

    Raises:
        InputError: it is missing, can't be read, or ends before the part that is asked about.
    """
    choose = choices[source.kind]

    def positions(total: int, fps: float) -> list[int]:
        return choose(total, fps, count, source.bound)

    if not source.path.exists():
        raise InputError(f"There is no {'folder' if source.kind == 'frames' else 'file'} {source.path}.")
    if source.kind != "frames":
        return load_clip(source.path, sampling=positions, progress=False)
    pictures = _pictures(source.path)
    clip = load_clip(pictures, sampling=positions, source_fps=FOLDER_FPS, progress=False)
    return dataclasses.replace(clip, source=str(source.path))


def _pictures(folder: Path) -> list[Path]:
    """The pictures 00001.jpg, 00002.jpg, ... of a folder, as many as it holds; one that is missing in between is met
    only where it is chosen."""
    try:
        count = sum(1 for entry in folder.iterdir() if _PICTURE.fullmatch(entry.name))
    except OSError as error:
        raise InputError(f"The folder of pictures {folder} can't be read ({error.strerror}).") from error
    if not count:
        raise InputError(f"The folder {folder} holds no pictures named 00001.jpg, 00002.jpg, ...; unpack it again.")
    return [folder / f"{number:05d}.jpg" for number in range(1, count + 1)]
