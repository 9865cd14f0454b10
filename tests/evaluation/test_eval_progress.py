# SPDX-License-Identifier: Apache-2.0
"""What a run tells while it goes."""

from __future__ import annotations

from typing import Any

import pytest

from prunevid.evaluation.progress import Progress
from prunevid.evaluation.runs import Record


def record(correct: bool | None = None, error: str | None = None) -> Record:
    return Record(key="k", task="t", video="v", question="q", correct=correct, error=error)


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_now_and_then_with_rate_time_left_and_accuracy() -> None:
    clock, told = Clock(), list[str]()
    before = [record(True), record(False), record(error="broken")]
    with Progress(7203, before, told.append, every=30.0, clock=clock) as progress:
        for correct in (True, True, False):
            clock.now += 10.0
            progress.add(record(correct))
        assert told == ["6 of 7203 questions: 0.10 a second, 19:59:30 left, 60.0 % right, 1 error"]
        clock.now += 29.0
        progress.add(record(True))
        assert len(told) == 1
        clock.now += 1.0
        progress.add(record(error="broken"))
        assert len(told) == 2 and told[1].startswith("8 of 7203 questions: 12 s each, ")
    assert len(told) == 3 and told[-1].endswith("66.7 % right, 2 errors")


def test_open_questions_have_no_accuracy_and_nothing_new_is_no_line() -> None:
    clock, told = Clock(), list[str]()
    with Progress(2, [record()], told.append, clock=clock):
        pass
    assert told == []
    with Progress(2, [record()], told.append, clock=clock) as progress:
        clock.now += 0.5
        progress.add(record())
    assert told == ["2 of 2 questions: 2.00 a second, 0:00:00 left"]


@pytest.mark.parametrize("listening", [True, False])
def test_a_bar_on_stderr_takes_the_lines_place(listening: bool, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    tell: Any = told.append if listening else None
    with Progress(2, [], tell, bar=True, every=0.0) as progress:
        progress.add(record(True))
        progress.add(record(False))
    out, err = capsys.readouterr()
    assert told == [] and out == ""
    assert ("2/2" in err and "50.0 % right" in err) if listening else err == ""
