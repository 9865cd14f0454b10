# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL and Qwen2.5-VL: one run of T * H * W tokens a video, (t, h, w) rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from prunevid.errors import UnsupportedError
from prunevid.models.base import Adapter, VideoLayout


class QwenVL(Adapter):
    """Qwen2-VL and Qwen2.5-VL.

    A video's grid is `video_grid_thw` with height and width divided by the vision tower's spatial merge size; frames
    were paired before (temporal patch size 2), so a "frame" here is one step of that grid.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_vl", "qwen2_5_vl"})
    checkpoints: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qwen2_vl": ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
        "qwen2_5_vl": (
            "Qwen/Qwen2.5-VL-3B-Instruct",
            "Qwen/Qwen2.5-VL-7B-Instruct",
            "Qwen/Qwen2.5-VL-72B-Instruct",
        ),
    }
    arrangement: ClassVar[str] = "one run of T * H * W / 4 tokens a video"
    image_function: ClassVar[str | None] = "get_image_features"
    positions: ClassVar[Literal["mrope", "1d"]] = "mrope"
    token_order: ClassVar[Literal["merged", "raster"]] = "raster"

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        return _grids(base, arguments, "video")

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.image_layouts`."""
        return _grids(base, arguments, "image")


def _grids(base: Any, arguments: dict[str, Any], kind: str) -> list[VideoLayout]:
    """The layouts that `video_grid_thw` or `image_grid_thw` describes."""
    grid = arguments.get(f"{kind}_grid_thw")
    if grid is None:
        raise UnsupportedError(
            f"The {kind} features were asked for without {kind}_grid_thw, so their grid is not known; pass what the "
            "model's processor returned."
        )
    merge = int(base.visual.spatial_merge_size)
    return [VideoLayout(t, h // merge, w // merge, image=kind == "image") for t, h, w in grid.tolist()]
