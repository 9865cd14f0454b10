# SPDX-License-Identifier: Apache-2.0
"""VidCom2: more tokens for frames that stand out, and in them the tokens that stand out (docs/methods/vidcom2.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.core._tensors import read
from prunevid.methods.base import Method, Video, keep_cells
from prunevid.methods.dropping import best_in_frames, check_share, unit_vectors, without_gradients

_TEMPERATURE = 0.01  # of the softmax over frames
_WIDTHS = [2.0**power for power in range(-3, 2)]  # of the Gaussians that measure how alike two vectors are


@dataclass(frozen=True)
class VidCom2(Method):
    """Keeps the tokens that are least like their frame's and the video's mean, most of them in unusual frames.

    Source: Liu and others, "Video Compression Commander" (arXiv 2505.14454).

    Attributes:
        keep: the authors' retention ratio where no budget is given, in (0, 1]. Frames get more or less than this share
            of their tokens, each one at least.
    """

    name: ClassVar[str] = "vidcom2"
    keep: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("keep", self.keep)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return True

    @without_gradients
    def merge(self, video: Video) -> MergedVideo:
        """See `Method.merge`."""
        frames, positions = video.features.shape[:2]
        to_video, to_frame = likeness(video.features)
        shares = [1 + p - 1 / frames for p in read((-to_video.mean(1) / _TEMPERATURE).softmax(0))]
        if video.budget is None:
            quota = [min(positions, max(1, round(self.keep * share * positions))) for share in shares]
        else:
            quota = deal(video.budget, shares, positions)
        return keep_cells(video.features, best_in_frames(-(to_video + to_frame), quota))


def likeness(features: Tensor) -> tuple[Tensor, Tensor]:
    """How much tokens resemble the mean of the video, and that of their frame: (T, N, C) -> twice (T, N) float32.

    Only the steadier half of the channels counts; tokens are scaled to a norm of 1 first, the means are not.
    """
    channels = features.shape[2]
    wide = features.float()
    variance = wide.flatten(0, 1).var(0, correction=0)
    steady = variance.sort(stable=True).indices[: max(1, channels // 2)]
    tokens = unit_vectors(wide[..., steady])
    return _resemblance(tokens, tokens.mean((0, 1))), _resemblance(tokens, tokens.mean(1, keepdim=True))


def _resemblance(tokens: Tensor, centre: Tensor) -> Tensor:
    squared = (tokens - centre).square().sum(-1)
    return torch.stack([torch.exp(squared / (-2 * width)) for width in _WIDTHS]).sum(0)


def deal(total: int, weights: list[float], most: int) -> list[int]:
    """Shares that sum to `total`, in proportion to weights and none above `most`; no share shrinks as the total grows.

    Webster's apportionment, as `share_out`, but with one bound for all and a first unit for everyone before anyone gets
    a second. The lower index wins a tie.

    Args:
        total: 1 ... most * len(weights).
        weights: above 0.
        most: at least 1.
    """
    claims = torch.tensor(weights, dtype=torch.float64)[:, None] / (2 * torch.arange(most, dtype=torch.float64) + 1)
    claims[:, 0] += 2 * max(weights)
    dealt = claims.flatten().sort(descending=True, stable=True).indices[:total]
    return torch.bincount(dealt // most, minlength=len(weights)).tolist()
