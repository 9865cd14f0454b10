# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval check`: what of the benchmarks is on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from prunevid.evaluation.check import BenchmarkCheck, TaskCheck

_NAMED = 5  # missing clips of a task that are named, unless --json


def check(
    data: Annotated[Path, typer.Option("--data", help="Folder of MVBench, Video-MME, ego_schema and VCGBench.")],
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", help="Only mvbench, videomme, egoschema or vcgbench; may be given repeatedly."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, every missing clip named.")
    ] = False,
) -> int:
    """List what is there and what is missing before anything runs; exit status 1 if something is missing."""
    import dataclasses

    from prunevid.cli import common
    from prunevid.evaluation.check import check_data

    with common.working("Looking for annotations and clips"):
        found = check_data(data, benchmark or ())
    complete = all(one.complete for one in found)
    if as_json:
        listed = [{**dataclasses.asdict(one), "complete": one.complete} for one in found]
        common.print_json({"data": str(data), "complete": complete, "benchmarks": listed})
    else:
        console = common.console()
        for one in found:
            _show(one, console)
        console.print("Everything is there." if complete else "Something is missing.")
    return 0 if complete else 1


def _show(found: BenchmarkCheck, console: Console) -> None:
    """A table of the tasks, then what is wrong."""
    from rich.markup import escape

    if found.problem is not None:
        console.print(f"[bold]{found.benchmark}[/bold]: {escape(found.problem)}\n", soft_wrap=True)
        return
    console.print(_table(found))
    for line in _lines(found):
        console.print(escape(line), soft_wrap=True)
    console.print()


def _table(found: BenchmarkCheck) -> Table:
    from rich.table import Table

    title = f"{found.benchmark}: {found.folder}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("task")
    for name in ("questions", "clips", "present", "missing"):
        table.add_column(name, justify="right")
    for task in found.tasks:
        if task.problem is None:
            numbers = (task.items, task.videos, task.present, len(task.missing))
            table.add_row(task.task, *map(str, numbers))
        else:
            table.add_row(task.task, "-", "-", "-", "-")
    return table


def _lines(found: BenchmarkCheck) -> Iterator[str]:
    for task in found.tasks:
        if task.problem is not None:
            yield f"{task.task}: {task.problem}"
        if task.missing:
            yield from _missing(task)
        if task.strange:
            yield f"{task.task}: {task.strange} of {task.items} answers are not among their candidates."
    yield from found.notes


def _missing(task: TaskCheck) -> Iterator[str]:
    capped = f", the first {_NAMED}" if len(task.missing) > _NAMED else ""
    yield f"{task.task}: {len(task.missing)} clips missing for {task.unasked} questions{capped}:"
    for name in task.missing[:_NAMED]:
        where = task.elsewhere.get(name)
        yield f"  {name}" + ("" if where is None else f" (one of that name: {where})")
    if task.elsewhere and capped:
        yield f"  {len(task.elsewhere)} of them lie elsewhere, for example {next(iter(task.elsewhere.values()))}"
