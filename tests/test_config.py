# SPDX-License-Identifier: Apache-2.0
"""The settings: the contract's names and defaults, presets, and refusals that name the value and the allowed range."""

from __future__ import annotations

import dataclasses
import json

import pytest

from prunevid import (
    PruneVidConfig,
    get_aggressive_config,
    get_baseline_config,
    get_conservative_config,
    get_diverse_config,
    get_paper_config,
    get_preset,
    get_stage1_only_config,
)
from prunevid.config import PRESETS
from prunevid.errors import ConfigError, PruneVidError

CONTRACT = {
    "tau": 0.8,
    "cluster_ratio": 0.5,
    "temporal_segment_ratio": 0.25,
    "dpc_knn_k": 5,
    "enable_stage1": True,
    "keep_ratio": 0.4,
    "pruning_layer": 10,
    "attention_aggregation": "max",
    "enable_stage2": True,
    "enable_cache_compression": True,
    "max_frames": 16,
    "video_sampling": "uniform",
    "verbose": False,
    "collect_stats": True,
}


def test_the_contract_s_fields_and_defaults() -> None:
    values = dataclasses.asdict(PruneVidConfig())
    assert {name: values[name] for name in CONTRACT} == CONTRACT
    assert [field.name for field in dataclasses.fields(PruneVidConfig)][: len(CONTRACT)] == list(CONTRACT)
    assert json.loads(json.dumps(values)) == values and values["positions"] == "auto"


@pytest.mark.parametrize("preset", PRESETS)
def test_images_stay_whole_unless_asked_for(preset: str) -> None:
    assert get_preset(preset).prune_images is False
    assert get_preset(preset).replace(prune_images=True).prune_images is True


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (get_paper_config(), {"dpc_knn_k": 7, "score_rope": False, "score_causal": False, "keep_scope": "group"}),
        (get_conservative_config(), {"tau": 0.7, "cluster_ratio": 0.3, "keep_ratio": 0.3}),
        (get_aggressive_config(), {"tau": 0.85, "cluster_ratio": 0.6, "keep_ratio": 0.5}),
        (get_baseline_config(), {"enable_stage1": False, "enable_stage2": False, "enable_cache_compression": False}),
        (get_stage1_only_config(), {"enable_stage1": True, "enable_stage2": False}),
        (get_diverse_config(), {"dpc_knn_k": 7, "keep_scope": "global", "keep_rule": "peaks"}),
    ],
)
def test_presets(made: PruneVidConfig, expected: dict) -> None:
    assert {name: getattr(made, name) for name in expected} == expected
    assert dataclasses.replace(PruneVidConfig(), **expected) == made or made == get_stage1_only_config()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("tau", 2.5, "between -1 and 2"),
        ("tau", float("nan"), "between -1 and 2"),
        ("tau", "0.8", "a number"),
        ("cluster_ratio", 0, "above 0 and at most 1"),
        ("cluster_ratio", 1.01, "above 0 and at most 1"),
        ("temporal_segment_ratio", -0.1, "above 0 and at most 1"),
        ("keep_ratio", -0.1, "at least 0 and at most 1"),
        ("keep_ratio", 2, "at least 0 and at most 1"),
        ("dpc_knn_k", 0, "at least 1"),
        ("dpc_knn_k", 2.5, "a whole number"),
        ("pruning_layer", -1, "at least 0"),
        ("max_frames", 0, "at least 1"),
        ("enable_stage1", 1, "True or False"),
        ("prune_images", "yes", "True or False"),
        ("attention_aggregation", "median", "'max', 'mean'"),
        ("video_sampling", "random", "'uniform', 'fps'"),
        ("token_order", "spiral", "'auto', 'merged', 'raster'"),
        ("keep_scope", "frame", "'group', 'global'"),
        ("keep_rule", "best", "'score', 'peaks'"),
        ("static_position", "last", "'first', 'middle'"),
        ("positions", "shift", "'auto', 'renumber', 'keep'"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(setting: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        PruneVidConfig(**{setting: value})
    message = str(refusal.value)
    assert message.startswith(f"{setting} is ") and says in message and "\n" not in message
    with pytest.raises(PruneVidError):
        PruneVidConfig().replace(**{setting: value})


def test_peaks_need_scores_that_are_not_negative() -> None:
    with pytest.raises(ConfigError, match="keep_rule is 'peaks', but score_contrast 'difference'"):
        PruneVidConfig(keep_rule="peaks", score_contrast="difference", prompt_head=1)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'kep_ratio' is no setting.*keep_ratio"):
        PruneVidConfig().replace(kep_ratio=0.3)
    with pytest.raises(ConfigError, match=r"'fast' is no preset; choose one of .*paper"):
        get_preset("fast")
