# SPDX-License-Identifier: Apache-2.0
"""The printed numbers: that they are the table's, and that they stand beside runs of the same setting only."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from prunevid.config import get_paper_config
from prunevid.evaluation.published import TABLE, beside
from prunevid.evaluation.runs import Settings

PAPER = {"config": {**dataclasses.asdict(get_paper_config()), "pruning_layer": 10}, "retention_ratio": None}
TEXT = """
| pllava none | 100 % | 1.00 | 46.6 | 44.4 | 47.8/42.6 | 2.99 |
| pllava fastv | 30 % | .33 | 46.1 | 43.6 | 46.2/41.0 | 2.93 |
| pllava prumerge | 55.7 % | .53 | 45.6 | 43.8 | 45.2/40.4 | 2.93 |
| pllava lookm | 20 % | 1.00 | 46.6 | 44.3 | 47.0/42.3 | 2.82 |
| pllava prunevid | 16.2 % | .23 | 47.6 | 45.3 | 49.0/42.6 | 2.98 |
| stllm none | 100 % | 1 | 54.9 | 42.0 | 56.2/45.6 | 2.86 |
| stllm fastv | 30 % | .37 | 42.9 | 34.5 | 48.0/38.5 | 1.88 |
| stllm lookm | 20 % | 1 | 54.0 | 40.6 | 54.0/44.5 | 2.78 |
| stllm prunevid | 15.1 % | .26 | 54.3 | 41.4 | 54.6/44.7 | 2.82 |
| llava_onevision none | 100 % | 1 | 58.0 | 58.2 | 62.0/60.0 | 3.26 |
| llava_onevision fastv | 30 % | .30 | 57.2 | 57.6 | 62.6/60.0 | 3.16 |
| llava_onevision prumerge | 55.2 % | .49 | 52.9 | 56.7 | 62.2/60.0 | 3.21 |
| llava_onevision lookm | 20 % | 1 | 57.0 | 58.0 | 62.0/59.8 | 3.21 |
| llava_onevision prunevid | 17.0 % | .20 | 57.5 | 58.6 | 62.6/59.5 | 3.24 |
"""


def settings(benchmark: str = "mvbench", family: str = "pllava", method: str = "prunevid", **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "protocol": "paper",
        "model": f"models/{family.replace('_', '-')}-7b-chat",
        "options": PAPER if method == "prunevid" else {},
    }
    return Settings(benchmark=benchmark, family=family, method=method, **{**given, **changes})


def test_every_number_of_the_table_and_no_other() -> None:
    expected = {}
    for line in TEXT.strip().splitlines():
        name, kept, flops, mvbench, videomme, egoschema, vcg = (part.strip() for part in line.strip("| ").split("|"))
        family, method = name.split()
        subset, full = egoschema.split("/")
        values = (("mvbench", "", mvbench), ("videomme", "", videomme), ("vcgbench", "", vcg))
        values += (("egoschema", "subset", subset), ("egoschema", "full", full))
        for benchmark, part, value in values:
            share = round(float(kept.rstrip("% ")) / 100, 6)
            expected[benchmark, part, family, method] = (float(value), share, float(flops))
    found = {
        (entry.benchmark, entry.part, entry.family, entry.method): (entry.value, entry.kept, entry.flops)
        for entry in TABLE
    }
    assert found == expected
    assert len(TABLE) == 70


def test_the_papers_runs_have_their_numbers_beside() -> None:
    assert [entry.value for entry in beside(settings(), 0.16)] == [47.6]
    assert [entry.value for entry in beside(settings(method="none"), 1.0)] == [46.6]
    assert [(e.part, e.value) for e in beside(settings("egoschema"), 0.16)] == [("subset", 49.0), ("full", 42.6)]
    assert [entry.value for entry in beside(settings(method="fastv"), 0.305)] == [46.1]
    assert [entry.value for entry in beside(settings(family="stllm", model="st-llm-qa"), 0.15)] == [54.3]
    judged = settings("vcgbench", options={"config": {**PAPER["config"], "pruning_layer": 5}})
    assert [entry.value for entry in beside(judged, 0.16, judge="gpt-3.5-turbo-0125")] == [2.98]


@pytest.mark.parametrize(
    ("run", "kept", "judge"),
    [
        (settings(protocol="lmms"), 0.16, None),
        (settings(frames=32), 0.16, None),
        (settings(model="models/pllava-13b"), 0.16, None),
        (settings(model="models/pllava"), 0.16, None),
        (settings(family="llava_onevision", model="llava-onevision-qwen2-0.5b-ov-hf"), 0.16, None),
        (settings(model="models/pllava-1.7b"), 0.16, None),
        (settings(model="models/pllava-7b5"), 0.16, None),
        (settings(family="qwen2_5_vl"), 0.16, None),
        (settings(options_of_benchmark={"limit": 20}), 0.16, None),
        (settings(options_of_benchmark={"tasks": ["Action Count"]}), 0.16, None),
        (settings("videomme", options_of_benchmark={"subtitles": True}), 0.16, None),
        (settings(options_of_benchmark={"lora_alpha": 4}), 0.16, None),
        (settings(options={"config": {**PAPER["config"], "tau": 0.7}}), 0.16, None),
        (settings(options={"config": {**PAPER["config"], "pruning_layer": 9}}), 0.16, None),
        (settings(options={**PAPER, "retention_ratio": 0.162}), 0.162, None),
        (settings(options={}), 0.16, None),
        (settings(method="fastv"), 0.35, None),
        (settings(method="fastv"), None, None),
        (settings(method="fastv|lookm"), 0.30, None),
        (settings("vcgbench", options={"config": {**PAPER["config"], "pruning_layer": 5}}), 0.16, None),
        (settings("vcgbench", options={"config": {**PAPER["config"], "pruning_layer": 5}}), 0.16, "gpt-4o"),
    ],
)
def test_another_setting_has_none(run: Settings, kept: float | None, judge: str | None) -> None:
    assert beside(run, kept, judge=judge) == []
