# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision: one run of pooled frames a video, then one newline token; positions on one axis."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from prunevid.models.base import Adapter, VideoLayout, stacked_frames


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
    equal_frames: ClassVar[bool] = True

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        vision = base.config.vision_config
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        videos, frames = stacked_frames(arguments)
        return [VideoLayout(frames, side, side, tail=1)] * videos
