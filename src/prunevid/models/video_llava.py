# SPDX-License-Identifier: Apache-2.0
"""Video-LLaVA: one run of unpooled frames a video, each led by the vision tower's class token."""

from __future__ import annotations

from typing import Any, ClassVar

from prunevid.models.base import Adapter, VideoLayout, first_pixels, stacked_frames
from prunevid.models.towers import PictureTower, Tower, mean_pool


class VideoLlava(Adapter):
    """Video-LLaVA.

    A frame has g * g patch tokens after one class token. The class token is treated as one more cell of the frame: it
    is merged with the class tokens of a scene's other frames where they are alike, and scored like any cell. The cells
    therefore have no rows and columns: the layout is one row of g * g + 1.

    An image has g * g patch tokens; its class token leads them only with `vision_feature_select_strategy` "full".
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"video_llava"})
    checkpoints: ClassVar[tuple[str, ...]] = ("LanguageBind/Video-LLaVA-7B-hf",)
    arrangement: ClassVar[str] = "one run of T * (g^2 + 1) tokens; each frame's class token is a cell like any other"
    salience: ClassVar[str] = (
        "from the class token; a cell is a patch, and the class token's own cell gets its frame's maximum"
    )
    equal_frames: ClassVar[bool] = True
    image_function: ClassVar[str | None] = "get_image_features"
    image_pixels: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_images")

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        vision = base.config.vision_config
        cells = (vision.image_size // vision.patch_size) ** 2 + 1
        videos, frames = stacked_frames(arguments)
        return [VideoLayout(frames, 1, cells)] * videos

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PictureTower(base.video_tower, mean_pool(1), class_cell=True)

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: every frame goes through the tower as a picture."""
        return 1

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.image_layouts`."""
        vision, strategy = base.config.vision_config, arguments.get("vision_feature_select_strategy")
        side = vision.image_size // vision.patch_size
        whole = (strategy or base.config.vision_feature_select_strategy) == "full"
        layout = VideoLayout(1, 1, side**2 + 1, image=True) if whole else VideoLayout(1, side, side, image=True)
        return [layout] * int(first_pixels(arguments).shape[0])
