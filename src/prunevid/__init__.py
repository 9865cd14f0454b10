# SPDX-License-Identifier: Apache-2.0
"""Training-free visual token pruning for video language models."""

from __future__ import annotations

from prunevid import methods, models
from prunevid.config import (
    PruneVidConfig,
    get_aggressive_config,
    get_baseline_config,
    get_conservative_config,
    get_paper_config,
    get_preset,
    get_stage1_only_config,
)
from prunevid.engine import Pruning, attach

__version__ = "0.1.0"

__all__ = [
    "PruneVidConfig",
    "Pruning",
    "attach",
    "get_aggressive_config",
    "get_baseline_config",
    "get_conservative_config",
    "get_paper_config",
    "get_preset",
    "get_stage1_only_config",
    "methods",
    "models",
]
