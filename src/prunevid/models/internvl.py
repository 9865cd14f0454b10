# SPDX-License-Identifier: Apache-2.0
"""InternVL: frames are pictures like any other; which of them make a video is the caller's to say."""

from __future__ import annotations

from typing import Any, ClassVar

from prunevid.models.base import Adapter, VideoLayout, first_pixels
from prunevid.models.frames import picture_layouts
from prunevid.models.towers import PictureTower, Tower, mean_pool


class InternVL(Adapter):
    """InternVL 2.5, 3 and 3.5 in the layout of transformers.

    The model has no video input: its processor writes one placeholder run a frame, the same as for the tiles of a
    picture, and nothing in the model's input tells them apart. `frames_per_video` does.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"internvl"})
    checkpoints: ClassVar[tuple[str, ...]] = (
        "OpenGVLab/InternVL3-1B-hf",
        "OpenGVLab/InternVL3-2B-hf",
        "OpenGVLab/InternVL3-8B-hf",
        "OpenGVLab/InternVL3-14B-hf",
        "OpenGVLab/InternVL3-38B-hf",
        "OpenGVLab/InternVL3-78B-hf",
    )
    arrangement: ClassVar[str] = (
        "T runs of one picture each; the caller says which pictures are frames (`frames_per_video`)"
    )
    feature_function: ClassVar[str] = "get_image_features"
    modality: ClassVar[str] = "image"
    pixels: ClassVar[str] = "pixel_values"
    frames_as_images: ClassVar[bool] = True
    contiguous: ClassVar[bool] = False
    salience: ClassVar[str] = "from the class token; cells are means over 2 x 2 patches"
    equal_frames: ClassVar[bool] = True

    def video_token_id(self, config: Any) -> int:
        """Frames use the pictures' placeholder."""
        return int(config.image_token_id)

    def image_token_id(self, config: Any) -> int | None:
        """None: pictures that are no frames come among the layouts too."""
        return None

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`; a picture that is no frame is an image."""
        vision = base.config.vision_config
        side = int(vision.image_size[0] // vision.patch_size[0] * base.config.downsample_ratio)
        pictures = int(first_pixels(arguments).shape[0])
        return picture_layouts(pictures, side, side, arguments.get("frames_per_video"))

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PictureTower(base.vision_tower, mean_pool(int(1 / base.config.downsample_ratio)))

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: every frame goes through the tower as a picture."""
        return 1
