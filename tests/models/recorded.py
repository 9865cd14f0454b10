# SPDX-License-Identifier: Apache-2.0
"""The arrays that the original PLLaVA with PruneVid left, and the small model behind them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

import prunevid
from prunevid.models.pllava import PLLaVAConfig, PLLaVAForConditionalGeneration

Shared = Callable[..., Path]
CASES = ["mha_default", "mha_noise", "all_static", "all_dynamic"]
PLACEHOLDER, PAD = 198, 199
TOKENS = 16 * 12 * 12


def config(**text: Any) -> PLLaVAConfig:
    """The recorded model's configuration; text: other values of its language model."""
    language = dict(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=PAD,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
    )
    return PLLaVAConfig(
        text_config=LlamaConfig(**(language | text)),
        vision_config=vision,
        image_token_index=PLACEHOLDER,
        pad_token_id=PAD,
    )


def new_name(name: str) -> str:
    """The name that a weight of the recorded files has in transformers 5."""
    for old, new in (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise AssertionError(name)


def build(weights: Path, kernel: str = "sdpa") -> Any:
    """The recorded model in float32 with its recorded weights."""
    settings = config()
    settings._attn_implementation = kernel
    model = PLLaVAForConditionalGeneration(settings).eval().requires_grad_(False)
    model.load_state_dict({new_name(name): tensor for name, tensor in load_file(weights).items()})
    return model


def expand(input_ids: Tensor) -> Tensor:
    """The recorded prompt with its one placeholder repeated for every visual token."""
    at = int((input_ids[0] == PLACEHOLDER).nonzero())
    return torch.cat([input_ids[:, :at], torch.full((1, TOKENS), PLACEHOLDER), input_ids[:, at + 1 :]], dim=1)


@functools.cache
def _arrays(path: Path) -> Any:
    return dict(np.load(path))


class Case:
    """Recorded arrays by name as tensors, and the settings that they were recorded with."""

    def __init__(self, shared: Shared, name: str) -> None:
        entry = json.loads(shared("golden", "meta.json").read_text())["cases"][name]
        self.weights = shared("golden", entry["weights"])
        self.arrays = _arrays(shared("golden", f"{name}.npz"))
        settings = entry["prune"]
        self.layer = settings["selected_layer"]
        self.config = prunevid.PruneVidConfig(
            tau=settings["tau"],
            cluster_ratio=settings["cluster_ratio"],
            temporal_segment_ratio=settings["temporal_segment_ratio"],
            keep_ratio=settings["alpha"],
            pruning_layer=self.layer,
            dpc_knn_k=7,
        )
        prompt = self["generated"][:, : self["input_ids"].shape[1]]
        assert torch.equal(prompt, self["input_ids"])
        ids = expand(prompt)
        self.ids = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def prompt(self, model: Any) -> dict[str, Tensor]:
        """The recorded prompt for a model that sees the recorded features."""
        return {**self.ids, "pixel_values_videos": show(model, self["image_features"][0])}


def show(model: Any, *videos: Tensor) -> Tensor:
    """Lets a model see features (2304, 64) in place of what its vision tower and projector would make of pixels.

    Every token is given to the pooling as four equal patches, whose mean is exactly the token.

    Returns:
        Pixels (videos, 16, 3, 1, 1) that stand for these features.
    """
    frames = [
        frame.unflatten(0, (12, 12)).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten(0, 1)
        for video in videos
        for frame in video.view(16, 144, -1)
    ]

    def features(pictures: Tensor, **kwargs: Any) -> Any:
        return SimpleNamespace(pooler_output=[frames[int(picture[0, 0, 0])] for picture in pictures])

    model.model.get_image_features = features
    return torch.arange(float(len(frames))).view(-1, 16, 1, 1, 1).expand(-1, -1, 3, -1, -1)


def pixels(shared: Shared) -> Tensor:
    """(1, 16, 3, 336, 336): those of the cases "mha_default" and "mha_noise"."""
    return torch.from_numpy(_arrays(shared("golden", "pixels_seed_0_5-4-4-3.npz"))["pixel_values"]).float()[None]


def close(found: Tensor, recorded: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, recorded, atol=atol, rtol=0)
