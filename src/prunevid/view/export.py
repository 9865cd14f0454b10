# SPDX-License-Identifier: Apache-2.0
"""Pictures and videos as files: PNG, MP4 and GIF, each there whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunevid.errors import ConfigError, MissingDependencyError
from prunevid.files import write_files
from prunevid.view.animation import Film, overlay
from prunevid.view.sheets import sheet

if TYPE_CHECKING:
    from PIL.Image import Image

CODECS = {
    "libx264": {"crf": "18", "preset": "veryfast", "threads": "1"},
    "libopenh264": {"rc_mode": "quality"},
    "mpeg4": {"qscale": "2"},
}
"""Encoders of an MP4 by preference, with their options; the last is part of every build of FFmpeg."""


def save(subject: Any, path: str | os.PathLike[str], frames: Any = None, **options: Any) -> Path:
    """Draws a subject and writes it: as a still picture (.png) or through time (.mp4, .gif).

    Args:
        subject, frames: see `prunevid.view.sheet`.
        path: its ending says what is written; folders are made.
        options: of `sheet` for a picture, of `overlay` for a video.

    Raises:
        ConfigError: another ending.
        PruneVidError: the file can't be written; one that was there is as it was.
    """
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise ConfigError(
            f"{os.fspath(path)!r} ends in {Path(path).suffix!r}, but a picture must end in {', '.join(_WRITERS)}."
        )
    return writer(subject, path, frames, **options)


def save_png(subject: Any, path: str | os.PathLike[str], frames: Any = None, **options: Any) -> Path:
    """Writes `sheet(subject, frames, **options)`; see `save`."""
    return _written(path, png(sheet(subject, frames, **options)))


def save_mp4(subject: Any, path: str | os.PathLike[str], frames: Any = None, **options: Any) -> Path:
    """Writes `overlay(subject, frames, **options)` as a video; see `save`.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    return _written(path, mp4(overlay(subject, frames, **options)))


def save_gif(subject: Any, path: str | os.PathLike[str], frames: Any = None, **options: Any) -> Path:
    """Writes `overlay(subject, frames, **options)` as a GIF that runs for ever; see `save`."""
    return _written(path, gif(overlay(subject, frames, **options)))


_WRITERS: dict[str, Callable[..., Path]] = {".png": save_png, ".mp4": save_mp4, ".gif": save_gif}


def _written(path: str | os.PathLike[str], content: bytes) -> Path:
    target = Path(path)
    write_files({target: content})
    return target


def png(picture: Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def mp4(film: Film) -> bytes:
    """A film as the bytes of an MP4 file: H.264 where this build of FFmpeg's libraries has it, else MPEG-4 part 2.

    Raises:
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "Writing an MP4 needs PyAV, which is not installed; run `pip install av`, or write a .gif."
        ) from error
    codec = next(name for name in CODECS if name in av.codecs_available or name == "mpeg4")
    even = [(0, 0), *((0, size % 2) for size in film.pictures.shape[1:3]), (0, 0)]  # both codecs halve the colours
    pictures = np.pad(film.pictures, even, mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate = Fraction(film.fps).limit_denominator(1000)
        stream: Any = container.add_stream(codec, rate=rate, options=CODECS[codec])
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def gif(film: Film) -> bytes:
    """A film as the bytes of a GIF file."""
    from PIL import Image

    first, *others = (Image.fromarray(picture) for picture in film.pictures)
    file = io.BytesIO()
    shown = max(20, round(1000 / film.fps))  # milliseconds; browsers slow down what is faster
    first.save(file, format="GIF", save_all=True, append_images=others, duration=shown, loop=0)
    return file.getvalue()
