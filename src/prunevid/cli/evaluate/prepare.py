# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval prepare`: annotation files from what was downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    benchmark: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help="videomme, egoschema, vcgbench or mvbench.", show_default=False)
    ],
    source: Annotated[
        Path, typer.Option("--from", help="Downloaded file or folder: the hub's parquet, or the authors' JSON.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of MVBench, Video-MME, ego_schema and VCGBench.")],
    keep_letters: Annotated[
        bool, typer.Option("--keep-letters", help='Leave the "A. " before the options of Video-MME and EgoSchema.')
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> int:
    """Make the JSON files of a benchmark from the hub's tables; prepared.json beside them notes what was done."""
    from prunevid.cli import common
    from prunevid.evaluation.prepare import prepare as prepare_files

    with common.working("Reading"):
        done = prepare_files(benchmark, source, data, strip_letters=not keep_letters, force=force)
    if as_json:
        common.print_json({"folder": done.folder, "rows": done.rows, "absent": list(done.absent)})
        return 0
    for name, rows in done.rows.items():
        typer.echo(f"{done.folder / name}: {rows} rows")
    if done.absent:
        typer.echo(f"Not there yet: {', '.join(done.absent)}")
    return 0
