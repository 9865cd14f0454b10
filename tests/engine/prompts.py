# SPDX-License-Identifier: Apache-2.0
"""The prompts and settings that the engine's tests share."""

from __future__ import annotations

from typing import Any

from engine.tiny import TAU, Clip, make_clip, make_image, make_prompt
from prunevid.config import PruneVidConfig

CLIP = make_clip((3, 3))
SHORT = make_clip((3, 2), (5, 6), seed=1)
SMALL = make_clip((4,), (3, 4), seed=2)  # in groups whose kept share is not that of two groups together
IMAGE: tuple[str, Clip] = ("image", make_image())

ONE = make_prompt(5, CLIP, 6)
OTHER = make_prompt(2, SHORT, 9, seed=1)
TWO_VIDEOS = make_prompt(3, SHORT, 4, SMALL, 5, seed=2)
TEXT = make_prompt(7, seed=3)
IMAGE_ONLY = make_prompt(4, IMAGE, 5, seed=4)
IMAGE_FIRST = make_prompt(3, IMAGE, 2, SHORT, 5, seed=5)
IMAGE_LAST = make_prompt(3, SHORT, 2, IMAGE, 5, seed=6)


def settings(family: str, **overrides: Any) -> PruneVidConfig:
    """Settings under which the clips above are merged and chosen from, in raster order."""
    chosen: dict[str, Any] = dict(tau=TAU[family], temporal_segment_ratio=0.4, pruning_layer=1, token_order="raster")
    return PruneVidConfig(**(chosen | overrides))
