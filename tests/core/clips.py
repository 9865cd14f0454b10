# SPDX-License-Identifier: Apache-2.0
"""Made-up features for the tests of the core: no two distances alike, unless a test wants it so."""

from __future__ import annotations

import torch
from torch import Tensor


def clip(frames: int, positions: int, channels: int, seed: int = 0, scenes: int | None = None) -> Tensor:
    """(T, N, C) float32: scenes of random lengths; some positions change from frame to frame, some hardly do."""
    generator = torch.Generator().manual_seed(seed)
    scenes = scenes or max(1, frames // 5)
    base = torch.randn(scenes, positions, channels, generator=generator)
    scene = torch.randint(0, scenes, (frames,), generator=generator).sort().values
    restless = torch.rand(scenes, positions, 1, generator=generator)
    noise = torch.randn(frames, positions, channels, generator=generator)
    return base[scene] + restless[scene] * noise


def regular(scenes: int, positions: int, channels: int, still: int, seed: int = 0) -> Tensor:
    """(4 * scenes, N, C): scenes of four frames, each with its first `still` positions almost at rest."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(scenes, positions, channels, generator=generator)
    base += 3 * torch.randn(scenes, 1, channels, generator=generator)  # frames of a scene stay together
    noise = torch.randn(4 * scenes, positions, channels, generator=generator)
    noise[:, :still] *= 0.05
    noise[:, still:] *= 4
    return base.repeat_interleave(4, dim=0) + noise


def tokens(count: int, channels: int = 16, seed: int = 0) -> Tensor:
    """(n, C) float32."""
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
