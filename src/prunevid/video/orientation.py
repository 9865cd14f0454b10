# SPDX-License-Identifier: Apache-2.0
"""Upright RGB arrays from decoded frames: colour conversion and the display matrix of phones' clips."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_FULL_RANGE = 2  # AVCOL_RANGE_JPEG: RGB arrays use 0 ... 255
_NO_MATRIX = 5  # SWS_CS_DEFAULT: the target is RGB and has no colour matrix
_GREY = ("gray", "ya", "mono")


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """The linear part (a, b, c, d) of the frame's display matrix, or None without one.

    A stored pixel (x, y) is shown at x' = a x + c y, y' = b x + d y, with y pointing down (FFmpeg's
    `libavutil/display.h`).
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = struct.unpack("=9i", bytes(data)[:36])
    return values[0], values[1], values[3], values[4]


def upright(image: NDArray[np.uint8], matrix: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) pixels as a display matrix says; angles between are taken to the nearest right
    angle.
    """
    if matrix is None:
        return image
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, across, down = image.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    if across < 0:
        image = image[:, ::-1]
    if down < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def to_rgb(frame: VideoFrame, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An upright (H, W, 3) uint8 RGB array of a decoded frame; alpha is dropped.

    Colour matrix and range are those that the frame is tagged with. Pixels that are not square stay as they are stored.

    Args:
        frame: any pixel format that FFmpeg's scaler reads.
        size: stored (width, height) to scale to, for streams that change size half-way.
    """
    width, height = size or (frame.width, frame.height)
    if frame.format.is_rgb or frame.format.has_palette or frame.format.name.startswith(_GREY):
        converted = frame.reformat(width=width, height=height, format="rgb24")
    else:
        # All three are named because PyAV before 17 ignores the frame's own tags unless source and target differ.
        converted = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_color_range=int(frame.color_range) or None,
            dst_color_range=_FULL_RANGE,
            dst_colorspace=_NO_MATRIX,
        )
    return upright(np.asarray(converted.to_ndarray(), dtype=np.uint8), display_matrix(frame))
