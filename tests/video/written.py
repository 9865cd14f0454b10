# SPDX-License-Identifier: Apache-2.0
"""Small clips written for the tests, and a plain full decode to compare with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from prunevid.video import Clip, Limits
from prunevid.video.decoding import Work
from prunevid.video.files import FileReader
from prunevid.video.progress import Reporter
from prunevid.video.sampling import Request

CLOSED = {"sc_threshold": "0"}


@dataclass(frozen=True)
class Recipe:
    """How a clip is made; `name` gives the container by its ending."""

    name: str
    codec: str
    gop: int = 12
    bframes: int = 0
    frames: int = 60
    width: int = 64
    height: int = 48
    pixels: str = "yuv420p"
    rate: int = 30
    varying: bool = False
    offset: float = 0.0
    options: dict[str, str] = field(default_factory=dict)


X264 = "libx264"
RECIPES = [
    *(Recipe(f"gop{g}b{b}.mp4", X264, gop=g, bframes=b, options=CLOSED) for g in (1, 5, 12, 250) for b in (0, 3)),
    Recipe("open.mp4", X264, bframes=3, options={"x264-params": "open-gop=1:scenecut=0"}),
    Recipe("open.mkv", X264, bframes=3, options={"x264-params": "open-gop=1:scenecut=0"}),
    Recipe("refresh.mp4", X264, options={"x264-params": "intra-refresh=1:keyint=15:bframes=0:scenecut=0"}),
    Recipe("varying.mp4", X264, bframes=3, varying=True, options=CLOSED),
    Recipe("varying.mkv", X264, bframes=2, varying=True, offset=0.7, options=CLOSED),
    Recipe("late.mp4", X264, bframes=2, offset=1.5, options=CLOSED),
    Recipe("plain.mkv", X264, bframes=3, options=CLOSED),
    Recipe("late.ts", X264, bframes=3, offset=3.0, options=CLOSED),
    Recipe("mpeg2.ts", "mpeg2video", bframes=2, rate=25),
    Recipe("plain.avi", "mpeg4"),
    Recipe("bframes.avi", "mpeg4", bframes=2),
    Recipe("disordered.avi", X264, bframes=2, options=CLOSED),
    Recipe("intra.avi", "mjpeg", pixels="yuvj420p"),
    Recipe("vp8.webm", "libvpx"),
    Recipe("altref.webm", "libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    Recipe("vp9.webm", "libvpx-vp9"),
    Recipe("av1.mp4", "libsvtav1"),
    Recipe("hevc.mp4", "libx265", bframes=2, options={"x265-params": "log-level=none"}),
    Recipe("lossless.mkv", "ffv1"),
    Recipe("raw.h264", X264, bframes=2, options=CLOSED),
    Recipe("palette.gif", "gif", pixels="rgb8"),
    Recipe("odd.mkv", "ffv1", width=33, height=21, pixels="bgr0"),
    Recipe("grey.mkv", "ffv1", pixels="gray"),
    Recipe("alpha.mkv", "ffv1", pixels="yuva420p"),
    Recipe("one.mp4", X264, frames=1),
]
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A frame that no other frame of the clip looks like: a bar that moves over a ground that brightens."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = (number * 4) % 256
    image[: height // 3, :, 2] = 120
    left = (number * 3) % width
    image[:, left : left + 6] = 255
    return image


def write(recipe: Recipe, folder: Path, muxing: dict[str, str] | None = None) -> Path:
    """Write the clip of a recipe; skips the test where FFmpeg here has no such encoder."""
    if recipe.codec not in av.codecs_available:
        pytest.skip(f"FFmpeg here has no encoder {recipe.codec}")
    path = folder / recipe.name
    base = Fraction(1, 1000) if recipe.varying else Fraction(1, recipe.rate)
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, recipe.pixels
        stream.codec_context.gop_size = recipe.gop
        stream.codec_context.max_b_frames = recipe.bframes
        if recipe.varying:
            stream.codec_context.time_base = base
        tick = round(recipe.offset / base)
        for number in range(recipe.frames):
            frame = av.VideoFrame.from_ndarray(picture(number, recipe.width, recipe.height), format="rgb24")
            frame.pts, frame.time_base = tick, base
            tick += 20 + (number * 37) % 50 if recipe.varying else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Every frame and its time, by a plain full decode; times by rate where the file has no usable ones."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        frames = list(container.decode(stream))
        images = [frame.to_ndarray(format="rgb24") for frame in frames]
    ticks = [frame.pts for frame in frames]
    if None in ticks or any(before >= after for before, after in pairwise(ticks)):
        return images, [number / rate for number in range(len(frames))]
    return images, [float((tick - ticks[0]) * frames[0].time_base) for tick in ticks]


def read(path: Path, **request: Any) -> tuple[Clip, Work]:
    """The clip and the work it took."""
    reader = FileReader(path, Request(**request), Limits(), Reporter(False, ""))
    return reader.read(), reader.work


def spoil(path: Path, target: Path, numbers: set[int] | None) -> Path:
    """A copy in which the payload of some packets (None: of all) is noise, and the container around them is whole."""
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            if numbers is None or number in numbers:
                payload = bytes(packet)
                start = data.find(payload, max(packet.pos or 0, 0))
                assert start >= 0
                data[start : start + len(payload)] = noise.bytes(len(payload))
    target.write_bytes(data)
    return target


def change(recipe: Recipe, **fields: Any) -> Recipe:
    """A recipe with some fields changed."""
    return dataclasses.replace(recipe, **fields)
