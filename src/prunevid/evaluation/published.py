# SPDX-License-Identifier: Apache-2.0
"""The numbers that the paper printed, each with the setting that it holds for.

Source: Huang, Zhou and Han, "PruneVid" (Findings of ACL 2025), the main table: 16 frames, accuracies in percent, for
VideoChatGPT-Bench the plain mean of its five scores. The table gives the share of the visual tokens that is kept and
the share of the FLOPs, and of the other methods no further setting.

A number is shown beside a run of ours only where `beside` finds the setting to be the same. Nothing here is measured by
this project, and what the table does not state is not here: no results by task, no intervals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunevid.evaluation.runs import Settings

SOURCE = "PruneVid, Findings of ACL 2025, main table"
JUDGE = "gpt-3.5-turbo-0125"
FRAMES = 16
KEPT_WITHIN = 0.01
"""How near a run's share of kept tokens must be to the printed one of a method whose settings are not printed."""

_PRUNEVID = {
    "tau": 0.8,
    "cluster_ratio": 0.5,
    "temporal_segment_ratio": 0.25,
    "dpc_knn_k": 7,
    "keep_ratio": 0.4,
    "enable_stage1": True,
    "enable_stage2": True,
    "enable_cache_compression": True,
    "attention_aggregation": "max",
    "keep_scope": "group",
    "keep_rule": "score",
    "cluster_centres": "density",
    "score_heads": "auto",
    "score_row_mix": "auto",
    "score_normalise": "none",
    "score_rows": "all",
    "score_contrast": "none",
    "score_rope": False,
    "score_causal": False,
}
_PLLAVA_LAYER = {"mvbench": 10, "videomme": 10, "egoschema": 10, "vcgbench": 5}
_PLLAVA_ALPHA = {"mvbench": 14, "videomme": 14, "egoschema": 14, "vcgbench": 4}


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        family: the model's type in transformers.
        size: what the model's name must say; where the table does not name the size, `remarks` tell.
        method: as `prunevid.methods.get` takes it.
        value: accuracy in percent; a mean score of 0 ... 5 for VideoChatGPT-Bench.
        part: "subset" or "full" of EgoSchema; "" elsewhere.
        kept: share of the visual tokens that the table prints.
        flops: share of the FLOPs that the table prints.
        options: settings that a run must have had.
        remarks: what the table leaves open about this number, or holds fixed and a run does not record.
    """

    benchmark: str
    family: str
    size: str
    method: str
    value: float
    part: str = ""
    kept: float = 1.0
    flops: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


# family, size, method, kept, FLOPs, MVBench, Video-MME, EgoSchema subset, EgoSchema full, VCG
_ROWS: tuple[tuple[str, str, str, float, float, float, float, float, float, float], ...] = (
    ("pllava", "7b", "none", 1.0, 1.0, 46.6, 44.4, 47.8, 42.6, 2.99),
    ("pllava", "7b", "fastv", 0.30, 0.33, 46.1, 43.6, 46.2, 41.0, 2.93),
    ("pllava", "7b", "prumerge", 0.557, 0.53, 45.6, 43.8, 45.2, 40.4, 2.93),
    ("pllava", "7b", "lookm", 0.20, 1.0, 46.6, 44.3, 47.0, 42.3, 2.82),
    ("pllava", "7b", "prunevid", 0.162, 0.23, 47.6, 45.3, 49.0, 42.6, 2.98),
    ("stllm", "", "none", 1.0, 1.0, 54.9, 42.0, 56.2, 45.6, 2.86),
    ("stllm", "", "fastv", 0.30, 0.37, 42.9, 34.5, 48.0, 38.5, 1.88),
    ("stllm", "", "lookm", 0.20, 1.0, 54.0, 40.6, 54.0, 44.5, 2.78),
    ("stllm", "", "prunevid", 0.151, 0.26, 54.3, 41.4, 54.6, 44.7, 2.82),
    ("llava_onevision", "7b", "none", 1.0, 1.0, 58.0, 58.2, 62.0, 60.0, 3.26),
    ("llava_onevision", "7b", "fastv", 0.30, 0.30, 57.2, 57.6, 62.6, 60.0, 3.16),
    ("llava_onevision", "7b", "prumerge", 0.552, 0.49, 52.9, 56.7, 62.2, 60.0, 3.21),
    ("llava_onevision", "7b", "lookm", 0.20, 1.0, 57.0, 58.0, 62.0, 59.8, 3.21),
    ("llava_onevision", "7b", "prunevid", 0.17, 0.20, 57.5, 58.6, 62.6, 59.5, 3.24),
)
_COLUMNS = (("mvbench", ""), ("videomme", ""), ("egoschema", "subset"), ("egoschema", "full"), ("vcgbench", ""))
_REMARKS = {
    "stllm": "the paper names neither the checkpoint nor published code of its ST-LLM rows",
    "llava_onevision": "the paper's code for LLaVA-OneVision is not published, and its table does not name the size",
}


def _expand() -> tuple[Published, ...]:
    """A `Published` for every number of the table."""
    found = []
    for family, size, method, kept, flops, *values in _ROWS:
        for (benchmark, part), value in zip(_COLUMNS, values):
            options = dict(_PRUNEVID) if method == "prunevid" else {}
            remarks = [_REMARKS[family]] if family in _REMARKS else []
            if family == "pllava":
                remarks.append(f"they are of LoRA alpha {_PLLAVA_ALPHA[benchmark]}")
                if method == "prunevid":
                    options["pruning_layer"] = _PLLAVA_LAYER[benchmark]
            if method not in ("none", "prunevid"):
                remarks.append("the settings of other methods are not printed, and what is matched is the share kept")
            if benchmark == "vcgbench":
                remarks.append(f"they are of the judge {JUDGE} and crossed consistency questions")
            found.append(
                Published(benchmark, family, size, method, value, part, kept, flops, options, tuple(remarks)),
            )
    return tuple(found)


TABLE = _expand()


def beside(settings: Settings, kept: float | None, *, judge: str | None = None) -> list[Published]:
    """The printed numbers whose setting is that of a run: one, two for EgoSchema, or none.

    The same benchmark, protocol "paper", 16 frames, all tasks and questions, no subtitles, family, size by the model's
    name, method, and the settings that are printed. PLLaVA's LoRA alpha is compared where the run recorded it.

    Args:
        settings: of the run.
        kept: share of the visual tokens that the run kept, in (0, 1]; None: not known.
        judge: the model that scored answers to open questions.
    """
    asked = settings.options_of_benchmark
    if settings.protocol != "paper" or settings.frames != FRAMES:
        return []
    if any(asked.get(name) for name in ("tasks", "limit", "subtitles")):
        return []
    if settings.benchmark == "vcgbench" and judge != JUDGE:
        return []
    return [entry for entry in TABLE if _same(entry, settings, kept)]


def flat_options(settings: Settings) -> dict[str, Any]:
    """A method's options with those of PruneVid's config among them."""
    options = dict(settings.options)
    config = options.pop("config", None)
    return {**options, **config} if isinstance(config, Mapping) else options


def _same(entry: Published, settings: Settings, kept: float | None) -> bool:
    if (entry.benchmark, entry.family, entry.method) != (settings.benchmark, settings.family, settings.method):
        return False
    if entry.size and not re.search(rf"(?<![0-9.]){entry.size}(?![a-z0-9])", settings.model.lower()):
        return False
    alpha = _recorded_alpha(settings)
    if entry.family == "pllava" and alpha is not None and alpha != _PLLAVA_ALPHA[entry.benchmark]:
        return False
    if entry.method == "none":
        return True
    options = flat_options(settings)
    if entry.method != "prunevid":
        return kept is not None and abs(kept - entry.kept) <= KEPT_WITHIN
    budget = ("retention_ratio", "retention_tokens")
    return all(options.get(name) is None for name in budget) and all(
        name in options and options[name] == value for name, value in entry.options.items()
    )


def _recorded_alpha(settings: Settings) -> float | None:
    """LoRA alpha among a run's settings, where the run wrote it down."""
    for place in (settings.options_of_benchmark, settings.options):
        for name in ("lora_alpha", "pllava_lora_alpha"):
            if isinstance(place.get(name), (int, float)):
                return float(place[name])
    return None
