# SPDX-License-Identifier: Apache-2.0
"""Progress of reading a clip: a bar on a terminal for work over two seconds, a callback, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

ProgressOption = Callable[[int, int], object] | Literal[False] | None
_PATIENCE = 2.0  # seconds before a bar appears


class Reporter:
    """Tells the user how far the reading is; a context manager that removes its bar at the end.

    Args:
        option: None for a bar on standard error (only if that is a terminal, and only after two seconds), False
            for nothing, or a callable that gets (frames done, frames wanted) after every frame.
        label: what is being read.
    """

    def __init__(self, option: ProgressOption, label: str) -> None:
        self._callback = option if callable(option) else None
        self._automatic = option is None and sys.stderr is not None and sys.stderr.isatty()
        self._label = label
        self._began = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._done = 0
        self._total: int | None = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, total: int) -> None:
        """From here on `total` frames are being fetched."""
        self._done, self._total = 0, total
        self.tick()

    def step(self) -> None:
        """One more frame is there."""
        self._done += 1
        if self._callback is not None and self._total is not None:
            self._callback(self._done, self._total)
        self.tick()

    def tick(self) -> None:
        """Something was done that gives no frame: shows the bar when it is due."""
        if not self._automatic or (self._bar is None and time.monotonic() - self._began < _PATIENCE):
            return
        if self._bar is None:
            self._bar, self._task = _make_bar(self._label)
        if self._task is not None:
            self._bar.update(self._task, completed=self._done, total=self._total)


def _make_bar(label: str) -> tuple[Bar, TaskID]:
    """A running bar on standard error; rich is imported only now because most clips never show one."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    bar = Bar(console=Console(stderr=True), transient=True)
    task = bar.add_task(f"Reading {label}", total=None)
    bar.start()
    return bar, task
