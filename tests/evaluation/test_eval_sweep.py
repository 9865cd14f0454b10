# SPDX-License-Identifier: Apache-2.0
"""Sweeps with a stand-in for the benchmark, which writes made-up runs: which points there are, resuming, and errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.made_runs import RIGHT, write_run
from prunevid.cli import run as command_line
from prunevid.config import PruneVidConfig
from prunevid.errors import InputError, UnsupportedError
from prunevid.evaluation import sweep as sweeps
from prunevid.evaluation.plans import EXAMPLE, Plan, read_plan
from prunevid.evaluation.request import Request
from prunevid.evaluation.runs import Run, read_run
from prunevid.evaluation.sweep import run_sweep

HEAD = "benchmark: mvbench\ndata: DATAS\n"
SMALL = HEAD + "base: {preset: paper}\none_at_a_time:\n  tau: [0.7, 0.8]\n  keep_ratio: [0.3]\n"
SMALL_NAMES = ["none", "prunevid,preset=paper", "prunevid,preset=paper,tau=0.7", "prunevid,preset=paper,keep_ratio=0.3"]


def plan(folder: Path, text: str) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return read_plan(path)


def names(folder: Path, text: str) -> list[str]:
    return [point.name for point in plan(folder, text).points]


class Stand:
    """Takes the place of `run_benchmark` and of loading; remembers what it was asked."""

    def __init__(self, stop_at: int | None = None, refuse: str | None = None) -> None:
        self.asked: list[Request] = []
        self.models: list[Any] = []
        self.loaded = 0
        self.stop_at, self.refuse = stop_at, refuse

    def load(self, request: Request) -> tuple[Any, Any]:
        self.loaded += 1
        return f"model {self.loaded}", "processor"

    def run(self, request: Request, loaded: Any = None, tell: Any = None) -> Run:
        self.models.append(loaded)
        self.asked.append(request)
        if request.method == self.refuse:
            raise UnsupportedError("This model has no tower that the method could ask.")
        said = RIGHT[: 5 + len(self.asked)].ljust(10, "A")
        method = {"method": request.method, "options": dict(request.method_options)}
        kept = 1.0 if request.method == "none" else 0.2
        if self.stop_at == len(self.asked):
            write_run(request.out, said[:4], kept=kept, flops=kept, finished=False, **method)
            raise KeyboardInterrupt
        return read_run(write_run(request.out, said, kept=kept, flops=kept, **method))

    @property
    def names(self) -> list[str]:
        return [request.out.name for request in self.asked]


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_one_at_a_time_departs_from_the_base(tmp_path: Path) -> None:
    found = plan(tmp_path, SMALL)
    assert [point.name for point in found.points] == SMALL_NAMES  # tau 0.8 is the preset's own and no further point
    request = found.points[2].request(found.common, found.data, tmp_path / "out")
    assert request == Request(
        benchmark="mvbench",
        data=Path("DATAS"),
        out=tmp_path / "out" / SMALL_NAMES[2],
        method="prunevid",
        preset="paper",
        method_options={"tau": 0.7},
    )


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    text = HEAD + (
        "base: {preset: paper, retention_tokens: 64}\n"
        "grid: {method: [prunevid, fastv, 'tome|fastv'], retention_ratio: [0.1, 0.25]}\n"
    )
    assert names(tmp_path, text) == [
        "none",
        "prunevid,preset=paper,retention_ratio=0.1",
        "prunevid,preset=paper,retention_ratio=0.25",
        "fastv,retention_ratio=0.1",
        "fastv,retention_ratio=0.25",
        *(f"tome+fastv,retention_ratio={ratio}" for ratio in (0.1, 0.25)),
    ]


def test_another_method_takes_only_the_budget_of_the_base(tmp_path: Path) -> None:
    text = HEAD + "base: {preset: paper, tau: 0.7, retention_ratio: 0.2}\none_at_a_time: {method: [fastv, none]}\n"
    points = {point.name: point.settings for point in plan(tmp_path, text).points}
    assert points["fastv,retention_ratio=0.2"] == {"method": "fastv", "retention_ratio": 0.2}
    assert points["none"] == {"method": "none"} and len(points) == 3


def test_several_grids_points_and_common_options(tmp_path: Path) -> None:
    text = """
benchmark: videomme
data: ~/DATAS
model: some/model
protocol: lmms
frames: 8
max_new_tokens: 16
limit: 3
tasks: [Short Video]
subtitles: true
baseline: false
out: there
loading: &loading {device: cpu, dtype: float32}
grid:
  - {method: [random], retention_ratio: [0.1]}
  - {method: [sparsevlm], layers: [[2, 6, 9], [3, 7, 16]]}
points:
  - {preset: conservative}
  - {method: random, retention_ratio: 0.1}
"""
    found = plan(tmp_path, text)
    assert [point.name for point in found.points] == [
        "random,retention_ratio=0.1",  # once, though a point names it again
        "sparsevlm,layers=2-6-9",
        "sparsevlm,layers=3-7-16",
        "prunevid,preset=conservative",
    ]
    assert found.points[1].settings == {"method": "sparsevlm", "layers": (2, 6, 9)}
    assert found.out == Path("there") and found.data == Path("~/DATAS").expanduser()
    assert dict(found.common) == {
        "benchmark": "videomme",
        "model": "some/model",
        "protocol": "lmms",
        "frames": 8,
        "max_new_tokens": 16,
        "limit": 3,
        "tasks": ("Short Video",),
        "subtitles": True,
        "loading": {"device": "cpu", "dtype": "float32"},
    }


def test_what_nobody_said_is_not_taken_for_a_default(tmp_path: Path) -> None:
    """A benchmark's published settings stand in where nothing is given: tau 0.8 may be another run than no tau."""
    default = PruneVidConfig().tau
    found = names(tmp_path, HEAD + f"base: {{method: prunevid}}\none_at_a_time: {{tau: [{default}]}}\n")
    assert found == ["none", "prunevid", "prunevid,tau=0.8"]


def test_aliases_and_merge_keys(tmp_path: Path) -> None:
    text = HEAD + "base: &base {preset: paper, tau: 0.7}\npoints:\n  - {<<: *base, tau: 0.6, keep_ratio: 0.3}\n"
    assert names(tmp_path, text) == ["none", "prunevid,preset=paper,keep_ratio=0.3,tau=0.6"]


def test_the_example_is_a_plan_that_covers_the_ablation() -> None:
    found = read_plan(EXAMPLE)
    varied = {name for point in found.points for name in point.settings}
    assert {"tau", "cluster_ratio", "temporal_segment_ratio", "keep_ratio", "pruning_layer"} <= varied
    assert {"method", "preset", "retention_ratio"} <= varied
    assert len({point.name for point in found.points}) == len(found.points) > 30


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEAD + "bas: {}\n", 3, "'bas' is no entry of a plan (do you mean 'base'?)"),
        (
            "data: D\nbenchmark: mvbensch\nbase: {method: fastv}\n",
            2,
            "'mvbensch' is no benchmark (do you mean 'mvbench'?)",
        ),
        (HEAD + "limit: 0\n", 3, "limit is 0, but must be a whole number"),
        (HEAD + "frames: true\n", 3, "frames is True"),
        (HEAD + "subtitles: 1\n", 3, "must be true or false"),
        (HEAD + "model:\n", 3, "model is None"),
        (HEAD + "tasks: [Action Count, 3]\n", 3, "3 is no task's name"),
        (
            HEAD + "loading:\n  device: cpu\n  dtpye: float32\n",
            5,
            "'dtpye' is no argument of loading (do you mean 'dtype'?)",
        ),
        (HEAD + "base:\n  preset: paper\n  taus: 0.7\n", 5, "'taus' is no setting of PruneVid"),
        (HEAD + "base:\n  preset: papr\n", 4, "'papr' is no preset"),
        (HEAD + "grid:\n  method: [fastv,\n           fastvv]\n", 5, "'fastvv' is no pruning method"),
        (HEAD + "one_at_a_time:\n  tau: [0.5]\n  keep_ratio:\n    - 0.3\n    - 1.5\n", 7, "keep_ratio is 1.5"),
        (HEAD + "one_at_a_time:\n  tau: 0.5\n", 4, "tau is 0.5, but must be a list of values"),
        (HEAD + "grid:\n  tau: []\n", 4, "must be a list of values"),
        (HEAD + "grid: [3]\n", 3, "a grid is 3"),
        (HEAD + "points:\n  - fastv\n", 4, "a point is 'fastv'"),
        (HEAD + "points:\n  - {method: 3}\n", 4, "method is 3, but must be a name"),
        (
            HEAD + "points:\n  - {method: fastv, preset: paper}\n",
            4,
            "The preset 'paper' belongs to the method 'prunevid'",
        ),
        (HEAD + "points:\n  - {method: fastv, retention_ratio: 2}\n", 4, "retention_ratio is 2"),
        # sparsevlm has three shares of its own, so that two layers or one don't fit them
        (HEAD + "grid:\n  - {method: [sparsevlm], layers: [[2, 6, 9], [2, 6]]}\n", 4, "layers is (2, 6) and keep is"),
        (HEAD + "grid:\n  - {method: [sparsevlm], layers: [[3]]}\n", 4, "layers is (3,) and keep is"),
        (HEAD + "base: {tau: 0.7}\nlimit: 2\nbase: {tau: 0.8}\n", 5, "'base' stands twice"),
        (HEAD + "base: {1: 2}\n", 3, "the name 1 is no text"),
        (HEAD + "base: [1\n", 4, "is no YAML"),
        (HEAD + "base: &x\n  tau: *x\n", 3, "names what it stands in"),
        (HEAD + "base: !!python/object:os.system {}\n", 3, "python/object:os.system has no place here"),
        (HEAD + "base: {tau: !!python/name:os.system }\n", 3, "is no YAML"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(tmp_path, text)
    said = str(caught.value)
    assert f"plan.yaml, line {line}" in said and words in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds NoneType"),
        ("- 1\n", "holds list"),
        ("benchmark: mvbench\n", "does not say 'data'"),
        ("data: D\n", "does not say 'benchmark'"),
        (HEAD, "has no points"),
    ],
)
def test_plans_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan(tmp_path, text)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_plan(tmp_path / "none.yaml")


# ---- running ---------------------------------------------------------------------------------------------------------


def test_every_point_is_run_once_with_one_model(tmp_path: Path) -> None:
    stand, told = Stand(), []
    swept = run_sweep(
        plan(tmp_path, SMALL), tmp_path / "out", run_benchmark=stand.run, load=stand.load, tell=told.append
    )
    assert stand.names == swept.ran == list(swept.finished) == SMALL_NAMES
    assert stand.loaded == 1 and stand.models == [("model 1", "processor")] * 4 and not swept.failed
    assert "Point 2 of 4: prunevid,preset=paper" in told
    assert {file.name for file in swept.files} >= {"table.md", "table.csv", "mvbench-light.svg", "mvbench-dark.png"}
    assert swept.sections is not None
    rows = swept.sections[0].rows
    assert rows[0].name == "none" and {row.name for row in rows} == set(SMALL_NAMES)
    assert all(row.difference and row.difference.baseline == "none" for row in rows[1:])


def test_finished_points_are_skipped_and_a_longer_plan_adds_points(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_sweep(plan(tmp_path, SMALL), out, run_benchmark=Stand().run, load=Stand().load, plot=False)
    again = Stand()
    swept = run_sweep(plan(tmp_path, SMALL), out, run_benchmark=again.run, load=again.load, plot=False)
    assert (again.asked, again.loaded) == ([], 0)
    assert swept.ran == [] and list(swept.finished) == SMALL_NAMES and swept.sections is not None
    more = Stand()
    longer = SMALL.replace("[0.3]", "[0.2, 0.3]") + "points: [{method: random, retention_ratio: 0.2}]\n"
    swept = run_sweep(plan(tmp_path, longer), out, run_benchmark=more.run, load=more.load, plot=False)
    assert more.names == ["prunevid,preset=paper,keep_ratio=0.2", "random,retention_ratio=0.2"]
    assert swept.sections is not None and len(swept.sections[0].rows) == 6


def test_an_interrupted_sweep_goes_on_with_the_point_in_hand(tmp_path: Path) -> None:
    out, first = tmp_path / "out", Stand(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan(tmp_path, SMALL), out, run_benchmark=first.run, load=first.load)
    assert first.names == SMALL_NAMES[:3] and not (out / "table.md").exists()
    assert sweeps.states(plan(tmp_path, SMALL), out) == dict(zip(SMALL_NAMES, ("finished", "finished", "begun", "new")))
    second = Stand()
    swept = run_sweep(plan(tmp_path, SMALL), out, run_benchmark=second.run, load=second.load, plot=False)
    assert second.names == SMALL_NAMES[2:] and second.loaded == 1
    assert list(swept.finished) == SMALL_NAMES


def test_a_folder_that_was_taken_away_is_run_again(tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    run_sweep(plan(tmp_path, SMALL), out, run_benchmark=Stand().run, load=Stand().load, plot=False)
    shutil.rmtree(out / SMALL_NAMES[1])
    stand = Stand()
    run_sweep(plan(tmp_path, SMALL), out, run_benchmark=stand.run, load=stand.load, plot=False)
    assert stand.names == [SMALL_NAMES[1]]


def test_a_method_that_cannot_run_is_passed_over(tmp_path: Path) -> None:
    text = HEAD + "grid: {method: [visionzip, random], retention_ratio: [0.2]}\n"
    out, stand = tmp_path / "out", Stand(refuse="visionzip")
    swept = run_sweep(plan(tmp_path, text), out, run_benchmark=stand.run, load=stand.load, plot=False)
    assert stand.names == ["none", "visionzip,retention_ratio=0.2", "random,retention_ratio=0.2"]
    assert swept.failed == {"visionzip,retention_ratio=0.2": "This model has no tower that the method could ask."}
    assert list(swept.finished) == ["none", "random,retention_ratio=0.2"]
    assert sweeps.states(plan(tmp_path, text), out)["visionzip,retention_ratio=0.2"] == "failed"
    again = Stand(refuse="visionzip")
    run_sweep(plan(tmp_path, text), out, run_benchmark=again.run, load=again.load, plot=False)
    assert again.names == ["visionzip,retention_ratio=0.2"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("data: DATAS", "data: DATAS\nlimit: 5"), r"none was run with limit null, but the plan says 5"),
        (("data: DATAS", "data: DATAS\nloading: {dtype: float32}"), "loading"),
        (("mvbench", "videomme"), "benchmark"),
        (("data: DATAS", "data: ELSEWHERE\nloading: {device: cuda}"), None),
    ],
)
def test_a_changed_plan_does_not_mix_other_runs_in(tmp_path: Path, change: tuple[str, str], words: str | None) -> None:
    out = tmp_path / "out"
    run_sweep(plan(tmp_path, SMALL), out, run_benchmark=Stand().run, load=Stand().load, plot=False)
    stand = Stand()
    changed = plan(tmp_path, SMALL.replace(*change))
    if words is None:
        run_sweep(changed, out, run_benchmark=stand.run, load=stand.load, plot=False)
    else:
        with pytest.raises(InputError, match=words):
            run_sweep(changed, out, run_benchmark=stand.run, load=stand.load, plot=False)
    assert stand.asked == []


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for content in ("{", "[]", '{"points": {"none": {}}}'):
        (out / "sweep.json").write_text(content)
        with pytest.raises(InputError, match=r"sweep\.json does not hold the state of a sweep"):
            run_sweep(plan(tmp_path, SMALL), out, run_benchmark=Stand().run, load=Stand().load, plot=False)


def test_other_processes_write_neither_state_nor_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    stand = Stand()
    swept = run_sweep(plan(tmp_path, SMALL), tmp_path / "out", run_benchmark=stand.run, load=stand.load, plot=False)
    assert stand.names == SMALL_NAMES and swept.sections is None and swept.files == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(SMALL_NAMES)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand()
    monkeypatch.setattr(sweeps, "_run_benchmark", made.run)
    monkeypatch.setattr(sweeps, "load_model", made.load)
    return made


def test_the_command(tmp_path: Path, stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    path = plan(tmp_path, SMALL).path
    assert command_line(["eval", "sweep", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"4 points in {tmp_path / 'plan'}:" and [line.split() for line in said[1:]] == [
        ["new", name] for name in SMALL_NAMES
    ]
    assert stand.asked == [] and not (tmp_path / "plan").exists()
    assert command_line(["eval", "sweep", str(path), "--no-plot"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("## MVBench") and "Point 4 of 4" in said.err and "table.csv" in said.err
    assert (tmp_path / "plan" / "table.csv").read_text().count("\n") == 5
    assert command_line(["eval", "sweep", str(path), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == dict.fromkeys(SMALL_NAMES, "finished")
    assert command_line(["eval", "sweep", str(path), "--out", str(tmp_path / "b"), "--json", "--no-plot"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sections"][0]["rows"]) == 4
    assert len(stand.asked) == 8


def test_the_command_tells_of_failures(tmp_path: Path, stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    stand.refuse = "random"
    path = plan(tmp_path, HEAD + "points: [{method: random, retention_ratio: 0.5}]\n").path
    assert command_line(["eval", "sweep", str(path), "--no-plot"]) == 1
    assert "WARNING: random,retention_ratio=0.5 could not run: This model has no tower" in capsys.readouterr().err


def test_without_matplotlib_there_is_still_a_table(
    tmp_path: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command_line(["eval", "sweep", str(plan(tmp_path, SMALL).path)]) == 0
    assert "prunevid[plot]" in capsys.readouterr().err and (tmp_path / "plan" / "table.md").is_file()


def test_example_and_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["eval", "sweep", "--example"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert read_plan(tmp_path / "printed.yaml").points == read_plan(EXAMPLE).points
    assert command_line(["eval", "sweep"]) == 2
    assert "--example" in capsys.readouterr().err
    path = tmp_path / "bad.yaml"
    path.write_text(HEAD + "wrong: 1\n")
    assert command_line(["eval", "sweep", str(path)]) == 2
    err = capsys.readouterr().err
    assert "bad.yaml, line 3" in err and err.count("\n") == 1
    plain = tmp_path / "plan"
    plain.write_text(SMALL)
    assert command_line(["eval", "sweep", str(plain)]) == 2
    assert "is a file" in capsys.readouterr().err


def test_requests_keep_to_their_fields(tmp_path: Path) -> None:
    """Whatever a plan may say of every point is something that a request has."""
    from prunevid.evaluation import plans

    fields = {field.name for field in dataclasses.fields(Request)}
    assert {*plans._COMMON, "tasks", "data", *plans.POINT} <= fields
    assert fields - {*plans._COMMON, "tasks", "data", "out", *plans.POINT} == {"method_options"}
