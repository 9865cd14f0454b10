# SPDX-License-Identifier: Apache-2.0
"""Every reply of a judge, kept in the run's folder, so that nothing is paid for twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from prunevid.errors import InputError
from prunevid.evaluation.judging.asking import Identity, Said
from prunevid.evaluation.judging.cases import Case
from prunevid.evaluation.judging.replies import read_reply
from prunevid.files import Lines

REPLIES, STUB_REPLIES = "judge.jsonl", "judge-stub.jsonl"

Question = tuple[str, str, float | None, bool, str]


@dataclass(frozen=True)
class Kept:
    """One reply: a line of judge.jsonl.

    Attributes:
        key, aspect: of the case that was asked about; a reply serves every case with the same messages.
        model: as it was asked for.
        reported_model: as the endpoint reported it; None where it did not.
        endpoint, temperature, stub: see `prunevid.evaluation.judging.asking.Identity`.
        date: when the reply came, in UTC, as ISO 8601.
        messages_sha256: see `prunevid.evaluation.judging.cases.Case.messages_hash`.
        reply: whole.
        score, reason: what was read in it, for those who read the file; scoring reads the reply anew.
        prompt_tokens, completion_tokens, total_tokens: as the endpoint counted them.
    """

    key: str
    aspect: str
    model: str
    reported_model: str | None
    endpoint: str
    temperature: float | None
    stub: bool
    date: str
    messages_sha256: str
    reply: str
    score: float | None
    reason: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None

    @property
    def question(self) -> Question:
        """All that the reply depends on."""
        return (self.model, self.endpoint, self.temperature, self.stub, self.messages_sha256)


def question_of(identity: Identity, case: Case) -> Question:
    """All that a judge's reply to a case depends on."""
    return (identity.model, identity.endpoint, identity.temperature, identity.stub, case.messages_hash)


def kept(identity: Identity, case: Case, said: Said) -> Kept:
    """A reply that came just now."""
    reading = read_reply(said.text)
    return Kept(
        key=case.key,
        aspect=case.aspect,
        model=identity.model,
        reported_model=said.model,
        endpoint=identity.endpoint,
        temperature=identity.temperature,
        stub=identity.stub,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        messages_sha256=case.messages_hash,
        reply=said.text,
        score=reading.score,
        reason=reading.reason,
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        total_tokens=said.total_tokens,
    )


class Replies:
    """The replies of one file by what was asked, in the order in which they came. Get one from `replies_in`."""

    def __init__(self, lines: Lines, path: Path) -> None:
        self._lines, self._path = lines, path
        self._lock = threading.Lock()
        self._found: dict[Question, list[Kept]] = {}
        self._read()

    def of(self, question: Question) -> tuple[Kept, ...]:
        """The replies to one question so far."""
        with self._lock:
            return tuple(self._found.get(question, ()))

    def add(self, reply: Kept) -> None:
        """Keeps a reply: it is on the disk when this returns.

        Raises:
            InputError: it can't be written; the file is as it was.
        """
        line = json.dumps(dataclasses.asdict(reply), ensure_ascii=True, sort_keys=True).encode("ascii") + b"\n"
        with self._lock:
            with _told(self._path):
                self._lines.append(line)
            self._found.setdefault(reply.question, []).append(reply)

    def _read(self) -> None:
        """Reads the file; a last line that was cut off while it was written is taken away."""
        with _told(self._path):
            self._lines.mend()
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            try:
                reply = Kept(**json.loads(line))
                self._found.setdefault(reply.question, []).append(reply)
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{self._path}, line {number}, is damaged ({error}); remove the line to ask again."
                ) from error


@contextlib.contextmanager
def replies_in(folder: Path, *, stub: bool) -> Iterator[Replies]:
    """Opens the replies of a run's folder, for this process alone. Those of the stub have a file of their own.

    Raises:
        InputError: the file can't be opened, is damaged (which line), or another process is judging.
    """
    path = folder / (STUB_REPLIES if stub else REPLIES)
    try:
        lines = Lines(path)
    except OSError as error:
        raise InputError(f"{path} can't be opened ({error.strerror}).") from error
    with lines:
        _claim(lines, path)
        yield Replies(lines, path)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says in one sentence what a write failed at."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}); the replies before are kept: make room and run the command "
            "again to go on."
        ) from error


def _claim(lines: Lines, path: Path) -> None:
    """Locks the file until it is closed, where the system can."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"Another process is judging into {path}; wait for it to end.") from None
    except OSError:
        return  # file systems without locks
