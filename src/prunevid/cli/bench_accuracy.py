# SPDX-License-Identifier: Apache-2.0
"""`prunevid bench accuracy`: what pruning methods leave of the embedded model's accuracy, beside controls."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli.bundles import bundled
from prunevid.cli.common import numbers
from prunevid.cli.places import tell_written
from prunevid.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from prunevid.bench.accuracy.running import Request, Run

_WHAT = "What is compared"
_WHERE = "On what"
_OUTPUT = "Output"
CLIPS, QUICK_CLIPS = 120, 24
SHARES = (0.1, 0.05, 0.02)


@dataclass(frozen=True)
class Compared:
    """Which entries."""

    plan: Annotated[str, typer.Option(help="main, stage1, stage2, layers or scores.", rich_help_panel=_WHAT)] = "main"
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods of your own choice instead of the plan's, with commas between; options after a colon "
            "(fastv:layer=3;keep=0.2), a title before an equals sign (mine=prunevid:tau=0.7).",
            rich_help_panel=_WHAT,
        ),
    ] = None
    retention: Annotated[
        str | None,
        typer.Option(
            help="Shares of the visual tokens to keep, with commas between. Default: 0.1,0.05,0.02.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None
    layer: Annotated[
        int | None,
        typer.Option(
            help="0-based decoder layer after which methods inside the model choose. Default: the model's own.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None
    draws: Annotated[
        int | None,
        typer.Option(help="Draws of every control by lot. Default: 2.", rich_help_panel=_WHAT, show_default=False),
    ] = None


@dataclass(frozen=True)
class Asked:
    """On which clips and questions, with what."""

    questions: Annotated[
        str | None,
        typer.Option(
            help="Kinds of questions, or groups of them, with commas between; `list` prints them.",
            rich_help_panel=_WHERE,
        ),
    ] = None
    clips: Annotated[
        int | None, typer.Option(help=f"How many clips. Default: {CLIPS}.", rich_help_panel=_WHERE, show_default=False)
    ] = None
    split: Annotated[
        str, typer.Option(help="dev, to try things; test, to report, never to choose by.", rich_help_panel=_WHERE)
    ] = "dev"
    first: Annotated[int, typer.Option(help="Seed of the first clip.", rich_help_panel=_WHERE)] = 0
    quick: Annotated[
        bool, typer.Option("--quick", help="One share, one draw, few clips: a look, no result.", rich_help_panel=_WHERE)
    ] = False
    weights: Annotated[
        Path | None,
        typer.Option(help="Other weights of the embedded model than the shipped ones.", rich_help_panel=_WHERE),
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda, ...", rich_help_panel=_WHERE)] = "cpu"
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the clips. Default: one for each processor; one on other devices.",
            rich_help_panel=_WHERE,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class Told:
    """How the results are told."""

    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with this entry, too, by its name in the table. Default: what the plan varies.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None
    plot: Annotated[
        bool, typer.Option("--plot/--no-plot", help="Draw plots into the folder.", rich_help_panel=_OUTPUT)
    ] = True
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as one JSON document.", rich_help_panel=_OUTPUT)
    ] = False


@bundled
def accuracy(
    compared: Compared,
    asked: Asked,
    read: Annotated[
        Path | None,
        typer.Option(help="Make table and plots of a run's folder anew, and ask nothing.", rich_help_panel=_OUTPUT),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for answers, results, table and plots; the same command goes on from there.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    *,
    told: Told,
) -> None:
    """Compare methods with the unpruned model and with controls, on clips and questions made from seeds."""
    if asked.questions == "list":
        _print_kinds()
        return
    from prunevid.bench.accuracy.running import read_run, run

    if read is not None:
        _report(read_run(read), read, told)
        return
    _report(run(_request(compared, asked, out), _Progress()), out, told)


def _request(compared: Compared, asked: Asked, out: Path | None) -> Request:
    """What is to be run, checked.

    Raises:
        ConfigError: there is no such plan, method, share, layer, kind of question, or there are no such weights.
        typer.BadParameter: a share is no number.
    """
    from prunevid.bench.accuracy.clips import Choice
    from prunevid.bench.accuracy.kinds import kinds_of
    from prunevid.bench.accuracy.plans import Setting, check_methods, entries_of, parse_spec
    from prunevid.bench.accuracy.running import Request, weights_of
    from prunevid.builtin.model import DEFAULTS, build_config
    from prunevid.builtin.questions import LEARNT

    own = [part for part in (compared.methods or "").split(",") if part.strip()]
    if own and compared.plan != "main":
        raise ConfigError(f"--methods and --plan {compared.plan} are both given; give one of them.")
    specs = tuple(parse_spec(part) for part in own)
    check_methods(specs)
    shares = SHARES[:1] if asked.quick else SHARES
    setting = Setting(
        layer=int(DEFAULTS["pruning_layer"]) if compared.layer is None else compared.layer,
        depth=int(build_config().text_config.num_hidden_layers),
        shares=tuple(numbers("--retention", compared.retention, float, "0.1,0.05")) if compared.retention else shares,
        draws=(1 if asked.quick else 2) if compared.draws is None else compared.draws,
        methods=specs,
        few=asked.quick,
    )
    weights_of(asked.weights)
    return Request(
        "methods" if own else compared.plan,
        tuple(entries_of(compared.plan, setting)),
        Choice(asked.split, asked.first, LEARNT if asked.questions is None else kinds_of(asked.questions)),
        clips=(QUICK_CLIPS if asked.quick else CLIPS) if asked.clips is None else asked.clips,
        weights=asked.weights,
        device=asked.device,
        workers=asked.workers or (_processors() if asked.device == "cpu" else 1),
        out=out,
    )


class _Progress:
    """Tells on stderr how far a run is, and for how long it will go on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._new = 0

    def __call__(self, done: int, total: int) -> None:
        self._new += 1
        left = (total - done) * (time.monotonic() - self._started) / self._new
        line = f"{done} of {total} clips" + (f", about {left / 60:.0f} min left" if left >= 60 else "")
        if sys.stderr.isatty():
            print(f"\r{line:40}", end="" if done < total else "\n", file=sys.stderr, flush=True)
        elif done == total or self._new % 10 == 1:
            print(line, file=sys.stderr, flush=True)


def _report(found: Run, folder: Path | None, told: Told) -> None:
    """Prints the results of a run, and writes them into its folder where it has one."""
    from prunevid.bench.accuracy.plans import AGAINST
    from prunevid.bench.accuracy.reporting import write_report
    from prunevid.bench.accuracy.results import results
    from prunevid.bench.accuracy.tables import report
    from prunevid.cli.common import print_json

    shown = results(found, told.against or AGAINST.get(found.settings["plan"]))
    if told.as_json:
        print_json(shown)
    else:
        typer.echo(report(shown), nl=False)
    if folder is None:
        return
    try:
        files = write_report(shown, folder, plot=told.plot)
    except MissingDependencyError as error:
        files = write_report(shown, folder, plot=False)
        typer.echo(f"No plots: {error}", err=True)
    tell_written(files)


def _print_kinds() -> None:
    from prunevid.bench.accuracy.kinds import GROUPS

    for group, kinds in GROUPS.items():
        typer.echo(f"{group}: {', '.join(kinds)}")


def _processors() -> int:
    """Processors that this process may use."""
    known: Any = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1
