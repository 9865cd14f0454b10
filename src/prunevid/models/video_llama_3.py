# SPDX-License-Identifier: Apache-2.0
"""VideoLLaMA3: every frame a run of its own behind its time stamp; positions on one axis."""

from __future__ import annotations

from typing import Any, ClassVar

from prunevid.errors import UnsupportedError
from prunevid.models.base import Adapter, VideoLayout
from prunevid.models.towers import PackedTower, Tower, bilinear_pool


class VideoLlama3(Adapter):
    """VideoLLaMA3 without its own token compression.

    That compression drops tokens of a frame that equal the frame before, so frames have different numbers of tokens
    and no position exists in all frames of a scene: stage 1 has nothing to compare. It is refused.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"video_llama_3"})
    checkpoints: ClassVar[tuple[str, ...]] = ("lkhl/VideoLLaMA3-2B-Image-HF", "lkhl/VideoLLaMA3-7B-Image-HF")
    arrangement: ClassVar[str] = (
        "T runs of H * W / merge^2 tokens, each behind its time; only without the processor's token compression"
    )
    image_function: ClassVar[str | None] = "get_image_features"
    contiguous: ClassVar[bool] = False
    salience: ClassVar[str] = "mean over the frame's patches; cells pooled as the features are (bilinear)"

    def check(self, arguments: dict[str, Any]) -> None:
        """See `Adapter.check`: refuses frames from which the model's processor has dropped tokens."""
        mask = arguments.get("video_compression_mask")
        if mask is not None and not bool(mask.all()):
            raise UnsupportedError(
                "This model's processor has dropped tokens of some frames already, so the frames can't be compared "
                "place by place; pass use_token_compression=False to the processor."
            )

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        return _grids(arguments, "video")

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PackedTower(
            base.vision_model, bilinear_pool, lambda arguments, layouts: arguments["video_merge_sizes"].tolist()
        )

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: every frame goes through the tower as a picture."""
        return 1

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.image_layouts`."""
        return _grids(arguments, "image")


def _grids(arguments: dict[str, Any], kind: str) -> list[VideoLayout]:
    """The layouts that the grids and merge sizes of videos or images describe."""
    grid, merges = arguments.get(f"{kind}_grid_thw"), arguments.get(f"{kind}_merge_sizes")
    if grid is None or merges is None:
        raise UnsupportedError(
            f"The {kind} features were asked for without {kind}_grid_thw and {kind}_merge_sizes, so their grid is not "
            "known; pass what the model's processor returned."
        )
    sizes = zip(grid.tolist(), merges.tolist())
    return [VideoLayout(t, h // merge, w // merge, image=kind == "image") for (t, h, w), merge in sizes]
