# SPDX-License-Identifier: Apache-2.0
"""ST-LLM's vision tower: the ViT-g of InstructBLIP, and the BT-Adapter beside its last blocks.

Written from the description of the original's computation; parity with its recorded numbers is tested. Blocks,
attention and MLP are those of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.instructblipvideo.modeling_instructblipvideo import (
    InstructBlipVideoAttention,
    InstructBlipVideoMLP,
    InstructBlipVideoVisionModel,
)

from prunevid.errors import InputError

TEMPORAL_EPS, SPATIAL_EPS = 1e-6, 1e-5  # the original leaves torch's default to the spatial part


class TemporalBlock(nn.Module):
    """Every patch attends to the same patch of all frames."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=TEMPORAL_EPS)
        self.self_attn = InstructBlipVideoAttention(config)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        """(V, T, P, C) patches of V videos to the same."""
        rows = self.layer_norm(patches).transpose(1, 2)
        seen = self.self_attn(hidden_states=rows.flatten(0, 1))[0].view_as(rows)
        added: Tensor = self.projection(seen).transpose(1, 2)
        return patches + added


class SpatialBlock(nn.Module):
    """Every frame attends to itself and to one class token that all frames share."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=SPATIAL_EPS)
        self.self_attn = InstructBlipVideoAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=SPATIAL_EPS)
        self.mlp = InstructBlipVideoMLP(config)

    def forward(self, shared: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(V, C) class tokens and (V, T, P, C) patches to the same; a class token gets its mean over the frames."""
        frames = torch.cat((shared[:, None, None].expand(-1, patches.shape[1], -1, -1), patches), 2)
        seen = self.self_attn(hidden_states=self.layer_norm1(frames).flatten(0, 1))[0].view_as(frames)
        shared, patches = shared + seen[:, :, 0].mean(1), patches + seen[:, :, 1:]
        shared = shared + self.mlp(self.layer_norm2(shared))
        return shared, patches + self.mlp(self.layer_norm2(patches))


class BTAdapter(nn.Module):
    """The branch beside the last blocks of the ViT, which sees all frames of a video at once.

    Args:
        config: of the ViT.
        depth: its blocks.
        frames: frames at most.
    """

    def __init__(self, config: Any, depth: int, frames: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.Embedding(frames, config.hidden_size)
        self.temporal = nn.ModuleList([TemporalBlock(config) for _ in range(depth)])
        self.spatial = nn.ModuleList([SpatialBlock(config) for _ in range(depth)])

    def start(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The first block's input.

        Args:
            hidden: (V, T, 1 + P, C) output of the first ViT block that it stands beside.
            positions: (1, 1 + P, C) of the ViT.

        Returns:
            (V, C) class tokens, (V, T, P, C) patches.

        Raises:
            InputError: there are more frames than it has positions for.
        """
        frames, known = hidden.shape[1], self.position_embedding.num_embeddings
        if frames > known:
            raise InputError(f"The video has {frames} frames, but the BT-Adapter takes {known} at most; sample fewer.")
        times = self.position_embedding.weight[:frames, None]
        shared = hidden[:, :, 0].mean(1) + self.class_embedding[0, 0] + positions[0, 0]
        return shared / 2, hidden[:, :, 1:] + positions[0, 1:] + times

    def step(self, block: int, shared: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """One block on (V, C) class tokens and (V, T, P, C) patches."""
        after: tuple[Tensor, Tensor] = self.spatial[block](shared, self.temporal[block](patches))
        return after


class STLLMVisionModel(InstructBlipVideoVisionModel):
    """Frames of several videos to their features.

    Args:
        config: of the ViT.
        adapter_depth, adapter_frames, norm_eps: see `STLLMConfig`.
    """

    def __init__(self, config: Any, adapter_depth: int = 0, adapter_frames: int = 64, norm_eps: float = 1e-5) -> None:
        super().__init__(config)
        # Not the blocks' 1e-6: the original normalises the ViT's output by a layer of its own.
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=norm_eps)
        self.bt_adapter = BTAdapter(config, adapter_depth, adapter_frames) if adapter_depth else None

    def blocks(self, pixels: Tensor) -> Tensor:
        """(V, T, 3, H, W) pixels to (V, T, 1 + P, C) features before the last layer norm."""
        hidden = self.embeddings(pixels.flatten(0, 1))
        videos = pixels.shape[:2]
        first = len(self.encoder.layers) - (len(self.bt_adapter.temporal) if self.bt_adapter is not None else 0)
        shared = patches = None
        for number, layer in enumerate(self.encoder.layers):
            hidden = layer(hidden)
            if number < first or self.bt_adapter is None:
                continue
            beside = hidden.unflatten(0, videos)
            if shared is None or patches is None:
                shared, patches = self.bt_adapter.start(beside, self.embeddings.position_embedding)
            else:
                shared, patches = shared + beside[:, :, 0].mean(1), patches + beside[:, :, 1:]
            shared, patches = self.bt_adapter.step(number - first, shared, patches)
        hidden = hidden.unflatten(0, videos)
        if shared is None or patches is None:
            return hidden
        branch = torch.cat((shared[:, None, None].expand(-1, videos[1], -1, -1), patches), 2)
        return (hidden + branch) / 2

    def forward(self, pixel_values_videos: Tensor, **kwargs: Any) -> Tensor:
        """(V, T, 3, H, W) pixels to (V, T, 1 + P, C) features; the last layer norm is computed in float32."""
        hidden, norm = self.blocks(pixel_values_videos), self.post_layernorm
        weight, bias = norm.weight.float(), norm.bias.float()
        return functional.layer_norm(hidden.float(), norm.normalized_shape, weight, bias, norm.eps).to(hidden.dtype)
