# SPDX-License-Identifier: Apache-2.0
"""What of the benchmarks is on this machine, and what is missing, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from prunevid.errors import InputError
from prunevid.evaluation.benchmarks import TASKS, read_task
from prunevid.evaluation.items import BENCHMARKS, Item, VideoSource
from prunevid.evaluation.places import benchmark_root, walk
from prunevid.evaluation.subtitles import find_subtitles

_NTU = "The clips of Fine-grained Pose are those of NTU RGB+D, which the hub no longer has for their licence"

_PICTURES = (".jpg", ".jpeg", ".png")  # a folder of them is a clip
_OTHERS = (".json", ".srt", ".zip", ".parquet", ".txt")


@dataclass(frozen=True)
class TaskCheck:
    """What of one task is there.

    Attributes:
        task: its name.
        items: questions.
        videos: clips that they are about, each counted once.
        present: of these, on this machine.
        missing: the others, as paths below the benchmark's folder.
        unasked: questions about missing clips.
        elsewhere: missing clips that lie in another folder of the benchmark: from where they should be to where they
            are.
        strange: questions whose answer is not among the candidates; none of them can ever be right.
        problem: why the questions can't be read; None where they can.
    """

    task: str
    items: int = 0
    videos: int = 0
    present: int = 0
    missing: tuple[str, ...] = ()
    unasked: int = 0
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    strange: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class BenchmarkCheck:
    """What of one benchmark is there.

    Attributes:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        folder: where it is; None where there is none.
        tasks: a report for each task.
        notes: what else to know, a sentence each.
        problem: why there is no folder; None where there is one.
    """

    benchmark: str
    folder: str | None = None
    tasks: tuple[TaskCheck, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every annotation file can be read and every clip is there."""
        return self.problem is None and not any(task.problem or task.missing for task in self.tasks)


def check_data(data: str | Path, benchmarks: Sequence[str] = ()) -> list[BenchmarkCheck]:
    """Looks for the files of benchmarks. No clip is opened; an empty file and an empty folder count as missing.

    Args:
        data: the folder that holds MVBench/, Video-MME/, ego_schema/ and VCGBench/.
        benchmarks: which; () all.

    Raises:
        InputError: no such folder or benchmark.
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"There is no folder {data}; give the one that holds the benchmarks' folders.")
    for name in benchmarks:
        if name not in BENCHMARKS:
            raise InputError(f"There is no benchmark {name!r}; the benchmarks are {', '.join(BENCHMARKS)}.")
    return [_check(name, data) for name in BENCHMARKS if name in (benchmarks or BENCHMARKS)]


def _check(benchmark: str, data: Path) -> BenchmarkCheck:
    try:
        root = benchmark_root(benchmark, data)
    except InputError as error:
        return BenchmarkCheck(benchmark, problem=str(error))
    asked: dict[str, list[Item]] = {}
    problems: dict[str, str] = {}
    for name in TASKS[benchmark]:
        try:
            asked[name] = read_task(benchmark, root, name)
        except InputError as error:
            problems[name] = str(error)
    items = [item for found in asked.values() for item in found]
    lost = _Lost(root, {item.video.path for item in items})
    tasks = tuple(
        TaskCheck(name, problem=problems[name]) if name in problems else _check_task(name, asked[name], root, lost)
        for name in TASKS[benchmark]
    )
    return BenchmarkCheck(benchmark, str(root), tasks, tuple(_notes(benchmark, tasks, items)))


def _check_task(name: str, items: Sequence[Item], root: Path, lost: _Lost) -> TaskCheck:
    videos = {item.video.path: item.video for item in items}
    missing = [path for path, video in videos.items() if not is_there(video)]
    away, gone = {path: lost.find(path) for path in missing}, set(missing)
    return TaskCheck(
        task=name,
        items=len(items),
        videos=len(videos),
        present=len(videos) - len(missing),
        missing=tuple(_below(path, root) for path in missing),
        unasked=sum(item.video.path in gone for item in items),
        elsewhere={_below(path, root): _below(place, root) for path, place in away.items() if place is not None},
        strange=sum(bool(item.candidates) and item.answer is not None and item.right is None for item in items),
    )


def is_there(video: VideoSource) -> bool:
    """Whether a clip is a file that is not empty; for "frames", a folder that is not."""
    try:
        if video.kind == "frames":
            return video.path.is_dir() and any(video.path.iterdir())
        return video.path.is_file() and video.path.stat().st_size > 0
    except OSError:
        return False


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


class _Lost:
    """Finds clips that lie in another folder of the benchmark than they should.

    The folders are gone through once, and only if a clip is missing. What lies where another question wants it is not
    lost: data sets name their clips alike.
    """

    def __init__(self, root: Path, wanted: Set[Path]) -> None:
        self._root = root
        self._wanted = wanted
        self._by_name: dict[str, Path] | None = None
        self._by_stem: dict[str, Path] = {}

    def find(self, path: Path) -> Path | None:
        """A file or folder of that name; failing that, one that differs in its ending only."""
        if self._by_name is None:
            self._by_name = {}
            for place in walk(self._root):
                found = place.parent if place.suffix.lower() in _PICTURES else place
                if found not in self._wanted and found.suffix.lower() not in _OTHERS and not _empty(found):
                    self._by_name.setdefault(found.name, found)
                    self._by_stem.setdefault(found.stem, found)
        return self._by_name.get(path.name, self._by_stem.get(path.stem))


def _empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return True


def _notes(benchmark: str, tasks: Sequence[TaskCheck], items: Sequence[Item]) -> list[str]:
    notes = []
    if any(task.task == "Fine-grained Pose" and task.missing for task in tasks):
        notes.append(f"{_NTU}; ask for the data set there, or leave the task out.")
    if benchmark == "videomme" and items:
        videos = {item.video.path for item in items}
        found = sum(find_subtitles(video) is not None for video in videos)
        notes.append(f"{found} of {len(videos)} clips have subtitles.")
    if benchmark == "egoschema" and items:
        notes.append(f"{sum(item.right is not None for item in items)} of {len(items)} answers are known here.")
    return notes
