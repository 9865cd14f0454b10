# SPDX-License-Identifier: Apache-2.0
"""One run on several processes, as `accelerate launch -m prunevid eval ...` starts them.

A launcher tells each process its place by environment variables; that is all that is taken from it. Every process asks
about clips of its own and writes a file of its own, and the main one waits for the others and merges. They meet in the
run's folder alone, which all of them must see, so none waits inside a collective operation for one that died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.errors import ConfigError, InputError, StoppedError
from prunevid.evaluation.items import Item
from prunevid.evaluation.runs import ANSWERS, Record, parts_of, read_answers
from prunevid.evaluation.writing import write_whole

PATIENCE = 120.0  # seconds in which a process that nobody sees at work must have written something
GLANCE = 0.4  # seconds in which a look at a lock is over
TOLD_EVERY = 60.0  # seconds between two lines about waiting


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is: `rank` of `world`, and `local` of those on this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """What the launcher says in RANK, WORLD_SIZE and LOCAL_RANK; one process where it says nothing.

        Raises:
            ConfigError: they are no such numbers.
        """
        given = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        try:
            rank, world = int(given["RANK"] or 0), int(given["WORLD_SIZE"] or 1)
            local = int(given["LOCAL_RANK"] or rank)
        except ValueError:
            rank, world, local = -1, 0, 0
        if not 0 <= rank < world:
            shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
            raise ConfigError(f"{shown} name no place among processes; start them with accelerate launch or torchrun.")
        return cls(rank, world, local)

    @property
    def main(self) -> bool:
        """Whether it is the process that merges and reports."""
        return self.rank == 0

    @property
    def file(self) -> str:
        """The name of the file that this process writes its answers to."""
        return ANSWERS if self.world == 1 else f"answers-{self._name}.jsonl"

    @property
    def lock(self) -> str:
        """The name of the file that it holds locked while it runs."""
        return f".lock-{self._name}"

    @property
    def _name(self) -> str:
        return f"{self.rank + 1:05d}-of-{self.world:05d}"

    def share(self, groups: Sequence[Sequence[Item]]) -> list[Sequence[Item]]:
        """The clips that this process asks about: every `world`-th one."""
        return list(groups[self.rank :: self.world])

    def others(self) -> list[Place]:
        """The other processes."""
        return [Place(rank, self.world) for rank in range(self.world) if rank != self.rank]

    def loading(self, given: Mapping[str, Any], gpus: int) -> dict[str, Any]:
        """Loading arguments with the device of this process.

        Args:
            given: arguments of `prunevid.loading.load`.
            gpus: how many CUDA devices this machine has.

        Raises:
            ConfigError: every process would take the same device, or all of them.
        """
        loading = dict(given)
        if self.world == 1:
            return loading
        if loading.get("device_map") is not None:
            raise ConfigError(
                f"device_map {loading['device_map']!r} spreads one model over all GPUs, but {self.world} processes "
                "were started; start one, or leave device_map out."
            )
        device = str(loading.get("device") or ("cuda" if gpus else "cpu"))
        if device.startswith("cuda:"):
            raise ConfigError(
                f"device is {device!r}, but {self.world} processes were started, each of which takes a GPU of its own; "
                "say cuda."
            )
        if device == "cuda":
            device = f"cuda:{self.local}"
        return {**loading, "device": device}


@contextmanager
def claimed(folder: Path, place: Place) -> Iterator[None]:
    """The folder, for this run alone.

    Raises:
        InputError: another run is at work in it, or it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} can't be made ({error.strerror}); give another one.") from error
    lock = _take(folder / place.lock, GLANCE)
    if lock is None:
        raise _taken(folder)
    try:
        siblings = {place.lock, *(other.lock for other in place.others())}
        for path in sorted(folder.glob(".lock-*-of-*")):
            if path.name not in siblings and at_work(path):
                raise _taken(folder)
        yield
    finally:
        lock.release()


def at_work(path: Path) -> bool:
    """Whether some process holds a lock."""
    lock = _take(path)
    if lock is not None:
        lock.release()
    return lock is None


def _take(path: Path, patience: float = 0.0) -> Any:
    """The lock, or None where it is held for so many seconds; the system frees it when a process ends, however it ends.

    A process that looks whether another one is at work (`at_work`) holds that one's lock for a moment.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience, poll_interval=0.02)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        raise InputError(f"{path} can't be locked ({error}); give a folder on another disk.") from error
    return lock


def _taken(folder: Path) -> InputError:
    return InputError(f"Another run is at work in {folder}; wait for its end, or give another folder.")


class Others:
    """The other processes, as the main one sees them: by their locks, and by the files that they write.

    A process that holds its lock is at work. One that does not has ended, or has not begun, or its lock can't be seen
    from here: it is given up when its file has not grown for `patience` seconds, and at once where its lock was seen.

    Args:
        folder: of the run.
        groups: all clips of the run, of which each process has its share.
        place: of the main process.
        retrying: whether errors are asked again: their records don't say that a process is done.
    """

    def __init__(
        self,
        folder: Path,
        groups: Sequence[Sequence[Item]],
        place: Place,
        *,
        retrying: bool = False,
        patience: float = PATIENCE,
        pause: float = 0.5,
    ) -> None:
        self.waiting = [_Watch(folder, other, other.share(groups)) for other in place.others()]
        self.world, self.retrying, self.patience, self.pause = place.world, retrying, patience, pause

    def look(self) -> None:
        """Sees who is at work; to be called now and then, so that the end of those is known when it comes."""
        for watch in self.waiting:
            watch.look()

    def wait(self, tell: Callable[[str], None] | None = None) -> None:
        """Returns when all have answered their share.

        Args:
            tell: is given a line for people when there is something to wait for.

        Raises:
            StoppedError: one ended before it was done.
        """
        told: float | None = None
        for watch in self.waiting:
            watch.since = time.monotonic()
        while left := [watch for watch in self.waiting if not watch.done(self.retrying, self.patience)]:
            self.waiting = left
            if tell is not None and (told is None or time.monotonic() - told > TOLD_EVERY):
                told = time.monotonic()
                tell(f"Waiting for {len(left)} of {self.world} processes.")
            time.sleep(self.pause)


class _Watch:
    """What the main process sees of another one."""

    def __init__(self, folder: Path, other: Place, share: Sequence[Sequence[Item]]) -> None:
        self.folder, self.other = folder, other
        self.keys = {item.key for items in share for item in items}
        self.seen = False
        self.size, self.since = -1, time.monotonic()

    def look(self) -> None:
        """Remembers that it is at work, once that is seen."""
        self.seen = self.seen or at_work(self.folder / self.other.lock)

    def done(self, retrying: bool, patience: float) -> bool:
        """Whether it is done.

        Raises:
            StoppedError: it ended before.
        """
        if at_work(self.folder / self.other.lock):
            self.seen = True
            return False
        part = self.folder / self.other.file
        size = part.stat().st_size if part.exists() else 0
        if size != self.size:
            self.size, self.since = size, time.monotonic()
        records = read_answers(self.folder)
        left = self.keys - records.keys()
        errors = retrying and any(records[key].error is not None for key in self.keys - left)
        if not left and not errors:
            return True
        if not self.seen and time.monotonic() - self.since < patience:
            return False
        if left:
            raise StoppedError(
                f"Process {self.other.rank + 1} of {self.other.world} ended with {len(left)} of its {len(self.keys)} "
                "questions not answered; all answers are kept, and the same command asks the rest, with any number of "
                "processes."
            )
        return True


def merge(folder: Path, items: Sequence[Item]) -> dict[str, Record]:
    """Puts the answers of several processes into one file, in the order of the items, and removes theirs.

    Returns:
        The records of the items by key, in that order; where no process left a file, nothing is written.

    Raises:
        InputError: a file is damaged (which line).
        StoppedError: the disk is full; nothing is lost.
    """
    parts = parts_of(folder)
    found = read_answers(folder)
    ordered = {item.key: found[item.key] for item in items if item.key in found}
    if parts:
        content = "".join(record.line() for record in ordered.values())
        write_whole(folder / ANSWERS, content.encode("utf-8", "backslashreplace"))
        for part in parts:
            part.unlink(missing_ok=True)
    return ordered
