# SPDX-License-Identifier: Apache-2.0
"""The model families that pruning can be attached to."""

from __future__ import annotations

from typing import Any

from prunevid.errors import UnsupportedModelError
from prunevid.models.base import Adapter, VideoLayout
from prunevid.models.qwen_vl import QwenVL

_ADAPTERS: dict[str, Adapter] = {}


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Makes a family known (usable as a class decorator); a later registration of the same model type wins."""
    instance = adapter()
    for model_type in adapter.model_types:
        _ADAPTERS[model_type] = instance
    return adapter


def supported() -> list[str]:
    """The values of `config.model_type` that have an adapter, sorted."""
    return sorted(_ADAPTERS)


def adapter_for(model: Any) -> Adapter:
    """The adapter of a loaded model.

    Raises:
        UnsupportedModelError: the model's family has none; the message lists those that have.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in _ADAPTERS:
        raise UnsupportedModelError(
            f"A model of type {model_type!r} ({type(model).__name__}) can't be pruned; the supported types are "
            f"{', '.join(supported())}."
        )
    return _ADAPTERS[model_type]


def base_of(model: Any) -> Any:
    """The innermost module that joins vision and language (`model.model`), also under wrappers such as PEFT's.

    Raises:
        UnsupportedModelError: the family has no adapter, or this model of it has no such part.
    """
    adapter = adapter_for(model)
    for module in model.modules():
        if "language_model" in module._modules and hasattr(module, adapter.feature_function):
            return module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no part with a language model and {adapter.feature_function}; load the model with "
        "AutoModelForImageTextToText."
    )


register(QwenVL)

__all__ = ["Adapter", "VideoLayout", "adapter_for", "base_of", "register", "supported"]
