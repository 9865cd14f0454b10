# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval`: the paper's four benchmarks; one file for each sub-command."""

from __future__ import annotations

import typer

from prunevid.cli.evaluate import check, judge, prepare, run, sweep, table
from prunevid.evaluation.items import BENCHMARKS

app = typer.Typer(
    help="Run the benchmarks MVBench, Video-MME, EgoSchema and VideoChatGPT-Bench, resumably, and score them.",
    no_args_is_help=True,
)
app.command("check")(check.check)
app.command("prepare")(prepare.prepare)
for _benchmark in BENCHMARKS:
    app.command(_benchmark)(run.command(_benchmark))
app.command("judge")(judge.judge)
app.command("sweep")(sweep.sweep)
app.command("table")(table.table)
