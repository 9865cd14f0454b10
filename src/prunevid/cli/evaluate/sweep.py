# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval sweep PLAN.yaml`: one run for each point of a plan, and the table over them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunevid.cli.places import tell_written


def sweep(
    plan: Annotated[
        Path | None, typer.Argument(metavar="PLAN.yaml", help="What to vary; --example prints one.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the points and the tables. Default: the plan's `out`, or PLAN without .yaml."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the points and what became of them, and run nothing.")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a plan for the paper's ablation, and stop.")
    ] = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw the table's plots.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")] = False,
) -> int:
    """Run a grid or an ablation, resumably: finished points are skipped, a changed plan only adds points."""
    from prunevid.evaluation.plans import EXAMPLE, read_plan

    if example:
        typer.echo(EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return 0
    if plan is None:
        raise typer.BadParameter("give the file of a plan, or --example.", param_hint="PLAN.yaml")
    read = read_plan(plan)
    folder = out or read.out or plan.with_suffix("")
    if folder == plan or folder.is_file():
        raise typer.BadParameter(f"{folder} is a file; name a folder.", param_hint="--out")
    from prunevid.cli.common import print_json
    from prunevid.evaluation.sweep import run_sweep, states

    if dry_run:
        found = states(read, folder)
        if as_json:
            print_json({"out": folder, "points": found})
        else:
            typer.echo(f"{len(found)} points in {folder}:")
            for name, state in found.items():
                typer.echo(f"  {state:9} {name}")
        return 0
    swept = run_sweep(read, folder, tell=lambda line: typer.echo(line, err=True), plot=plot)
    if swept.sections is not None:
        from prunevid.evaluation.table_text import render

        typer.echo(render(swept.sections, "json" if as_json else "markdown"), nl=False)
    tell_written(swept.files)
    for name, reason in swept.failed.items():
        typer.echo(f"WARNING: {name} could not run: {reason}", err=True)
    return 1 if swept.failed else 0
