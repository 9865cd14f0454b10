# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval table DIR...`: runs side by side, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunevid.cli.places import tell_written

if TYPE_CHECKING:
    from prunevid.evaluation.tables import Section


def table(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of runs, finished or not; or folders that hold such folders."),
    ],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            "--baseline",
            help="The run that others are compared with; once for each benchmark. Default: the run of method none.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write table.md, table.csv, table.json and the plots into this folder."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="What is printed: markdown, csv or json.")] = "markdown",
    per_task: Annotated[bool, typer.Option("--per-task", help="Also the accuracy of every task.")] = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw the plots that --out writes.")] = True,
) -> None:
    """Compare runs: accuracy with intervals, published numbers, paired tests, agreement, letters that were chosen."""
    from prunevid.evaluation.table_text import FORMATS, render
    from prunevid.evaluation.tables import find_runs, make_table

    if form not in FORMATS:
        raise typer.BadParameter(f"{form!r} is none of {', '.join(FORMATS)}.", param_hint="--format")
    sections = make_table(find_runs(folders), find_runs(baseline or ()))
    typer.echo(render(sections, form, per_task=per_task), nl=False)
    if form == "csv":
        warn(sections)
    if out is not None:
        from prunevid.evaluation.table_files import write_tables

        tell_written(write_tables(sections, out, per_task=per_task, plot=plot))


def warn(sections: Sequence[Section]) -> None:
    """The loud notes on stderr, for a form that has no place for them."""
    for section in sections:
        for note in section.notes:
            if note.loud:
                typer.echo(f"WARNING: {note.text}", err=True)
