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
        grid, merges = arguments.get("video_grid_thw"), arguments.get("video_merge_sizes")
        if grid is None or merges is None:
            raise UnsupportedError(
                "The video features were asked for without video_grid_thw and video_merge_sizes, so the frames are not "
                "known; pass what the model's processor returned."
            )
        return [VideoLayout(t, h // merge, w // merge) for (t, h, w), merge in zip(grid.tolist(), merges.tolist())]

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return PackedTower(
            base.vision_model, bilinear_pool, lambda arguments, layouts: arguments["video_merge_sizes"].tolist()
        )
