# SPDX-License-Identifier: Apache-2.0
"""Writing a run's files; what goes wrong is said in a sentence that tells how the run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from prunevid.errors import InputError, StoppedError
from prunevid.evaluation.runs import Record
from prunevid.files import Lines, make_file, replace_files


class Journal:
    """A file of answers that only grows: each one is on the disk when `append` returns.

    What a kill left behind the last line end is cut off when the file is opened, so every line of it is whole.

    Args:
        path: the file; made where it is missing.

    Raises:
        InputError: the file can't be opened.
        StoppedError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lines = Lines(path)
        except OSError as error:
            raise InputError(f"{path} can't be written ({error.strerror}); give another folder.") from error
        with _told(path):
            self._lines.mend()

    def append(self, record: Record) -> None:
        """Writes one record.

        Raises:
            StoppedError: it could not be written, and the file is as it was before.
        """
        with _told(self.path):
            # Half of a surrogate pair, which an annotation may hold, becomes JSON's own escape.
            self._lines.append(record.line().encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that others see either whole or not at all.

    Raises:
        StoppedError: it could not be written; what was there is still there.
    """
    with _told(path):
        replace_files({path: content})


def write_json(path: Path, value: Mapping[str, Any], *, fresh: bool = False) -> bool:
    """`write_whole` of a JSON document for people to read.

    Args:
        fresh: leave a file alone that is there already; of several processes the first wins.

    Returns:
        Whether it was written.
    """
    content = (json.dumps(value, indent=2) + "\n").encode()
    if fresh:
        with _told(path):
            return make_file(path, content)
    write_whole(path, content)
    return True


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says in one sentence what a write failed at."""
    try:
        yield
    except OSError as error:
        raise StoppedError(
            f"{path} can't be written ({error.strerror or error}); all answers before this one are kept: make room, "
            "and give the same command again to go on."
        ) from error
