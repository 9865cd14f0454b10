# SPDX-License-Identifier: Apache-2.0
"""`load_clip`: one door for everything that can be a clip."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import Image

from prunevid.errors import InputError
from prunevid.video.clip import Clip
from prunevid.video.files import FileReader
from prunevid.video.images import IMAGE_SUFFIXES, as_frames, folder_frames, read_image, sample_frames
from prunevid.video.limits import Limits
from prunevid.video.progress import ProgressOption, Reporter
from prunevid.video.sampling import DEFAULT_FPS, Choose, Request, check_rate


def load_clip(
    source: Any,
    *,
    max_frames: int = 16,
    sampling: str | Choose = "uniform",
    fps: float | None = None,
    source_fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    limits: Limits | None = None,
    progress: ProgressOption = None,
    lazy: bool = False,
) -> Clip:
    """Sample frames of a clip.

    Which frames: those shown in [start, end), counted from the clip's first frame, are candidates. "uniform" cuts
    them into `max_frames` equal segments and takes the centre of each, frame `floor((i + 0.5) * n / max_frames)` of
    n; "fps" takes what is on screen at start, start + 1/fps, ..., and thins that in the same way if it is more than
    `max_frames`. A clip with fewer frames gives those it has; no frame comes twice. A protocol that says itself which
    frames to take gives a function: it gets the number of frames and the frames a second of the whole clip, and what
    it returns is taken as it is, in its order, with frames that it names twice.

    Files are opened read-only and never fetched from a network. Frames that aren't wanted are skipped by seeking
    where the container allows. A damaged file gives the frames that decode, with a `DamagedClipWarning`: also an
    mp4 that was cut off behind its index; one cut off before it (the index is often last) can't be read at all.

    Args:
        source: one of
            a path of any file that FFmpeg's libraries read (needs PyAV), or of one image;
            a path of a folder of frames (jpg, png, ...), in natural order of their names;
            a list of paths, PIL images, (H, W, 3) arrays or tensors: the frames in order, all of one size;
            a (T, H, W, 3) or (T, 3, H, W) array or tensor, integers 0 ... 255 or floats 0 ... 1.
        max_frames: most frames to take, at least 1; a function goes by its own.
        sampling: "uniform", "fps", or a function from (frames, frames a second) to positions from 0; then without
            `fps`, `start` and `end`.
        fps: for "fps", frames to take a second (1 by default). Of frames without times of their own (folders, lists,
            arrays) it is the rate at which they follow each other, unless `source_fps` says that.
        source_fps: frames a second of folders, lists and arrays; `fps` by default, and 1 without that.
        start: seconds; the beginning by default.
        end: seconds; the end by default, and where it lies beyond that.
        limits: what a frame may measure and the sampled part may last.
        progress: None for a bar on standard error (a terminal only, after two seconds), False for none, or a
            callable that gets (frames done, frames wanted).
        lazy: give a clip whose `frames` are `LazyFrames`, which are read when they are asked for: of a file, a folder
            or a list of paths. Arrays stay as they are, and so does what can only be read as a whole. There is no bar.

    Returns:
        A `Clip`.

    Raises:
        InputError: a source that is missing, empty, no video or too large, or an argument that is out of range.
        MissingDependencyError: a video file, and PyAV is not installed.
    """
    request = Request(max_frames, sampling, fps, start, end)
    limits = limits or Limits()
    if source_fps is not None:
        check_rate("source_fps", source_fps)
    label = Path(source).name if isinstance(source, (str, os.PathLike)) else "frames"
    if lazy and not callable(progress):
        progress = False
    with Reporter(progress, label) as reporter:
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if not path.is_dir() and path.suffix.lower() not in IMAGE_SUFFIXES:
                _refuse_rate(request, source_fps, path)
                reader = FileReader(path, request, limits, reporter)
                return reader.stream() if lazy else reader.read()
        return _load_frames(source, request, _rate(request, source_fps), limits, reporter, lazy)


def _refuse_rate(request: Request, source_fps: float | None, path: Path) -> None:
    """A video file has its own rate: a rate that would be ignored is a mistake."""
    if source_fps is not None:
        raise InputError(f"source_fps is {source_fps:g}, but {path} has a rate of its own; leave source_fps out.")
    if request.fps is not None and request.sampling != "fps":
        raise InputError(
            f"fps is {request.fps:g} with sampling {request.sampling!r}; "
            "use sampling='fps' to take that many frames a second."
        )


def _rate(request: Request, source_fps: float | None) -> float:
    """Frames a second of frames that have no times: what was said of them, or the rate at which to take them."""
    return float(source_fps or request.fps or DEFAULT_FPS)


def _load_frames(
    source: Any, request: Request, rate: float, limits: Limits, reporter: Reporter, lazy: bool = False
) -> Clip:
    """Clips that are images already."""
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        height, width = _frame_size(source)
        limits.check_pixels(width, height, "the array")
        frames = as_frames(source)
        return sample_frames(
            len(frames), lambda number: frames[number], rate, request, limits, reporter, "array", "array"
        )
    items, name = _items(source)

    def fetch(number: int) -> Any:
        return read_image(items[number], limits, f"frame {number}")

    return sample_frames(len(items), fetch, rate, request, limits, reporter, name, "images", lazy)


def _frame_size(array: Any) -> tuple[int, int]:
    """Height and width that an array claims, for the limit; shapes that make no sense are refused later."""
    shape = tuple(int(size) for size in array.shape)[-3:]
    if len(shape) < 3:
        return 0, 0
    return (shape[0], shape[1]) if shape[2] in (1, 3, 4) else (shape[1], shape[2])


def _items(source: Any) -> tuple[list[Any], str]:
    """The frames of a folder, an image file, an image or a list, and the name for messages."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return (list(folder_frames(path)) if path.is_dir() else [path]), str(path)
    if isinstance(source, Image.Image):
        return [source], "images"
    if isinstance(source, (list, tuple)):
        if not source:
            raise InputError("The list of frames is empty; give at least one frame.")
        return list(source), "images"
    raise InputError(
        f"A clip can't be made of {type(source).__name__}; give the path of a file or folder, a list of images, or a "
        "(T, H, W, 3) array."
    )
