# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, measured: the unpruned model and methods in turns, on shapes with random weights or real models."""

from __future__ import annotations

from prunevid.bench.questions import measure_questions
from prunevid.bench.results import (
    Asked,
    Batch,
    Goal,
    Growth,
    QuestionsResult,
    Result,
    ScalingResult,
    Side,
    SpeedResult,
    Spread,
    document,
)
from prunevid.bench.scaling import measure_scaling
from prunevid.bench.settings import Settings
from prunevid.bench.speed import measure_speed
from prunevid.bench.subjects import Loaded, Made, Subject

__all__ = [
    "Asked",
    "Batch",
    "Goal",
    "Growth",
    "Loaded",
    "Made",
    "QuestionsResult",
    "Result",
    "ScalingResult",
    "Settings",
    "Side",
    "SpeedResult",
    "Spread",
    "Subject",
    "document",
    "measure_questions",
    "measure_scaling",
    "measure_speed",
]
