# SPDX-License-Identifier: Apache-2.0
"""PLLaVA for transformers 5: configuration, model, processor, prompts, and the converter of the published weights.

`prunevid.models.register_ports()` makes the classes known to transformers' auto classes; `VideoQA.from_pretrained` does
so by itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunevid.models.pllava.adapter import PLLaVA

if TYPE_CHECKING:
    from prunevid.models.pllava.configuration import PLLaVAConfig, published_config
    from prunevid.models.pllava.conversion import convert
    from prunevid.models.pllava.modeling import PLLaVAForConditionalGeneration, PLLaVAModel
    from prunevid.models.pllava.processing import PLLaVAProcessor

_PLACES = {
    "PLLaVAConfig": "configuration",
    "published_config": "configuration",
    "convert": "conversion",
    "PLLaVAForConditionalGeneration": "modeling",
    "PLLaVAModel": "modeling",
    "PLLaVAProcessor": "processing",
}

__all__ = [
    "PLLaVA",
    "PLLaVAConfig",
    "PLLaVAForConditionalGeneration",
    "PLLaVAModel",
    "PLLaVAProcessor",
    "convert",
    "published_config",
    "register_auto",
]


def register_auto() -> None:
    """Makes the classes known to AutoConfig, AutoModelForImageTextToText and AutoProcessor; safe to call again."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

    from prunevid.models.pllava.configuration import PLLaVAConfig
    from prunevid.models.pllava.modeling import PLLaVAForConditionalGeneration, PLLaVAModel
    from prunevid.models.pllava.processing import PLLaVAProcessor

    AutoConfig.register(PLLaVAConfig.model_type, PLLaVAConfig, exist_ok=True)
    AutoModel.register(PLLaVAConfig, PLLaVAModel, exist_ok=True)
    AutoModelForImageTextToText.register(PLLaVAConfig, PLLaVAForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(PLLaVAConfig, PLLaVAProcessor, exist_ok=True)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"prunevid.models.pllava.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'prunevid.models.pllava' has no attribute {name!r}")
