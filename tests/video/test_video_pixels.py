# SPDX-License-Identifier: Apache-2.0
"""Rotation and colour of decoded frames."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from prunevid.video import load_clip
from video import written
from video.written import BY_NAME

# tkhd matrix (a, b, c, d) and what it does to the stored pixels
TURNS = {
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "counterclockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside-down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "none": ((1, 0, 0, 1), lambda image: image),
}


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an mp4, as phones do."""
    data = bytearray(path.read_bytes())
    header = data.find(b"tkhd")
    assert data[header + 4] == 0  # version 0: the matrix stands 40 bytes behind the version
    a, b, c, d = (value << 16 for value in matrix)
    data[header + 44 : header + 80] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("name", TURNS)
def test_frames_are_upright(name: str, tmp_path: Path) -> None:
    matrix, expected = TURNS[name]
    path = written.write(BY_NAME["gop12b3.mp4"], tmp_path)
    stored = load_clip(path, max_frames=3).frames
    turn(path, matrix)
    clip = load_clip(path, max_frames=3)
    assert np.array_equal(clip.frames, np.stack([expected(image) for image in stored]))
    assert (clip.height, clip.width) == clip.frames.shape[1:3]
    assert clip.metadata()["width"] == clip.width
    assert clip.frames.flags["C_CONTIGUOUS"]


COLOURS = [(235, 128, 128), (16, 128, 128), (120, 90, 200), (90, 180, 110)]
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
CODES = {"bt601": 6, "bt709": 1, "unspecified": 2}


def rgb(colour: tuple[int, int, int], full: bool, weights: tuple[float, float]) -> np.ndarray:
    """Y'CbCr to R'G'B' from the definitions of BT.601 and BT.709."""
    red, blue = weights
    luma = colour[0] / 255 if full else (colour[0] - 16) / 219
    cb, cr = ((value - 128) / (255 if full else 224) for value in colour[1:])
    r = luma + 2 * (1 - red) * cr
    b = luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.array([r, g, b]) * 255, 0, 255)


def plain(path: Path, colour: tuple[int, int, int], matrix: int, colour_range: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_range, stream.codec_context.colorspace = colour_range, matrix
        for number in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane, value in zip(frame.planes, colour, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.color_range, frame.colorspace = number, colour_range, matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", CODES)
def test_colours_follow_the_tags(colour: Any, full: bool, matrix: str, tmp_path: Path) -> None:
    clip = load_clip(plain(tmp_path / "plain.mp4", colour, CODES[matrix], 2 if full else 1))
    expected = rgb(colour, full, WEIGHTS.get(matrix, WEIGHTS["bt601"]))
    assert clip.frames.mean(axis=(0, 1, 2)) == pytest.approx(expected, abs=2.5)
