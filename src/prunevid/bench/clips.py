# SPDX-License-Identifier: Apache-2.0
"""Clips to measure with: scenes in which a part of the picture moves, as frames in memory and as a real file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunevid.errors import ConfigError

FPS = 4
SCENE = 8
"""Frames of a scene."""


def make_frames(frames: int, width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """(T, H, W, 3) uint8: scenes of `SCENE` frames, each with a background of its own and a third of it in motion.

    Raises:
        ConfigError: a number below 1, or a side below 16 or odd.
    """
    if frames < 1:
        raise ConfigError(f"frames is {frames}, but must be at least 1.")
    for name, side in (("width", width), ("height", height)):
        if side < 16 or side % 2:
            raise ConfigError(f"The {name} of the clip is {side} pixels, but must be an even number of at least 16.")
    rng = np.random.default_rng(seed)
    made = np.empty((frames, height, width, 3), dtype=np.uint8)
    for start in range(0, frames, SCENE):
        ground = _coarse(rng, height, width)
        thing = _coarse(rng, height, max(2, width // 3))
        for index in range(start, min(start + SCENE, frames)):
            made[index] = ground
            left = (index - start) * max(1, (width - thing.shape[1]) // SCENE)
            made[index, :, left : left + thing.shape[1]] = np.roll(thing, 7 * index, axis=0)
    return made


def _coarse(rng: np.random.Generator, height: int, width: int, block: int = 8) -> NDArray[np.uint8]:
    """Noise in blocks, which survives a video codec."""
    small = rng.integers(0, 256, (-(-height // block), -(-width // block), 3), dtype=np.uint8)
    return small.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]


def can_write() -> bool:
    """Whether this machine can write and read video files (PyAV is there)."""
    return importlib.util.find_spec("av") is not None


def write_file(frames: NDArray[np.uint8], path: Path) -> Path:
    """Writes the frames as an mp4 file: H.264 where this build of FFmpeg's libraries has it, else MPEG-4 part 2."""
    import av

    known = "libx264" in av.codecs_available
    options = {"crf": "20", "preset": "veryfast"} if known else {"qscale": "3"}
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264" if known else "mpeg4", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path
