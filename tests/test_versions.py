# SPDX-License-Identifier: Apache-2.0
"""The script behind `make test-matrix`: what it asks pip for, what it reads, when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import versions

REPORT = """<?xml version="1.0"?><testsuites><testsuite tests="9" failures="2" errors="1" skipped="3" time="4.5">
<testcase name="one"/></testsuite></testsuites>"""


def test_old_versions_come_with_the_torch_that_they_are_tested_with() -> None:
    assert versions.requirements("5.17.0")[-3:] == ["transformers==5.17.0", "torch==2.11.0", "torchvision==0.26.0"]
    assert versions.requirements("5.99.1")[-1] == "transformers==5.99.1"
    newest = versions.requirements("newest")
    assert newest[:2] == ["-c", "constraints.txt"] and not any("==" in name for name in newest)


def test_a_report_is_counted(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert versions.read(tmp_path / "report.xml") == (3, 3, 3, 4.5)


@pytest.mark.parametrize(
    ("codes", "expected"), [({"a": 0, "b": 0}, 0), ({"a": 1, "b": 0}, 1), ({"a": 0, "b": 3}, 1)], ids=str
)
def test_any_failure_fails_the_whole(codes: dict[str, int], expected: int, capsys: Any) -> None:
    seen: list[Any] = []

    def run(version: str, python: str, arguments: Sequence[str]) -> versions.Result:
        seen.append((version, python, list(arguments)))
        return versions.Result("3.11.7", "2.11.0", version, 7, 0, 1, 3.2, codes[version])

    assert versions.main(["a", "b", "--python", "snake", "--pytest", "-n 2 -m 'not slow'"], run) == expected
    assert seen == [(version, "snake", ["-n", "2", "-m", "not slow"]) for version in "ab"]
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in shown[-2:]] == ["a", "b"]
    assert all(("pytest ended with" in line) == bool(code) for line, code in zip(shown[-2:], codes.values()))


def test_all_versions_run_by_default() -> None:
    seen: list[str] = []

    def run(version: str, python: str, arguments: Sequence[str]) -> versions.Result:
        seen.append(version)
        return versions.Result("3.11.7", "2.11.0", version, 7, 0, 1, 3.2, 0)

    assert versions.main([], run) == 0
    assert tuple(seen) == versions.DEFAULT
