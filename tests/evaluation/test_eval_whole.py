# SPDX-License-Identifier: Apache-2.0
"""The commands one after the other, as a user types them, on made-up data and the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.fixtures import write_data
from models import hub_pllava
from prunevid.evaluation.runs import read_run

QUICK = ("--frames", "4", "--max-new-tokens", "2")
PLAN = """
benchmark: mvbench
data: {data}
tasks: [Action Sequence, State Change]
frames: 4
max_new_tokens: 2
grid:
  method: [fastv, uniform]
  retention_ratio: [0.2]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), ["mvbench", "vcgbench"], per_task=1)


def test_judged_scores_stay_until_questions_are_answered_anew(data: Path, tmp_path: Path, cli: Any) -> None:
    out = tmp_path / "run"
    command = ("eval", "vcgbench", "--data", data, "--out", out, *QUICK)
    assert cli(*command)[0] == 0
    plain = json.loads((out / "results.json").read_text())
    status, shown, told = cli("eval", "judge", out, "--stub", "--json")
    assert status == 0 and "stub" in shown, told
    judged = json.loads((out / "results.json").read_text())
    assert {name: judged[name] for name in plain} == plain and judged["judge_stub"]["macro_mean"] is not None
    assert cli(*command)[0] == 0
    assert json.loads((out / "results.json").read_text()) == judged
    lines = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    (out / "answers.jsonl").write_text("".join(lines[:-1]))
    assert cli("eval", "judge", out, "--stub", "--json")[0] == 0  # of fewer answers
    partial = json.loads((out / "results.json").read_text())["judge_stub"]
    assert cli(*command)[0] == 0
    assert json.loads((out / "results.json").read_text()) == plain, partial


def test_a_sweep_of_the_real_runner_is_resumed_and_ends_in_a_table(data: Path, tmp_path: Path, cli: Any) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "sweep"
    plan.write_text(PLAN.format(data=data))
    status, shown, told = cli("eval", "sweep", plan, "--out", out, "--no-plot")
    assert status == 0, told
    folders = sorted(path.parent for path in out.glob("*/answers.jsonl"))
    assert len(folders) == 3  # two points, and the baseline that a plan without one gets
    before = {folder: (folder / "answers.jsonl").read_bytes() for folder in folders}
    assert all(len(lines.splitlines()) == 2 for lines in before.values())
    assert "fastv" in shown and "uniform" in shown and "none" in shown
    assert cli("eval", "sweep", plan, "--out", out, "--no-plot")[0] == 0
    assert {folder: (folder / "answers.jsonl").read_bytes() for folder in folders} == before
    status, shown, told = cli("eval", "table", *folders, "--format", "json")
    rows = [row for section in json.loads(shown)["sections"] for row in section["rows"]]
    assert status == 0 and sorted(row["method"] for row in rows) == ["fastv", "none", "uniform"], told


@pytest.mark.parametrize(
    ("benchmark", "alpha", "layer", "warned"),
    [("mvbench", 14, 10, False), ("mvbench", 4, 10, True), ("vcgbench", 4, 5, False)],
)
def test_from_a_downloaded_pllava_to_a_benchmark(
    benchmark: str, alpha: int, layer: int, warned: bool, data: Path, tmp_path: Path, cli: Any
) -> None:
    source = hub_pllava.write(tmp_path / "hub", hub_pllava.tensors())
    assert cli("convert", "pllava", source, tmp_path / "model", "--lora-alpha", alpha)[0] == 0
    out = tmp_path / "run"
    tasks = ("--task", "State Change") if benchmark == "mvbench" else ("--limit", 1, "--task", "generic")
    status, _, told = cli(
        "eval", benchmark, "--model", tmp_path / "model", "--data", data, "--out", out, *tasks, "--max-new-tokens", 2
    )
    assert status == 0, told
    found = read_run(out)
    assert all(record.error is None for record in found.records.values()) and found.records
    depth = hub_pllava.TEXT["num_hidden_layers"]
    config = found.settings.options["config"]
    assert (config["dpc_knn_k"], config["keep_ratio"], found.settings.frames) == (7, 0.4, 16)
    assert config["pruning_layer"] == min(round(layer / 32 * depth), depth - 1)
    assert (f"{alpha}" in told and "alpha" in told) is warned, told
