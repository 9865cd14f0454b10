# SPDX-License-Identifier: Apache-2.0
"""PLLaVA's pictures: two bicubic resizes by Pillow, one after the other, then the middle and CLIP's normalisation.

One resize gives other pixels than two, and so do torchvision's; both steps are therefore done here, on each frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunevid.errors import InputError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SHORTEST, LONGEST = 336, 640


class Pictures:
    """Turns frames into pixel values.

    Args:
        crop_size: side of a frame in the model, in pixels.
        longest_edge: to which the first resize takes the longer side, unless the shorter one would get smaller than
            the crop.
        mean, std: of each channel, of values between 0 and 1.
    """

    def __init__(
        self,
        crop_size: int = SHORTEST,
        longest_edge: int = LONGEST,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        self.crop_size, self.longest_edge = crop_size, longest_edge
        self.mean, self.std = np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)

    def __call__(self, frames: Any, data_format: str = "channels_last") -> Tensor:
        """(T, 3, crop_size, crop_size) float32 of a video's frames.

        Args:
            frames: (T, height, width, 3) uint8, or a list of Pillow pictures or such arrays, of any sizes.
            data_format: "channels_last", or "channels_first" for arrays (T, 3, height, width).

        Raises:
            InputError: there are none, or they are no pictures of 8 bits and three channels.
        """
        if isinstance(frames, Tensor) and frames.is_meta:  # asked for the shape alone
            return torch.empty((len(frames), 3, self.crop_size, self.crop_size), device="meta")
        pictures = [self.picture(frame, data_format) for frame in frames]
        if not pictures:
            raise InputError("A video has no frames; give at least one.")
        return torch.stack([torch.from_numpy(self._normal(picture)) for picture in pictures])

    def picture(self, frame: Any, data_format: str = "channels_last") -> Image.Image:
        """One frame, resized twice and cut to its middle; see `__call__`."""
        picture = _as_picture(frame, data_format)
        for short in (self.first_edge(picture.width, picture.height), self.crop_size):
            picture = _resized(picture, short)
        left, top = (picture.width - self.crop_size) // 2, (picture.height - self.crop_size) // 2
        return picture.crop((left, top, left + self.crop_size, top + self.crop_size))

    def first_edge(self, width: int, height: int) -> int:
        """The shorter side after the first resize, in pixels."""
        long, short = max(width, height), min(width, height)
        return max(self.crop_size, min(short, int(min(self.longest_edge, long) / (long / short))))

    def _normal(self, picture: Image.Image) -> np.ndarray:
        values = np.asarray(picture, dtype=np.float32) / np.float32(255)
        return np.ascontiguousarray(((values - self.mean) / self.std).transpose(2, 0, 1))


def _resized(picture: Image.Image, short: int) -> Image.Image:
    """The picture with its shorter side at so many pixels; the longer one is rounded down."""
    width, height = picture.size
    if min(width, height) == short:
        return picture
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _as_picture(frame: Any, data_format: str) -> Image.Image:
    """A frame as a Pillow picture.

    Raises:
        InputError: it is none.
    """
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    array = np.asarray(frame)
    if data_format == "channels_first" and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise InputError(
            f"A frame is an array {array.shape} of {array.dtype}, but must be a Pillow picture or (height, width, 3) "
            "of uint8."
        )
    return Image.fromarray(np.ascontiguousarray(array))
