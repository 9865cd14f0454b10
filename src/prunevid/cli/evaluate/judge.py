# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval judge DIR`: the five scores of VideoChatGPT-Bench, given by a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli.bundles import bundled
from prunevid.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from prunevid.evaluation.judging.asking import Judge

_JUDGE = "Judge"
_LIMITS = "Limits"


@dataclass(frozen=True)
class Judging:
    """Who judges, and by which prompts."""

    judge_model: Annotated[
        str | None,
        typer.Option(
            envvar="PRUNEVID_JUDGE_MODEL",
            help="The judge's name at the endpoint; the paper's is gpt-3.5-turbo-0125.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar=["PRUNEVID_JUDGE_BASE_URL", "OPENAI_BASE_URL"],
            help="Any OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1. Default: OpenAI's. The key comes from "
            "PRUNEVID_JUDGE_API_KEY or OPENAI_API_KEY.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    temperature: Annotated[
        float, typer.Option(help="Of the judge's sampling; the protocol's is 0.", rich_help_panel=_JUDGE)
    ] = 0.0
    consistency: Annotated[
        str,
        typer.Option(
            help="prunevid: the pairs' questions stand crossed before the judge, as in the published code; fixed: in "
            "order.",
            rich_help_panel=_JUDGE,
        ),
    ] = "prunevid"
    wording: Annotated[
        str,
        typer.Option(
            help="prunevid or original (Video-ChatGPT): how the example reply is written.", rich_help_panel=_JUDGE
        ),
    ] = "prunevid"
    stub: Annotated[
        bool,
        typer.Option(
            "--stub",
            help="No judge: words in common with the reference, offline. For trying out; the scores mean nothing.",
            rich_help_panel=_JUDGE,
        ),
    ] = False


@dataclass(frozen=True)
class Limits:
    """How much is asked, and how fast."""

    budget_requests: Annotated[
        int | None, typer.Option(help="Requests to send now, at most; 0 asks nothing new.", rich_help_panel=_LIMITS)
    ] = None
    budget_tokens: Annotated[
        int | None,
        typer.Option(help="Stop after so many tokens, as the endpoint counts them.", rich_help_panel=_LIMITS),
    ] = None
    concurrency: Annotated[int, typer.Option(help="Requests at once, at most.", rich_help_panel=_LIMITS)] = 4
    timeout: Annotated[float, typer.Option(help="Seconds for one request.", rich_help_panel=_LIMITS)] = 60.0


@bundled
def judge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run of vcgbench.")],
    *,
    judging: Judging,
    limits: Limits,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Have the answers of a vcgbench run judged, and write the five scores into its results.json.

    Every reply is kept in the run's folder: calling again asks only for what is missing.
    """
    from prunevid.cli import common
    from prunevid.evaluation.judging.session import judge_run
    from prunevid.evaluation.runs import read_run

    chosen = _judge(judging, limits.timeout)
    run = read_run(folder)
    with common.working("Judging") as tell:
        judged = judge_run(
            run,
            chosen,
            consistency=judging.consistency,
            wording=judging.wording,
            budget_requests=limits.budget_requests,
            budget_tokens=limits.budget_tokens,
            concurrency=limits.concurrency,
            tell=lambda done, total: tell(f"Judging: {done} of {total}"),
        )
    if as_json:
        common.print_json(judged.part)
    else:
        _show(judged.part)
    if judged.unfinished is not None:
        raise judged.unfinished


def _judge(judging: Judging, timeout: float) -> Judge:
    """Who the options say is to judge."""
    from prunevid.evaluation.judging.endpoint import Endpoint
    from prunevid.evaluation.judging.stub import StubJudge

    if judging.stub:
        return StubJudge()
    if judging.judge_model is None:
        raise ConfigError("No judge is named; give --judge-model, or --stub to try out without one.")
    return Endpoint(judging.judge_model, base_url=judging.base_url, temperature=judging.temperature, timeout=timeout)


def _show(part: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from prunevid.cli import common

    console = common.console()
    who = part["judge"]
    if part["stub"]:
        console.print(f"[bold red]STUB[/bold red] {part['note']}", soft_wrap=True)
    else:
        reported = who["reported_model"] or "not reported"
        dates = "" if who["first"] is None else f"; replies from {who['first']} to {who['last']}"
        console.print(
            f"Judge: {escape(who['model'])} (reports: {escape(reported)}) at {escape(who['endpoint'])}, temperature "
            f"{who['temperature']:g}{dates}",
            soft_wrap=True,
            highlight=False,
        )
    console.print(_table(part))
    mean = "stub mean" if part["stub"] else "mean"
    console.print(
        f"Macro {mean} of the five aspects (the papers' average): {_number(part['macro_mean'])}; micro {mean} of all "
        f"{part['judged']} judged items (Avg_Score of the published code): {_number(part['micro_mean'])}.",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        f"Consistency: {part['consistency']}; wording: {part['wording']}; requests now: {part['requests_now']}, "
        f"tokens now: {part['tokens_now']}.",
        soft_wrap=True,
        highlight=False,
    )
    if part["incomplete_pairs"]:
        console.print(
            f"Not judged, as one of the two questions has no answer yet: {escape(', '.join(part['incomplete_pairs']))}",
            soft_wrap=True,
            highlight=False,
        )


def _table(part: Mapping[str, Any]) -> Table:
    """A row for each aspect."""
    from rich.table import Table

    table = Table(pad_edge=False)
    table.add_column("aspect")
    for name in ("stub score" if part["stub"] else "score", "above 3", "judged", "pending", "empty", "failed", "loose"):
        table.add_column(name, justify="right")
    for aspect, found in part["aspects"].items():
        share = "-" if found["accuracy"] is None else f"{found['accuracy']:.1%}"
        counts = [str(found[name]) for name in ("n", "pending", "empty")]
        failed = str(sum(found["failed"].values()))
        table.add_row(f"{aspect} {found['name']}", _number(found["mean"]), share, *counts, failed, str(found["loose"]))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
