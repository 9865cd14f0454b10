# SPDX-License-Identifier: Apache-2.0
"""The embedded model's architecture with few layers and random weights, and a plan for it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from prunevid.builtin.model import build_config, build_processor

LAYERS = 4


@functools.cache
def small() -> tuple[Any, Any]:
    """(model, processor); the weights are larger than fresh ones, so that answers depend on what is seen."""
    config = build_config()
    config.text_config.num_hidden_layers = LAYERS
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = config.text_config.layer_types[:LAYERS]
    config._attn_implementation = "sdpa"
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.mul_(4)
    torch.random.set_rng_state(state)
    return model, build_processor()
