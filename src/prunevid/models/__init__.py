# SPDX-License-Identifier: Apache-2.0
"""The model families that pruning can be attached to."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from prunevid.errors import UnsupportedModelError
from prunevid.models.base import Adapter, Shortening, VideoLayout
from prunevid.models.internvl import InternVL
from prunevid.models.llava_next_video import LlavaNextVideo
from prunevid.models.llava_onevision import LlavaOnevision
from prunevid.models.pllava.adapter import PLLaVA
from prunevid.models.qwen3_vl import Qwen3VL
from prunevid.models.qwen_vl import QwenVL
from prunevid.models.smolvlm import SmolVLM
from prunevid.models.stllm.adapter import STLLM
from prunevid.models.towers import Tower, Watch, watch_tower
from prunevid.models.video_llama_3 import VideoLlama3
from prunevid.models.video_llava import VideoLlava

_ADAPTERS: dict[str, Adapter] = {}
_PORTS = ("pllava", "stllm")  # families whose models this package brings itself


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Makes a family known (usable as a class decorator); a later registration of the same model type wins."""
    instance = adapter()
    for model_type in adapter.model_types:
        _ADAPTERS[model_type] = instance
    return adapter


def register_ports() -> None:
    """Makes the models that this package brings known to transformers' auto classes; safe to call again."""
    for name in _PORTS:
        importlib.import_module(f"prunevid.models.{name}").register_auto()


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
        raise unknown(model_type, f"A {type(model).__name__}")
    return _ADAPTERS[model_type]


def adapter_of(model_type: str) -> Adapter:
    """The adapter of one of the `supported` model types."""
    return _ADAPTERS[model_type]


def unknown(model_type: Any, what: str) -> UnsupportedModelError:
    """The error for a model type without an adapter: names those that have one, the nearest, and the page to read."""
    near = difflib.get_close_matches(str(model_type), supported(), n=1, cutoff=0.5)
    nearest = f"the nearest of them is {near[0]}, and " if near else ""
    return UnsupportedModelError(
        f"{what} of type {model_type!r} can't be pruned; the supported types are {', '.join(supported())}; "
        f"{nearest}docs/models.md says how to add a family."
    )


def table() -> str:
    """The supported families as a table in Markdown (`docs/models.md` holds it)."""
    lines = ["| model type | checkpoints | tokens of a video | positions | order |", "|---|---|---|---|---|"]
    for model_type in supported():
        adapter = _ADAPTERS[model_type]
        positions = "(t, h, w), kept" if adapter.positions == "mrope" else "one axis, renumbered"
        order = "merged or raster" if adapter.contiguous else "raster"
        known = adapter.checkpoints
        names = known.get(model_type, ()) if isinstance(known, Mapping) else known
        checkpoints = "<br>".join(f"`{name}`" for name in names)
        lines.append(f"| `{model_type}` | {checkpoints} | {adapter.arrangement} | {positions} | {order} |")
    return "\n".join(lines)


def tower_table() -> str:
    """What the vision tower's attention to a cell is in every family, in Markdown (`docs/models.md` holds it)."""
    lines = ["| model type | attention that a cell gets |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {_ADAPTERS[name].salience} |" for name in supported())])


def base_of(model: Any) -> Any:
    """The innermost module that joins vision and language (`model.model`), also under wrappers such as PEFT's.

    Raises:
        UnsupportedModelError: the family has no adapter, or this model of it has no such part.
    """
    adapter = adapter_for(model)
    for module in model.modules():
        if adapter.language_name in module._modules and hasattr(module, adapter.feature_function):
            return module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no part with a language model and {adapter.feature_function}; load the model with "
        "AutoModelForImageTextToText."
    )


for _family in (
    QwenVL, Qwen3VL, LlavaOnevision, LlavaNextVideo, VideoLlava, InternVL, VideoLlama3, SmolVLM, PLLaVA, STLLM,
):  # fmt: skip
    register(_family)

__all__ = [
    "Adapter",
    "Shortening",
    "Tower",
    "VideoLayout",
    "Watch",
    "adapter_for",
    "adapter_of",
    "base_of",
    "register",
    "register_ports",
    "supported",
    "table",
    "tower_table",
    "unknown",
    "watch_tower",
]
