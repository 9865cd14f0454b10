# SPDX-License-Identifier: Apache-2.0
"""Files that a kill or a full disk never leaves half written: such as are replaced whole, and such as only grow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from prunevid.errors import PruneVidError


def write_files(contents: Mapping[Path, bytes]) -> None:
    """`replace_files`, with the package's error.

    Raises:
        PruneVidError: one can't be written; none was changed, unless it was the renaming that failed.
    """
    try:
        replace_files(contents)
    except OSError as error:
        raise PruneVidError(
            f"{error.filename} can't be written ({error.strerror}); nothing in its place was changed."
        ) from error


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Writes files so that nobody ever finds half a file, and a full disk leaves the old ones as they were.

    All are written under other names first, then renamed one after the other. Their folders are made.

    Raises:
        OSError: one can't be written; its `filename` is the one that was to be there in the end.
    """
    with ExitStack() as aside:
        drafts = {path: aside.enter_context(_draft(path, content)) for path, content in contents.items()}
        for path, draft in drafts.items():
            with _naming(path):
                os.replace(draft, path)


def make_file(path: Path, content: bytes) -> bool:
    """Writes a whole file unless there is one; of several processes the first wins.

    Returns:
        Whether it was written.

    Raises:
        OSError: it can't be written.
    """
    with _draft(path, content) as draft, _naming(path):
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            os.replace(draft, path)
    return True


class Lines:
    """A file of lines that only grows: each one is on the disk when `append` returns.

    Args:
        path: the file; made where it is missing.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def fileno(self) -> int:
        """The file's descriptor, for a lock on it."""
        return self._file

    def mend(self) -> None:
        """Cuts off what a kill left behind the last line end, so that every line is whole.

        Raises:
            OSError: the disk is full.
        """
        whole = self._whole()
        if whole != os.lseek(self._file, 0, os.SEEK_END):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)

    def append(self, line: bytes) -> None:
        """Writes one line, with its line end, behind the others.

        Raises:
            OSError: it could not be written, and the file is as it was before.
        """
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            _put(self._file, line)
        except OSError:
            with suppress(OSError):  # a part of the line may be there; the next `mend` would cut it off as well
                os.ftruncate(self._file, end)
            raise

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _whole(self) -> int:
        """Bytes of the file up to its last line end."""
        end = os.lseek(self._file, 0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            os.lseek(self._file, start, os.SEEK_SET)
            found = os.read(self._file, end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0


def _put(file: int, content: bytes) -> None:
    """Writes all of it, to the disk."""
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)


@contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    """The content in a file of another name, on the disk; taken away in the end if it still has that name."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _put(file, content)
            finally:
                os.close(file)
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets an error name the file that was to be there in the end."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
