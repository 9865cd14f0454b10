# SPDX-License-Identifier: Apache-2.0
"""What a run is asked for: the options of `prunevid eval BENCHMARK`, and a point of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """One run of one benchmark.

    Attributes:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        data: the folder that holds MVBench/, Video-MME/, ego_schema/ and VCGBench/.
        out: the run's folder.
        model: a folder or hub id; None: the embedded model.
        method, preset, method_options, retention_ratio, retention_tokens, average_over_layers: see
            `prunevid.choice.choose_method`.
        protocol: "paper" or "lmms".
        frames, max_new_tokens: None: what the protocol says.
        tasks: only items of these tasks; () all.
        limit: only the first so many items of each task.
        subtitles: Video-MME with its subtitles.
        subtitles_before_video: put them where the choice of tokens does not see them.
        loading: arguments of `prunevid.loading.load` (device, dtype, device_map, attn_implementation, lora_alpha, ...).
    """

    benchmark: str
    data: Path
    out: Path
    model: str | None = None
    method: str | None = None
    preset: str | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    retention_ratio: float | None = None
    retention_tokens: int | None = None
    average_over_layers: bool | None = None
    protocol: str = "paper"
    frames: int | None = None
    max_new_tokens: int | None = None
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    subtitles: bool = False
    subtitles_before_video: bool = False
    loading: Mapping[str, Any] = field(default_factory=dict)
