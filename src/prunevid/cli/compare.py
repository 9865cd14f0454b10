# SPDX-License-Identifier: Apache-2.0
"""`prunevid compare CLIP QUESTION`: one question, answered by the unpruned model and with several methods."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli import options
from prunevid.cli.bundles import Loading, Pruning, Reading, bundled
from prunevid.errors import UnsupportedError, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from prunevid.comparing import Comparison, Side


@bundled
def compare(
    clip: options.Clip,
    question: options.Question,
    *,
    methods: options.Methods = "prunevid,fastv,random",
    retention: options.Retentions = None,
    average_over_layers: options.AverageOverLayers = False,
    repeats: Annotated[
        int, typer.Option(help="Timed runs of each, of which medians are shown.", rich_help_panel=options.ANSWER)
    ] = 3,
    loading: Loading,
    reading: Reading,
    max_new_tokens: options.NewTokens = None,
    as_json: options.Json = False,
) -> None:
    """Ask one question without pruning and with several methods, and show answers, tokens and times side by side."""
    from prunevid.cli import common
    from prunevid.comparing import contestants

    shares = common.shares(retention)
    contestants(methods, shares, average_over_layers or None)  # wrong names and numbers, before weights are read
    with common.working("Loading the model") as tell:
        qa = common.load(loading, Pruning(method="none"))
        result = qa.compare_methods(
            clip,
            question,
            methods,
            retention=shares,
            average_over_layers=average_over_layers or None,
            repeats=repeats,
            max_new_tokens=max_new_tokens,
            **reading.arguments(),
            progress=common.reading(tell),
            tell=tell,
        )
    if as_json:
        common.print_json(document(result, loading.model or "builtin"))
    else:
        _show(result, loading.model or "the embedded one", average_over_layers)
    if all(side.reason is not None for side in result.sides):
        raise UnsupportedError("None of the methods could run; the output says why.")


def document(result: Comparison, model: str) -> dict[str, Any]:
    """The comparison as JSON types."""
    from prunevid.cli import common

    return {
        "question": result.question,
        "model": model,
        "clip": common.clip_dict(result.clip),
        "repeats": result.repeats,
        "milliseconds_reading": result.reading,
        "unpruned": dataclasses.asdict(result.unpruned),
        "methods": [dataclasses.asdict(side) for side in result.sides],
    }


def _show(result: Comparison, model: str, averaged: bool) -> None:
    from rich.markup import escape

    from prunevid.cli import common

    console = common.console()
    console.print(f"Question: [bold]{escape(result.question)}[/bold]", soft_wrap=True)
    console.print(
        f"Clip: {escape(result.clip.source)}, {len(result.clip.times)} frames; model: {escape(model)}", soft_wrap=True
    )
    table, notes = _table(result, averaged)
    console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"({number}) {note}", highlight=False)
    ran = [side for side in result.sides if side.reason is None]
    console.print(
        f"Same answer as without pruning: {sum(side.same for side in ran)} of {len(ran)}. Times: ms, medians of "
        f"{result.repeats} runs in turns. Not in the total: reading the clip ({result.reading:.1f} ms) and the vision "
        f"tower ({result.unpruned.milliseconds['vision']:.1f} ms)."
    )


def _table(result: Comparison, averaged: bool) -> tuple[Table, list[str]]:
    """A row for the unpruned model and for each side; and why some could not run."""
    from rich.markup import escape
    from rich.table import Table

    notes: list[str] = []
    table = Table(pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("asked", "kept, mean" if averaged else "kept", "visual tokens", "FLOPs", "merge", "prefill", "decode"):
        table.add_column(name, justify="right")
    table.add_column("total ms", justify="right")
    table.add_column("same")
    table.add_column("answer", overflow="fold")
    table.add_row(
        "unpruned", "", *_numbers(result.unpruned, averaged), "", _line(result.unpruned.answer), end_section=True
    )
    last = None
    for side in result.sides:
        if last is not None and side.retention != last:
            table.add_section()
        last = side.retention
        asked = "" if side.retention is None else f"{side.retention:.4g}"
        if side.reason is not None:
            notes.append(f"{escape(side.method)}{asked and ' at ' + asked}: {_line(side.reason)}")
            table.add_row(escape(side.method), asked, *[""] * 7, "", f"[yellow]can't run ({len(notes)})[/yellow]")
            continue
        same = "[green]yes[/green]" if side.same else "[red]no[/red]"
        table.add_row(escape(side.method), asked, *_numbers(side, averaged), same, _line(side.answer))
    return table, notes


def _numbers(side: Side, averaged: bool) -> list[str]:
    """The columns of numbers of a side that ran."""
    kept = side.mean_ratio if averaged else side.retained_ratio
    times = [f"{side.milliseconds[name]:.1f}" for name in ("merge", "prefill", "decode", "total")]
    return [f"{kept:.3f}", f"{side.original_tokens} → {side.tokens}", f"{side.flops_ratio:.0%}", *times]


def _line(text: str) -> str:
    """A text that stands in a table."""
    from rich.markup import escape

    return escape(one_line(text))
