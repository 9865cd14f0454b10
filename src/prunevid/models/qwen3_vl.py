# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL and Qwen3-VL-MoE: every frame a run of its own behind its time stamp; vision features in early layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunevid.models.base import Shortening
from prunevid.models.qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    """Qwen3-VL, dense and mixture of experts.

    The decoder adds further vision features after its first layers ("deepstack"). They are merged with the same map as
    the tokens themselves, and no token may go before the last of them is added.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_vl", "qwen3_vl_moe"})
    checkpoints: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qwen3_vl": (
            "Qwen/Qwen3-VL-2B-Instruct",
            "Qwen/Qwen3-VL-4B-Instruct",
            "Qwen/Qwen3-VL-8B-Instruct",
            "Qwen/Qwen3-VL-32B-Instruct",
        ),
        "qwen3_vl_moe": ("Qwen/Qwen3-VL-30B-A3B-Instruct",),
    }
    arrangement: ClassVar[str] = "T runs of H * W / 4 tokens, each behind its time stamp"
    contiguous: ClassVar[bool] = False
    salience: ClassVar[str] = "mean over the patches of one step of the grid; cells are means over 2 x 2 patches"

    def first_selection_layer(self, config: Any) -> int:
        """The layer after which the last deepstack features are added."""
        return max(0, len(config.vision_config.deepstack_visual_indexes) - 1)

    def shorten(self, arguments: dict[str, Any], merge: Shortening) -> dict[str, Any]:
        """See `Adapter.shorten`: the deepstack features and the mask that says where they are added."""
        mask, stack = arguments.get("visual_pos_masks"), arguments.get("deepstack_visual_embeds")
        if mask is None or not stack:
            return {}
        places = mask.to(merge.target.device)
        target = merge.target[places]
        flat = target + places.nonzero()[:, 0] * merge.length
        present = flat[target >= 0]
        shorter = torch.zeros(len(places) * merge.length, dtype=torch.bool, device=places.device)
        shorter[present] = True
        slots = shorter.cumsum(0)[present] - 1
        merged = [_mean(features[(target >= 0).to(features.device)], slots) for features in stack]
        return {"visual_pos_masks": shorter.view(len(places), -1), "deepstack_visual_embeds": merged}

    def without_visual(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """See `Adapter.without_visual`: nothing is added to text."""
        names = ("visual_pos_masks", "deepstack_visual_embeds")
        return {name: None for name in names if name in arguments}


def _mean(features: Tensor, slots: Tensor) -> Tensor:
    """Means of the (n, C) features with equal slots 0, 1, 2, ...; a feature that is alone stays bit for bit."""
    slots = slots.to(features.device)
    count = torch.bincount(slots)
    total = torch.zeros(len(count), features.shape[1], dtype=torch.float32, device=features.device)
    total.index_add_(0, slots, features.float())
    return (total / count[:, None]).to(features.dtype)
