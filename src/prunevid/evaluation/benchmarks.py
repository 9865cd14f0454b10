# SPDX-License-Identifier: Apache-2.0
"""The questions of a benchmark, read from the files on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from prunevid.errors import InputError
from prunevid.evaluation import egoschema, mvbench, vcgbench, videomme
from prunevid.evaluation.items import BENCHMARKS, Item
from prunevid.evaluation.places import benchmark_root
from prunevid.evaluation.prepared import letters_kept

TASKS: dict[str, tuple[str, ...]] = {
    "mvbench": tuple(mvbench.BY_NAME),
    "videomme": tuple(videomme.TASKS),
    "egoschema": (egoschema.FULL,),
    "vcgbench": vcgbench.TASKS,
}
"""What a benchmark asks when no tasks are named."""

SELECTIONS = {"egoschema": (egoschema.SUBSET,)}
"""Further names that may stand for a task: questions of the tasks above."""


def load_items(
    benchmark: str,
    data: str | Path,
    *,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    strip_letters: bool | None = None,
) -> list[Item]:
    """The items of a benchmark, in the order of its tasks and files.

    Args:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        data: the folder that holds MVBench/, Video-MME/, ego_schema/ and VCGBench/.
        tasks: only these (in the benchmark's order); case, spaces, "-" and "_" don't matter. () all. Files of other
            tasks need not be there. EgoSchema knows "Subset", too: the questions whose answers are known here.
        limit: only the first so many rows of each task's file. A row of VideoChatGPT-Bench's consistency part makes two
            items, which stay together.
        strip_letters: take "A. ", "B. ", ... off the candidates of Video-MME and EgoSchema. None: yes, unless
            `prunevid eval prepare` was told to keep them.

    Raises:
        InputError: no such benchmark or task, a file that is missing or malformed, a limit below 1.
    """
    names = task_names(benchmark, tasks)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, but must be at least 1.")
    root = benchmark_root(benchmark, Path(data))
    items: list[Item] = []
    for name in names:
        items += _first(read_task(benchmark, root, name, strip_letters), limit)
    return items


def read_task(benchmark: str, root: Path, name: str, strip_letters: bool | None = None) -> list[Item]:
    """The items of one task; see `load_items`.

    Args:
        root: the benchmark's folder.
        name: as `task_names` gives it.
    """
    if benchmark == mvbench.BENCHMARK:
        return mvbench.read_task(root, name)
    if benchmark == vcgbench.BENCHMARK:
        return vcgbench.read_task(root, name)
    strip = not letters_kept(root / "json") if strip_letters is None else strip_letters
    return (videomme if benchmark == videomme.BENCHMARK else egoschema).read_task(root, name, strip)


def task_names(benchmark: str, tasks: Iterable[str] = ()) -> tuple[str, ...]:
    """The names of a benchmark's tasks as they are reported, of all or of those that are asked for.

    Raises:
        InputError: no such benchmark or task; EgoSchema's full set together with its subset.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"There is no benchmark {benchmark!r}; the benchmarks are {', '.join(BENCHMARKS)}.")
    known = TASKS[benchmark] + SELECTIONS.get(benchmark, ())
    by_letters = {_letters(name): name for name in known}
    wanted = set()
    for task in tasks:
        if _letters(task) not in by_letters:
            raise InputError(f"{benchmark} has no task {task!r}; its tasks are {', '.join(known)}.")
        wanted.add(by_letters[_letters(task)])
    if {egoschema.FULL, egoschema.SUBSET} <= wanted:
        raise InputError(f"{egoschema.FULL} holds the questions of {egoschema.SUBSET}; ask for one of them.")
    return tuple(name for name in known if name in wanted) if wanted else TASKS[benchmark]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _first(items: list[Item], limit: int | None) -> list[Item]:
    """The items of the first `limit` rows."""
    rows = dict.fromkeys(str(item.facts.get("pair", item.key)) for item in items)
    chosen = set(list(rows)[:limit])
    return [item for item in items if str(item.facts.get("pair", item.key)) in chosen]
