# SPDX-License-Identifier: Apache-2.0
"""Images of any resolution in the LLaVA families: a small view of the whole, then a large one made of tiles."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution

from prunevid.errors import UnsupportedError
from prunevid.models.base import VideoLayout


def image_sizes(arguments: dict[str, Any]) -> list[tuple[int, int]]:
    """(height, width) in pixels of every image before its processing, as the processor reports them.

    Raises:
        UnsupportedError: the feature function was called without them.
    """
    sizes = arguments.get("image_sizes")
    if sizes is None:
        raise UnsupportedError(
            "The image features were asked for without image_sizes, so their grid is not known; pass what the model's "
            "processor returned."
        )
    return [(int(height), int(width)) for height, width in torch.as_tensor(sizes).tolist()]


def tiled_layouts(config: Any, size: tuple[int, int], most_tiles: int | None = None) -> list[VideoLayout]:
    """The two views of an image: g x g tokens of the whole, then the tiles' grid with a newline after every row.

    From the tiles' grid the model cuts the rows or columns that its processor padded, and shrinks what is left where
    it has more tokens than `most_tiles` tiles (and a fifth). The newline is a learnt separator and never pruned.

    Args:
        config: the whole model's, with `image_grid_pinpoints`.
        size: (height, width) of the image in pixels.
        most_tiles: None where the model never shrinks.
    """
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    best_height, best_width = select_best_resolution(size, config.image_grid_pinpoints)
    rows, columns = (int(best) // vision.image_size * side for best in (best_height, best_width))
    height, width = size
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    if most_tiles is not None:
        ratio = math.sqrt(rows * columns / (most_tiles * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return [VideoLayout(1, side, side, image=True), VideoLayout(1, rows, columns, newlines=1, image=True)]
