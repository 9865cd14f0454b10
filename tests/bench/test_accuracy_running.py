# SPDX-License-Identifier: Apache-2.0
"""Runs: stopped and gone on with, grown, refused; and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.small import small
from prunevid.bench.accuracy import running
from prunevid.bench.accuracy.clips import Choice, Examiner
from prunevid.bench.accuracy.entries import UNPRUNED, Entry
from prunevid.bench.accuracy.plans import parse_spec
from prunevid.bench.accuracy.running import ANSWERS, SETTINGS, Request, read_run, run
from prunevid.builtin.checkpoint import export
from prunevid.builtin.model import build_model
from prunevid.cli import app
from prunevid.cli import run as run_command
from prunevid.errors import ConfigError, InputError

ENTRIES = (
    Entry(UNPRUNED, UNPRUNED),
    Entry("no video", "no video"),
    Entry("keep all", "keep all", layer=1),
    Entry("fastv", "method", "fastv", {"layer": 2}, 0.1, layer=1),
    Entry("random", "random", retention=0.1, layer=1),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the embedded model, as a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    export(build_model(), path)
    return path


@pytest.fixture
def request_of(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes requests, which the small model answers."""
    monkeypatch.setattr(
        running, "_examiner", lambda request: Examiner(*small(), request.entries, request.choice), raising=True
    )

    def made(out: Path | None, clips: int = 3, **changes: object) -> Request:
        request = Request("main", ENTRIES, Choice("dev", per_clip=2), clips, weights=weights, out=out)
        return dataclasses.replace(request, **changes)

    return made


def test_a_run_that_was_killed_goes_on_to_the_same_answers(request_of, tmp_path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = run(request_of(whole))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(request_of(parts), stop)
    kept = (parts / ANSWERS).read_bytes()
    assert kept.count(b"\n") == 1
    (parts / ANSWERS).write_bytes(kept + b'{"clip": 1, "quest')  # half a line, as a kill leaves it
    told: list[tuple[int, int]] = []
    second = run(request_of(parts), lambda *counts: told.append(counts))
    assert told == [(2, 3), (3, 3)]
    assert (parts / ANSWERS).read_bytes() == (whole / ANSWERS).read_bytes()
    assert second.records == first.records == read_run(parts).records


def test_more_clips_can_be_asked_for_later(request_of, tmp_path) -> None:
    run(request_of(tmp_path, 1))
    before = (tmp_path / ANSWERS).read_bytes()
    assert [record["clip"] for record in run(request_of(tmp_path, 2)).records] == [0, 1]
    assert (tmp_path / ANSWERS).read_bytes().startswith(before)
    told: list[int] = []
    shown = run(request_of(tmp_path, 1), lambda done, total: told.append(done))
    assert [record["clip"] for record in shown.records] == [0] and not told


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entries": ENTRIES[:3]}, "entries"),
        ({"choice": Choice("test", per_clip=2)}, "choice"),
        ({"plan": "stage1"}, "plan"),
        ({"device": "cuda"}, "device"),
    ],
)
def test_another_run_s_folder_is_refused(request_of, tmp_path, changes: dict, says: str) -> None:
    run(request_of(tmp_path, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=rf"other settings \({says}\)"):
        run(request_of(tmp_path, 1, **changes))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_weights_are_other_settings(request_of, weights: Path, tmp_path) -> None:
    run(request_of(tmp_path / "run", 1))
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"\(weights\)"):
        run(request_of(tmp_path / "run", 1, weights=other))


def test_damaged_and_missing_files_are_named(request_of, tmp_path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path)
    run(request_of(tmp_path, 1))
    (tmp_path / ANSWERS).write_text("{}\n")
    with pytest.raises(InputError, match="line 1, is damaged"):
        run(request_of(tmp_path, 1))
    (tmp_path / SETTINGS).write_text("[")
    with pytest.raises(InputError, match="does not hold the settings"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="no file of weights"):
        run(request_of(tmp_path / "new", 1, weights=tmp_path / "none"))
    with pytest.raises(ConfigError, match="at least 1"):
        request_of(tmp_path, 0)


def test_without_a_folder_nothing_stays(request_of, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.tempfile, "tempdir", str(tmp_path))
    assert len(run(request_of(None, 1)).records) == 1
    assert not list(tmp_path.iterdir())


def test_specs() -> None:
    assert parse_spec("fastv") == ("fastv", "fastv", {})
    assert parse_spec("fastv:keep=0.5;layer=2") == ("fastv:keep=0.5;layer=2", "fastv", {"keep": 0.5, "layer": 2})
    title, method, options = parse_spec("mine = prunevid: enable_stage1=false; token_order=merged")
    assert (title, method, options) == ("mine", "prunevid", {"enable_stage1": False, "token_order": "merged"})
    for wrong in ("fastw", "fastv:keep", "fastv:keeps=1"):
        with pytest.raises(ConfigError):
            parse_spec(wrong)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_s_json_and_files(request_of, weights: Path, tmp_path) -> None:
    arguments = ["bench", "accuracy", "--methods", "fastv,mine=prunevid:tau=0.7", "--retention", "0.2", "--clips", "2"]
    arguments += ["--draws", "1", "--layer", "1", "--split", "dev", "--workers", "1", "--questions", "what,when"]
    arguments += ["--weights", str(weights), "--no-plot", "--json", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "out" / "results.json").read_text())
    names = {point["name"] for point in found["points"]}
    assert {"unpruned", "no video", "keep all", "fastv", "mine", "swapped question (fastv)", "oracle"} <= names
    assert set(found["questions"]) <= {"all", "when", *("color_of", "shape_of", "small_color", "small_shape")} | {
        "joint_color",
        "joint_shape",
    }
    keep_all = next(point for point in found["points"] if point["name"] == "keep all")
    assert keep_all["identical"] and keep_all["differs"] == 0
    again = CliRunner().invoke(app, [part for part in arguments if part != "--json"])
    assert again.exit_code == 0 and "| fastv " in again.stdout
    before = (tmp_path / "out" / "table.md").read_bytes()
    read = CliRunner().invoke(
        app, ["bench", "accuracy", "--read", str(tmp_path / "out"), "--against", "fastv", "--no-plot"]
    )
    assert read.exit_code == 0 and "to fastv" in read.stdout
    assert (tmp_path / "out" / "table.md").read_bytes() != before


def test_the_command_lists_kinds() -> None:
    done = CliRunner().invoke(app, ["bench", "accuracy", "--questions", "list"])
    assert done.exit_code == 0 and "order: order_color, order_shape, after" in done.stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--plan", "all"], "'all' is no plan"),
        (["--retention", "ten"], "'ten' is no list of numbers"),
        (["--questions", "why"], "'why' is no kind"),
        (["--methods", "fastv", "--plan", "stage1"], "give one of them"),
        (["--methods", "none"], "'none' is the unpruned model"),
        (["--split", "train"], "split is 'train'"),
        (["--layer", "11"], "layer is 11"),
        (["--clips", "0"], "clips is 0"),
        (["--weights", "nowhere"], "no file of weights"),
        (["--read", "nowhere"], "holds no run"),
    ],
)
def test_wrong_use_is_named(more: list[str], says: str, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [] if "--weights" in more else ["--weights", str(weights)]
    assert run_command(["bench", "accuracy", *given, *more]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_processes_share_the_clips_and_give_the_same_answers(weights: Path, tmp_path) -> None:
    request = Request("main", ENTRIES, Choice("dev", per_clip=2), 3, weights=weights, out=tmp_path / "one")
    run(request)
    run(dataclasses.replace(request, workers=2, out=tmp_path / "two"))
    assert (tmp_path / "one" / ANSWERS).read_bytes() == (tmp_path / "two" / ANSWERS).read_bytes()
