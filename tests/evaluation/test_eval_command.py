# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval BENCHMARK` from the files to the scores, with the embedded model on small made-up benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import prunevid.builtin
from evaluation.asking import embedded, forked, lines, timeless, wait_for
from evaluation.fixtures import write_data
from prunevid.evaluation.benchmarks import load_items
from prunevid.evaluation.command import run_benchmark
from prunevid.evaluation.distributed import Place
from prunevid.evaluation.items import Item
from prunevid.evaluation.protocols import PaperProtocol
from prunevid.evaluation.request import Request
from prunevid.evaluation.runner import by_clip
from prunevid.evaluation.runs import Run, parts_of, read_run
from prunevid.evaluation.scores import score

TASKS = ("Action Sequence", "Object Existence", "Episodic Reasoning")  # a bound, a file, a folder of pictures
QUESTIONS = {"mvbench": 6, "videomme": 6, "egoschema": 3, "vcgbench": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("DATAS"))


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunevid.builtin, "load", lambda **_: embedded())


def arguments(benchmark: str, data: Path, out: Path) -> list[str]:
    tasks = [part for task in TASKS for part in ("--task", task)] if benchmark == "mvbench" else []
    return ["eval", benchmark, "--data", str(data), "--out", str(out), *tasks]


@pytest.mark.parametrize("protocol", ["paper", "lmms"])
@pytest.mark.parametrize("benchmark", QUESTIONS)
def test_a_benchmark_is_run_scored_and_not_run_again(
    benchmark: str, protocol: str, data: Path, tmp_path: Path, cli: Any
) -> None:
    out = tmp_path / "run"
    given = [*arguments(benchmark, data, out), "--protocol", protocol, "--frames", "8", "--max-new-tokens", "4"]
    given += ["--subtitles"] if benchmark == "videomme" else []
    status, shown, told = cli(*given)
    assert status == 0, told
    found = read_run(out)
    assert len(found.records) == QUESTIONS[benchmark] == lines(out / "answers.jsonl")
    assert all(record.error is None and record.stats for record in found.records.values())
    assert (found.settings.benchmark, found.settings.protocol, found.settings.frames) == (benchmark, protocol, 8)
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(json.dumps(score(benchmark, found.records.values())))
    assert f"{QUESTIONS[benchmark]} of {QUESTIONS[benchmark]} questions" in told and str(out) in shown.replace("\n", "")
    assert (f"prunevid eval judge {out}" in shown.replace("\n", "")) == (benchmark == "vcgbench")
    assert (out / "submission.json").exists() == ("validate.py" in shown) == (benchmark == "egoschema")
    before = (out / "answers.jsonl").read_bytes()
    status, shown, told = cli(*given, "--json")
    assert status == 0 and f"{QUESTIONS[benchmark]} of {QUESTIONS[benchmark]} questions are answered already" in told
    assert json.loads(shown)["results"] == results and (out / "answers.jsonl").read_bytes() == before


def test_what_is_missing_is_counted_and_named(data: Path, tmp_path: Path, cli: Any) -> None:
    few = write_data(tmp_path / "DATAS", ["egoschema"], per_task=1)
    clips = sorted((few / "ego_schema" / "videos").iterdir())
    aside = clips[0].rename(tmp_path / clips[0].name)
    given = [*arguments("egoschema", few, tmp_path / "run"), "--max-new-tokens", "1"]
    status, shown, _ = cli(*given)
    assert status == 0 and "1 questions could not be asked" in shown and clips[0].name in shown
    aside.rename(clips[0])
    assert "could not be asked" in cli(*given)[1]
    status, shown, _ = cli(*given, "--retry-errors")
    assert status == 0 and "could not be asked" not in shown
    for clip in clips:
        clip.unlink()
    given[given.index(str(tmp_path / "run"))] = str(tmp_path / "other")
    assert cli(*given)[0] == 1  # nothing at all was asked


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--frames", "7"], "frames is 8 there and 7 now"),
        (["--method", "none"], 'method is "prunevid" there and "none" now'),
        (["--setting", "keep_ratio=0.3"], "options.config.keep_ratio is 0.4 there and 0.3 now"),
        (["--limit", "2"], "options_of_benchmark.limit is null there and 2 now"),
        (["--setting", "keep_ratio"], "must be NAME=VALUE"),
        (["--protocol", "mine"], "'mine'"),
        (["--task", "Nothing"], "no task 'Nothing'"),
        (["--subtitles"], "only videomme has"),
        (["--device-map", "auto"], "device_map is nothing that the embedded model takes"),
        (["--data", "nowhere"], "no folder nowhere"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(
    more: list[str], sentence: str, egoschema: tuple[Path, Path], cli: Any
) -> None:
    data, out = egoschema
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir())
    status, shown, told = cli(*arguments("egoschema", data, out), "--frames", "8", "--max-new-tokens", "1", *more)
    assert (status, shown) == (2, "") and sentence in told and told.splitlines()[-1].startswith("prunevid: ")
    assert sorted((path.name, path.read_bytes()) for path in out.iterdir()) == before


@pytest.fixture(scope="module")
def egoschema(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data and a run's folder."""
    out = tmp_path_factory.mktemp("runs") / "egoschema"
    run_benchmark(Request("egoschema", data, out, frames=8, max_new_tokens=1), embedded())
    return data, out


def request(data: Path, out: Path) -> Request:
    return Request("mvbench", data, out, tasks=TASKS, frames=8, max_new_tokens=4)


def same(one: Run, two: Run) -> bool:
    """The same answers, but for their times, the same settings and the same scores."""
    answers = [[timeless(found.records[key]) for key in sorted(found.records)] for found in (one, two)]
    scores = [(found.folder / "results.json").read_bytes() for found in (one, two)]
    return answers[0] == answers[1] and scores[0] == scores[1] and one.settings == two.settings


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_accelerate_finishes_what_two_processes_began_of_which_one_was_killed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = run_benchmark(request(data, tmp_path / "single"), embedded())
    several, items = tmp_path / "several", load_items("mvbench", data, tasks=TASKS)

    def work(place: Place) -> None:
        read = PaperProtocol.read

        def waiting(self: Any, item: Item, *rest: Any) -> Any:
            while item.key == stop_at:
                time.sleep(0.01)
            return read(self, item, *rest)

        PaperProtocol.read = waiting  # type: ignore[method-assign]
        run_benchmark(request(data, several), embedded(), place=place)

    groups = [[item.key for item in group] for group in by_clip(items)]
    mine = [key for group in groups[1::2] for key in group]
    stop_at = mine[-1]
    children = [forked(partial(work, Place(rank, 2))) for rank in range(2)]
    wait_for(lambda: lines(several / Place(1, 2).file) == len(mine) - 1)
    os.kill(children[1], signal.SIGKILL)
    os.waitpid(children[1], 0)
    assert os.waitpid(children[0], 0)[1] != 0
    assert len(read_run(several).records) == len(items) - 1 and not (several / "results.json").exists()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
            *("-m", "prunevid", *arguments("mvbench", data, several)),
            *("--frames", "8", "--max-new-tokens", "4", "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(several)  # printed once
    found = read_run(several)
    assert same(found, single) and parts_of(several) == []
    assert list(found.records) == [item.key for item in items]
