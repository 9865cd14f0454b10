# SPDX-License-Identifier: Apache-2.0
"""The command line: `prunevid ask`, `bench`, `compare`, `demo`, `doctor`, `convert`, `eval`, `serve`, `view`.

Exit status: 0 done, 2 wrong use, 1 anything else. An error is one sentence on stderr; `--debug` adds the
traceback. Heavy imports happen inside the commands, so that `prunevid --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from prunevid.cli import ask, bench, compare, convert, demo, doctor, evaluate, serve, view
from prunevid.errors import ConfigError, InputError, PruneVidError, one_line

app = typer.Typer(
    name="prunevid",
    help="Visual token pruning for video language models: ask clips questions, faster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ask")(ask.ask)
app.command("compare")(compare.compare)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.add_typer(bench.app, name="bench")
app.add_typer(convert.app, name="convert")
app.add_typer(evaluate.app, name="eval")
app.add_typer(view.app, name="view")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"prunevid {version('prunevid')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error; may stand after a command, too.")
    ] = False,
) -> None:
    """Visual token pruning for video language models: ask clips questions, faster."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status.

    Args:
        arguments: without the program's name. `--debug` may stand anywhere before `--`.
    """
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [item for item in arguments[:end] if item != "--debug"] + arguments[end:]
    try:
        status = app(arguments, prog_name="prunevid", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, debug)
    return status if isinstance(status, int) else 0


def _report(error: BaseException, debug: bool) -> int:
    """Says what went wrong in one sentence; returns the exit status."""
    if debug:
        traceback.print_exception(error)
    status, message = _judge(error)
    if message:
        hint = "" if debug or isinstance(error, PruneVidError) or status == 2 else " (--debug shows where)"
        print(f"prunevid: {message}{hint}", file=sys.stderr)
    return status


def _judge(error: BaseException) -> tuple[int, str]:
    """Exit status and sentence of an error."""
    wrong_use = getattr(error, "exit_code", None)
    formatted = getattr(error, "format_message", None)
    if callable(formatted):  # typer's own complaints about arguments
        context = getattr(error, "ctx", None)
        where = getattr(context, "command_path", "prunevid")
        message = one_line(formatted())
        if not message:  # a command without arguments has printed its help
            return 2, ""
        return int(wrong_use or 2), f"{message.rstrip('.')}; see `{where} --help`."
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 1, "stopped."
    text = one_line(str(error))
    if isinstance(error, (InputError, ConfigError)):
        return 2, text
    if isinstance(error, PruneVidError):
        return 1, text
    if isinstance(error, BrokenPipeError):
        return 1, ""
    return 1, f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
