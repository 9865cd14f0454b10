# SPDX-License-Identifier: Apache-2.0
"""PLLaVA: one run of pooled frames a video, an image among them; positions on one axis."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.nn import functional

from prunevid.methods.base import TowerView
from prunevid.models.base import Adapter, VideoLayout, stacked_frames
from prunevid.models.towers import Patches, PictureTower, Pool, Tower


class PLLaVA(Adapter):
    """PLLaVA: every frame is pooled to 12 x 12 tokens.

    An image is a video of `num_frames` equal frames, as the original has it, and is pruned like any video.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"pllava"})
    checkpoints: ClassVar[tuple[str, ...]] = ("ermu2001/pllava-7b", "ermu2001/pllava-13b", "ermu2001/pllava-34b")
    arrangement: ClassVar[str] = "one run of T * 12 * 12 tokens; an image is 16 equal frames"
    salience: ClassVar[str] = "from the class token; cells pooled as the features are (means over 2 x 2 patches)"
    equal_frames: ClassVar[bool] = True

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        videos, frames = stacked_frames(arguments)
        return [VideoLayout(*base.config.pooled_shape(frames))] * videos

    def video_token_id(self, config: Any) -> int:
        """Videos and images share one placeholder."""
        return int(config.image_token_index)

    def image_token_id(self, config: Any) -> int | None:
        """See `video_token_id`."""
        return None

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: the pooling may join frames, and one frame alone counts as an image."""
        return 1 if frames > 1 and base.config.pooled_shape(frames)[0] == frames else None

    def tower(self, base: Any) -> Tower:
        """See `Adapter.tower`."""
        return _RepeatingTower(base)


class _RepeatingTower(PictureTower):
    """CLIP, which sees a video of one frame once, while the language model is shown it as many."""

    def __init__(self, base: Any):
        super().__init__(base.vision_tower, _pool(*base.config.pooling_shape[1:]))

    def views(self, seen: Patches, layouts: list[VideoLayout], arguments: dict[str, Any]) -> list[TowerView]:
        """See `Tower.views`."""
        if stacked_frames(arguments)[1] == 1:
            times = layouts[0].frames
            seen = Patches(seen.salience.repeat_interleave(times, 0), seen.keys.repeat_interleave(times, 0))
        return super().views(seen, layouts, arguments)


def _pool(rows: int, columns: int) -> Pool:
    """Means over the patches of each of rows x columns cells."""
    return lambda patches: functional.adaptive_avg_pool2d(patches, (rows, columns))
