# SPDX-License-Identifier: Apache-2.0
"""ST-LLM for transformers 5: its two published checkpoints, their processor, prompts, sampling and converter.

`prunevid.loading.load`, and so `VideoQA.from_pretrained`, makes the family known to transformers by itself; call
`register_auto` before you use transformers' own auto classes.
"""

from __future__ import annotations

import importlib
from typing import Any

_PARTS = {
    "STLLMConfig": "configuration",
    "STLLMForConditionalGeneration": "modeling",
    "STLLMModel": "modeling",
    "STLLMProcessor": "processing",
    "STLLMVideoProcessor": "processing",
}

__all__ = [*_PARTS, "register_auto"]


def register_auto() -> None:
    """Makes the model type "stllm" known to transformers' auto classes; safe to call twice."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoVideoProcessor,
    )

    from prunevid.models.stllm import configuration, modeling, processing

    config = configuration.STLLMConfig
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, modeling.STLLMModel, exist_ok=True)
    AutoModelForImageTextToText.register(config, modeling.STLLMForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(config, processing.STLLMProcessor, exist_ok=True)
    AutoVideoProcessor.register(config, processing.STLLMVideoProcessor, exist_ok=True)


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return getattr(importlib.import_module(f"{__name__}.{_PARTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
