# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar for somebody who watches, a line now and then for a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from prunevid.evaluation.runs import Record

EVERY = 30.0  # seconds between two lines


class Progress:
    """Counts records and tells of them.

    Args:
        total: questions in all.
        recorded: what was answered before.
        tell: is given the lines; None: nothing is told.
        bar: draw a bar on stderr instead of telling lines.
        every: seconds between two lines.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        recorded: Iterable[Record] = (),
        tell: Callable[[str], None] | None = None,
        *,
        bar: bool = False,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.new = total, 0, 0
        self.right = self.judged = self.errors = 0
        for record in recorded:
            self._count(record)
        self._tell, self._every, self._clock = tell, every, clock
        self._started = self._told = clock()
        self._bar: Any = None
        self._task: Any = None
        if bar and tell is not None:
            self._bar = _bar()
            self._task = self._bar.add_task("", total=total, completed=self.done, note=self.note())

    def add(self, record: Record) -> None:
        """Counts one record that was just written."""
        self._count(record)
        self.new += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self.note())
        elif self._tell is not None and self._clock() - self._told >= self._every:
            self._told = self._clock()
            self._tell(self.line())

    def note(self) -> str:
        """Rate, time that is left, and accuracy so far: "2.10 a second, 0:31:12 left, 54.2 % right, 3 errors"."""
        parts = []
        spent = self._clock() - self._started
        if self.new and spent > 0:
            rate = self.new / spent
            parts.append(f"{rate:.2f} a second" if rate >= 0.1 else f"{1 / rate:.0f} s each")
            parts.append(f"{_time((self.total - self.done) / rate)} left")
        if self.judged:
            parts.append(f"{100 * self.right / self.judged:.1f} % right")
        if self.errors:
            parts.append(f"{self.errors} errors" if self.errors > 1 else "1 error")
        return ", ".join(parts)

    def line(self) -> str:
        """One line for a log."""
        note = self.note()
        return f"{self.done} of {self.total} questions" + (f": {note}" if note else "")

    def _count(self, record: Record) -> None:
        self.done += 1
        self.errors += record.error is not None
        self.judged += record.correct is not None
        self.right += record.correct is True

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._tell is not None and self.new:
            self._tell(self.line())


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    return Bar(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True))


def _time(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
