# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval judge`: what it prints, its exit status, and that the key stays where it is."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from evaluation.judge_server import Server, fails, generic, pair, says, temporal, write_run
from prunevid.cli import run
from prunevid.evaluation.judging import endpoint
from prunevid.evaluation.runs import ANSWERS, RESULTS

SECRET = "sk-very-secret-0123456789"
pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PRUNEVID_JUDGE_BASE_URL", "PRUNEVID_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRUNEVID_JUDGE_API_KEY", SECRET)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [generic(), temporal(), *pair()])


def calls(folder: Path, *more: str) -> list[str]:
    return ["eval", "judge", str(folder), *more]


def test_it_judges_and_says_who_did(folder: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(calls(folder, "--judge-model", "judge-1", "--base-url", server.url)) == 0
    out = capsys.readouterr().out
    assert f"Judge: judge-1 (reports: judge-1-0125) at {server.url}, temperature 0; replies from 20" in out
    assert "Macro mean of the five aspects (the papers' average): 4.00; micro mean of all 5 judged items" in out
    assert "Consistency: prunevid; wording: prunevid; requests now: 5, tokens now: 60." in out
    assert "STUB" not in out


def test_json_is_what_results_hold(folder: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--json",
        "--consistency",
        "fixed",
        "--wording",
        "original",
        "--temperature",
        "0.5",
        "--concurrency",
        "2",
    )
    assert run(calls(folder, "--judge-model", "judge-1", "--base-url", server.url, *options)) == 0
    part = json.loads(capsys.readouterr().out)
    assert part == json.loads((folder / RESULTS).read_text(encoding="utf-8"))["judge"]
    assert (part["consistency"], part["wording"], part["judge"]["temperature"]) == ("fixed", "original", 0.5)
    assert {body["temperature"] for body in server.bodies} == {0.5}


@pytest.mark.parametrize("variable", ["PRUNEVID_JUDGE_BASE_URL", "OPENAI_BASE_URL"])
def test_judge_and_address_from_the_environment(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("PRUNEVID_JUDGE_MODEL", "judge-7")
    monkeypatch.setenv(variable, server.url)
    assert run(calls(folder)) == 0
    assert {body["model"] for body in server.bodies} == {"judge-7"}
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("as_json", [True, False])
def test_the_stub_says_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    assert run(calls(folder, "--stub", *["--json"] * as_json)) == 0
    out = capsys.readouterr().out
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    assert "not a judge" in out and list(results) == ["judge_stub"]
    if as_json:
        assert json.loads(out) == results["judge_stub"] and results["judge_stub"]["stub"] is True
    else:
        assert "STUB" in out and "stub score" in out and "Macro stub mean" in out and "micro stub mean" in out


def test_the_key_is_nowhere(folder: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda body, number: says("{'score': 1}") if number < 3 else fails(400, f"bad key {SECRET}")
    options = ("--judge-model", "judge-1", "--base-url", server.url, "--concurrency", "1", "--debug")
    assert run(calls(folder, *options)) == 1
    printed = capsys.readouterr()
    assert "bad key ***" in printed.err and "Traceback" in printed.err
    assert SECRET not in printed.out + printed.err
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"judge-1-0125" in kept and SECRET.encode() not in kept


def test_nobody_there_keeps_the_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / ANSWERS).read_bytes()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(endpoint, "LONGEST_PAUSE", 0.0)
            assert run(calls(folder, "--judge-model", "judge-1", "--base-url", url)) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"prunevid: The judge at {url} can't be reached (") and message.count("\n") == 1
    assert "run the command again to go on" in message
    assert (folder / ANSWERS).read_bytes() == before


def test_a_spent_budget_is_said_and_taken_up(folder: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--judge-model", "judge-1", "--base-url", server.url)
    assert run(calls(folder, *options, "--budget-requests", "2")) == 1
    printed = capsys.readouterr()
    assert "requests now: 2" in printed.out and "(the papers' average): -" in printed.out
    assert printed.err == (
        "prunevid: 3 of 5 items are not judged, since the budget of 2 requests is spent; run the command again to go "
        "on.\n"
    )
    assert run(calls(folder, *options, "--budget-tokens", "1000")) == 0
    assert len(server.bodies) == 5


def test_half_a_pair_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(calls(write_run(tmp_path, [temporal(), pair()[0]]), "--stub")) == 0
    assert "has no answer yet: consistency/5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "No judge is named; give --judge-model, or --stub"),
        (["--judge-model", "j", "--base-url", "nowhere"], "--base-url"),
        (["--stub", "--consistency", "other"], "'other'"),
        (["--stub", "--wording", "other"], "'other'"),
        (["--stub", "--concurrency", "0"], "0 requests at once"),
        (["--stub", "--budget-requests", "-1"], "-1"),
        (["--judge-model", "j", "--timeout", "0"], "0"),
    ],
)
def test_wrong_use(folder: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(calls(folder, *options)) == 2
    assert words in capsys.readouterr().err
    assert not (folder / RESULTS).exists()


def test_no_run_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(calls(tmp_path, "--stub")) == 2
    assert "holds no run" in capsys.readouterr().err
    monkeypatch.delenv("PRUNEVID_JUDGE_API_KEY")
    assert run(calls(tmp_path, "--judge-model", "j")) == 2
    assert "set PRUNEVID_JUDGE_API_KEY or OPENAI_API_KEY" in capsys.readouterr().err
