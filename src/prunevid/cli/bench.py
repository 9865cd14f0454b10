# SPDX-License-Identifier: Apache-2.0
"""`prunevid bench`: what pruning costs and saves, and what it leaves of the accuracy."""

from __future__ import annotations

import typer

from prunevid.cli.bench_accuracy import accuracy
from prunevid.cli.bench_speed import speed

app = typer.Typer(
    help="Measure: `bench speed` times stages and weighs memory, `bench accuracy` compares methods by answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("speed")(speed)
app.command("accuracy")(accuracy)


@app.callback()
def _group() -> None:
    """Measure: `bench speed` times stages and weighs memory, `bench accuracy` compares methods by answers."""
