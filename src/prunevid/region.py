# SPDX-License-Identifier: Apache-2.0
"""Which part of a frame a processor shows to its model: some cut frames to their middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Region = tuple[float, float, float, float]
"""left, top, right and bottom as shares of the frame."""

WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


def seen_region(processor: Any, width: int, height: int) -> Region:
    """The part of frames that the model is shown.

    Args:
        processor: of any family; read are `do_center_crop`, `crop_size` and `size` of what prepares its frames.
        width, height: of the frames, in pixels.

    Returns:
        The whole frame where nothing is cut, or where nothing is known of it.
    """
    parts = (getattr(processor, name, None) for name in ("video_processor", "image_processor"))
    part = next((part for part in parts if part is not None), None)
    crop = _sides(getattr(part, "crop_size", None))
    if crop is None or not getattr(part, "do_center_crop", True):  # what has no such switch always cuts
        return WHOLE
    size = getattr(part, "size", None)
    resized = _sides(size)
    if resized is None:
        scale = (_value(size, "shortest_edge") or min(crop)) / min(width, height)
        resized = height * scale, width * scale
    down, across = (min(1.0, side / whole) for side, whole in zip(crop, resized))
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def _sides(size: Any) -> tuple[float, float] | None:
    """(height, width) of a processor's size: a number, a dictionary or an object."""
    if isinstance(size, int):
        return size, size
    height, width = _value(size, "height"), _value(size, "width")
    return (height, width) if height and width else None


def _value(size: Any, name: str) -> float | None:
    found = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return float(found) if found else None
