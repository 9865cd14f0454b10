# SPDX-License-Identifier: Apache-2.0
"""SmolVLM2: frames are pictures like any other, padded to the row with most of them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from prunevid.models.base import Adapter, VideoLayout, first_pixels
from prunevid.models.frames import picture_layouts
from prunevid.models.towers import PictureTower, Tower, mean_pool


class SmolVLM(Adapter):
    """SmolVLM2 in the layout of transformers.

    Its processor writes every frame as a picture of its own behind its time, and pads all rows to the same number of
    pictures with black ones, which the model leaves out. `frames_per_video` says which pictures are frames.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"smolvlm"})
    checkpoints: ClassVar[tuple[str, ...]] = (
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    )
    arrangement: ClassVar[str] = (
        "T runs of one picture each; the caller says which pictures are frames (`frames_per_video`)"
    )
    feature_function: ClassVar[str] = "get_image_features"
    language_name: ClassVar[str] = "text_model"
    modality: ClassVar[str] = "image"
    pixels: ClassVar[str] = "pixel_values"
    frames_as_images: ClassVar[bool] = True
    contiguous: ClassVar[bool] = False
    salience: ClassVar[str] = (
        "mean over the picture's patches, padding left out; cells are means over scale_factor x scale_factor patches"
    )
    equal_frames: ClassVar[bool] = True

    def video_token_id(self, config: Any) -> int:
        """Frames use the pictures' placeholder."""
        return int(config.image_token_id)

    def image_token_id(self, config: Any) -> int | None:
        """None: pictures that are no frames come among the layouts too."""
        return None

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`; a picture that is no frame is an image."""
        pixels = first_pixels(arguments)
        shown = int(torch.count_nonzero((pixels != 0).flatten(2).any(dim=-1)))
        step = base.config.vision_config.patch_size * base.config.scale_factor
        height, width = (int(size) // step for size in pixels.shape[-2:])
        return picture_layouts(max(1, shown), height, width, arguments.get("frames_per_video"))

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PictureTower(base.vision_model, mean_pool(base.config.scale_factor))

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: every frame goes through the tower as a picture."""
        return 1
