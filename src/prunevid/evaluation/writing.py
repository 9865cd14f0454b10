# SPDX-License-Identifier: Apache-2.0
"""Writing a run's files so that a kill or a full disk at any moment leaves them readable."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from prunevid.errors import InputError, StoppedError
from prunevid.evaluation.runs import Record


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
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{path} can't be written ({error.strerror}); give another folder.") from error
        with _told(path):
            self._length = _whole_lines(self._file)
            os.ftruncate(self._file, self._length)
            os.fsync(self._file)

    def append(self, record: Record) -> None:
        """Writes one record.

        Raises:
            StoppedError: it could not be written, and the file is as it was before.
        """
        # Half of a surrogate pair, which an annotation may hold, becomes JSON's own escape.
        line = record.line().encode("utf-8", "backslashreplace")
        with _told(self.path):
            try:
                os.lseek(self._file, self._length, os.SEEK_SET)
                _write_all(self._file, line)
                os.fsync(self._file)
            except OSError:
                with suppress(OSError):  # a part of the line may be there; the next opening would cut it off as well
                    os.ftruncate(self._file, self._length)
                raise
        self._length += len(line)

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_whole(path: Path, content: bytes, *, fresh: bool = False) -> bool:
    """Writes a file that others see either whole or not at all.

    Args:
        fresh: leave a file alone that is there already.

    Returns:
        Whether it was written.

    Raises:
        StoppedError: it could not be written; what was there is still there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with _told(path):
        try:
            file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _write_all(file, content)
                os.fsync(file)
            finally:
                os.close(file)
            return _put(aside, path, fresh)
        finally:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any], *, fresh: bool = False) -> bool:
    """`write_whole` of a JSON document for people to read."""
    return write_whole(path, (json.dumps(value, indent=2) + "\n").encode(), fresh=fresh)


def _put(aside: Path, path: Path, fresh: bool) -> bool:
    """Gives a file its name; where the name must be new, the first of several processes wins."""
    if not fresh:
        os.replace(aside, path)
        return True
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        os.replace(aside, path)
    return True


def _whole_lines(file: int) -> int:
    """Bytes of a file up to its last line end."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        os.lseek(file, start, os.SEEK_SET)
        found = os.read(file, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


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
