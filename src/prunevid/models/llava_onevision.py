# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision: one run of pooled frames a video, then one newline token; positions on one axis."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from prunevid.models.base import Adapter, VideoLayout, stacked_frames
from prunevid.models.tiles import image_sizes, tiled_layouts
from prunevid.models.towers import PictureTower, Tower, bilinear_pool


class LlavaOnevision(Adapter):
    """LLaVA-OneVision (Qwen2 decoder).

    Every frame is pooled from g x g patches to ceil(g/2) x ceil(g/2) tokens. The newline after the last frame is a
    learnt separator and no part of the picture: it is never pruned.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"llava_onevision"})
    checkpoints: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    )
    arrangement: ClassVar[str] = "one run of T * ceil(g / 2)^2 tokens, then one newline, which is never pruned"
    salience: ClassVar[str] = "mean over the frame's patches; cells pooled as the features are (bilinear)"
    equal_frames: ClassVar[bool] = True
    tail: ClassVar[int] = 1
    image_function: ClassVar[str | None] = "get_image_features"

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        vision = base.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        videos, frames = stacked_frames(arguments)
        return [VideoLayout(frames, side, side, tail=self.tail)] * videos

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PictureTower(base.vision_tower, bilinear_pool(2))

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: every frame goes through the tower as a picture."""
        return 1

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.image_layouts`: two views of a row's only image; one and a newline of each of several."""
        vision, sizes = base.config.vision_config, image_sizes(arguments)
        side = vision.image_size // vision.patch_size
        whole = [VideoLayout(1, side, side, tail=1, image=True)]
        counts = arguments.get("batch_num_images")
        tiled = [True] * len(sizes) if counts is None else [int(n) == 1 for n in counts for _ in range(int(n))]
        most = int(
            (arguments.get("vision_aspect_ratio") or base.config.vision_aspect_ratio).removeprefix("anyres_max_")
        )
        views = [tiled_layouts(base.config, size, most) if cut else whole for size, cut in zip(sizes, tiled)]
        return [view for image in views for view in image]
