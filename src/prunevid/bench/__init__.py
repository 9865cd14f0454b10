# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, measured: the unpruned model and methods in turns, on shapes with random weights or real models."""

from __future__ import annotations

from prunevid.bench.results import Batch, Goal, Growth, ScalingResult, Side, SpeedResult, Spread, document
from prunevid.bench.scaling import measure_scaling
from prunevid.bench.settings import Settings
from prunevid.bench.speed import measure_speed
from prunevid.bench.subjects import Loaded, Made, Subject

__all__ = [
    "Batch",
    "Goal",
    "Growth",
    "Loaded",
    "Made",
    "ScalingResult",
    "Settings",
    "Side",
    "SpeedResult",
    "Spread",
    "Subject",
    "document",
    "measure_scaling",
    "measure_speed",
]
