# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL and Qwen2.5-VL: one run of T * H * W tokens a video, (t, h, w) rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from prunevid.errors import UnsupportedError
from prunevid.models.base import Adapter, VideoLayout
from prunevid.models.towers import PackedTower, Tower, mean_pool


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
    salience: ClassVar[str] = (
        "mean over the patches of one step of the grid (Qwen2.5-VL outside its full-attention layers: only those of "
        "the same window attend, the others count as zero); cells are means over 2 x 2 patches"
    )

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        return _grids(base, arguments, "video")

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.image_layouts`."""
        return _grids(base, arguments, "image")

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: the patch embedding joins frames; attention and positions are those of a step."""
        return int(base.visual.config.temporal_patch_size)

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`; a tower with windows has its merge blocks window by window."""
        visual = base.visual
        merge = int(visual.spatial_merge_size)

        def order(arguments: dict[str, Any]) -> Tensor:
            return _window_order(visual, arguments)

        windows = order if hasattr(visual, "fullatt_block_indexes") else None
        return PackedTower(visual, mean_pool, lambda arguments, layouts: [merge] * len(layouts), windows)


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


def _window_order(visual: Any, arguments: dict[str, Any]) -> Tensor:
    """(merge blocks,) int64, which block of the grid stands at each place of the tower's row.

    Callers may have computed it beforehand and handed it in; the tower then takes theirs, if the windows' lengths come
    with it.
    """
    from transformers.vision_utils import get_vision_window_index  # here: adapters are listed without transformers

    more = arguments.get("kwargs", {})
    given = {name: more.get(f"video_{name}", more.get(name)) for name in ("window_index", "cu_window_seqlens")}
    known: dict[str, Any] | None = None if any(value is None for value in given.values()) else given
    index, _ = get_vision_window_index(
        arguments["video_grid_thw"],
        spatial_merge_size=visual.spatial_merge_size,
        window_size=visual.window_size,
        patch_size=visual.patch_size,
        kwargs=known,
    )
    return index
