# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT-Video: one run of pooled frames a video; positions on one axis."""

from __future__ import annotations

from typing import Any, ClassVar

from prunevid.models.base import Adapter, VideoLayout, stacked_frames
from prunevid.models.tiles import image_sizes, tiled_layouts
from prunevid.models.towers import PictureTower, Tower, mean_pool


class LlavaNextVideo(Adapter):
    """LLaVA-NeXT-Video: every frame is pooled from g x g patches to (g // stride) x (g // stride) tokens."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llava_next_video"})
    checkpoints: ClassVar[tuple[str, ...]] = (
        "llava-hf/LLaVA-NeXT-Video-7B-hf",
        "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf",
        "llava-hf/LLaVA-NeXT-Video-34B-hf",
    )
    arrangement: ClassVar[str] = "one run of T * (g // stride)^2 tokens"
    salience: ClassVar[str] = "from the class token; cells are means over stride x stride patches"
    equal_frames: ClassVar[bool] = True
    image_function: ClassVar[str | None] = "get_image_features"

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        vision = base.config.vision_config
        side = vision.image_size // vision.patch_size // base.config.spatial_pool_stride
        videos, frames = stacked_frames(arguments)
        return [VideoLayout(frames, side, side)] * videos

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PictureTower(base.vision_tower, mean_pool(base.config.spatial_pool_stride))

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: every frame goes through the tower as a picture."""
        return 1

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.image_layouts`: two views an image."""
        return [view for size in image_sizes(arguments) for view in tiled_layouts(base.config, size)]
