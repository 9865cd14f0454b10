# SPDX-License-Identifier: Apache-2.0
"""Training-free visual token pruning for video language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunevid.config import (
    PruneVidConfig,
    get_aggressive_config,
    get_baseline_config,
    get_conservative_config,
    get_diverse_config,
    get_paper_config,
    get_preset,
    get_stage1_only_config,
)

if TYPE_CHECKING:
    from prunevid import methods, models
    from prunevid.compat import PruneVidQwen25VL
    from prunevid.engine import Pruning, attach
    from prunevid.qa import Answer, VideoQA

__version__ = "0.1.0"

# torch and transformers take seconds to import: what needs them is imported when it is used (`prunevid --help`).
_LAZY = {
    "Answer": "prunevid.qa",
    "PruneVidQwen25VL": "prunevid.compat",
    "Pruning": "prunevid.engine",
    "VideoQA": "prunevid.qa",
    "attach": "prunevid.engine",
}
_MODULES = ("builtin", "core", "methods", "models", "qa", "stats", "video")

__all__ = [
    "Answer",
    "PruneVidConfig",
    "PruneVidQwen25VL",
    "Pruning",
    "VideoQA",
    "attach",
    "get_aggressive_config",
    "get_baseline_config",
    "get_conservative_config",
    "get_diverse_config",
    "get_paper_config",
    "get_preset",
    "get_stage1_only_config",
    "methods",
    "models",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"prunevid.{name}")
    raise AttributeError(f"module 'prunevid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
