# SPDX-License-Identifier: Apache-2.0
"""`prunevid view CLIP QUESTION`, `view compare` and `view attention`: pictures of what a method keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from prunevid.cli import options
from prunevid.cli.bundles import Loading, Pruning, Reading, bundled
from prunevid.cli.places import places, tell_written
from prunevid.errors import ConfigError, PruneVidError, one_line
from prunevid.files import write_files

if TYPE_CHECKING:
    from prunevid.answers import Answer
    from prunevid.qa import VideoQA
    from prunevid.video import Clip

_WHOLE = "clip"  # the hidden name of the command that takes a clip


class _Group(TyperGroup):
    """Sub-commands, and one command that takes over where the first word is none of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = [name for name in self.commands if name != _WHOLE]
        return super().parse_args(ctx, args if args and args[0] in known else [_WHOLE, *args])


class _Whole(TyperCommand):
    """The command that takes over: it goes by the group's name in its help and its complaints."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return super().make_context(parent.info_name, args, parent=parent.parent, **extra)


app = typer.Typer(
    cls=_Group,
    help="See what a method keeps of a clip: a report of one answer, of several methods, of attention over layers.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_NewTokens = Annotated[int | None, options.new_tokens(options.OUTPUT)]
_Unpruned = Annotated[
    bool,
    typer.Option(
        "--unpruned/--no-unpruned", help="Also ask the model without pruning.", rich_help_panel=options.PRUNING
    ),
]
_Columns = Annotated[
    int | None, typer.Option(min=1, help="Steps in time to show, at most.", rich_help_panel=options.OUTPUT)
]
_Width = Annotated[
    int, typer.Option(min=16, max=4096, help="Width of each picture in pixels.", rich_help_panel=options.OUTPUT)
]
_Out = Annotated[Path | None, typer.Option(help="The report, an .html file.", rich_help_panel=options.OUTPUT)]
_Png = Annotated[Path | None, typer.Option(help="Also one still picture.", rich_help_panel=options.OUTPUT)]
_Json = Annotated[bool, options.as_json(options.OUTPUT)]


@app.command(_WHOLE, cls=_Whole, hidden=True, no_args_is_help=True)
@bundled
def view(
    clip: options.Clip,
    question: options.Question,
    *,
    out: _Out = None,
    png: _Png = None,
    mp4: Annotated[
        Path | None, typer.Option(help="Also the overlay as a video.", rich_help_panel=options.OUTPUT)
    ] = None,
    gif: Annotated[Path | None, typer.Option(help="Also the overlay as a GIF.", rich_help_panel=options.OUTPUT)] = None,
    pruning: Pruning,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An option of the method's own, as keep_ratio=0.3; may be given often.",
            rich_help_panel=options.PRUNING,
        ),
    ] = None,
    unpruned: _Unpruned = True,
    loading: Loading,
    reading: Reading,
    max_new_tokens: _NewTokens = None,
    columns: _Columns = None,
    width: _Width = 240,
    as_json: _Json = False,
) -> None:
    """Ask a question, and show what was kept of the clip: a report (--out), a picture, a video or a GIF.

    Others: `prunevid view compare` sets several methods side by side, `prunevid view attention` shows the question's
    attention over layers. A clip whose file has such a name is given as ./compare.
    """
    from prunevid.cli import common

    found = places({"--out": out, "--png": png, "--mp4": mp4, "--gif": gif}, clip)
    qa = common.load(loading, pruning, options=common.method_options(setting or ()))
    with _seen(qa, clip, reading) as (seen, tell):
        tell("Answering")
        plain: Answer | None = None
        if unpruned:
            plain, answer = qa.compare(seen, question, max_new_tokens=max_new_tokens)
        else:
            answer = qa.ask(seen, question, max_new_tokens=max_new_tokens)
        tell("Drawing")
        contents = _drawn(found, qa, loading.model, answer, plain, seen, width, columns)
    write_files(contents)
    if as_json:
        document = common.as_dict(answer) | {
            "model": loading.model or "builtin",
            "method": qa.method.label,
            "options": _options_of(qa),
            "unpruned": None if plain is None else {"answer": plain.text, "stats": plain.stats},
            "same": None if plain is None else _alike(answer, plain),
            "files": [str(path) for path in contents],
        }
        common.print_json(document)
        return
    typer.echo(answer.text)
    tell_written(contents)


@app.command("compare", no_args_is_help=True)
@bundled
def compare(
    clip: options.Clip,
    question: options.Question,
    *,
    out: _Out = None,
    png: _Png = None,
    methods: options.Methods = "prunevid,fastv,random",
    retention: options.Retentions = None,
    average_over_layers: options.AverageOverLayers = False,
    unpruned: _Unpruned = True,
    loading: Loading,
    reading: Reading,
    max_new_tokens: _NewTokens = None,
    columns: _Columns = None,
    width: _Width = 240,
    as_json: _Json = False,
) -> None:
    """Show what several methods, or budgets, keep of the same frames, side by side."""
    from prunevid import view as drawing
    from prunevid.cli import common
    from prunevid.comparing import contestants
    from prunevid.view.reports import compare_report

    found = places({"--out": out, "--png": png}, clip)
    shares = common.shares(retention)
    contestants(methods, shares, average_over_layers or None)  # wrong names and numbers, before weights are read
    qa = common.load(loading, Pruning(method="none"))
    chosen = contestants(methods, shares, average_over_layers or None, qa.defaults)
    with _seen(qa, clip, reading) as (seen, tell):
        tell("Answering without pruning")
        plain = qa.ask(seen, question, max_new_tokens=max_new_tokens) if unpruned else None
        answers, failures = _asked(qa, chosen, seen, question, max_new_tokens, tell)
        tell("Drawing")
        labels, said, shown = list(answers), list(answers.values()), columns or 8
        contents: dict[Path, bytes] = {}
        if "--out" in found:
            page = compare_report(
                said,
                labels,
                unpruned=plain,
                failures=failures,
                frames=seen,
                facts=_model_facts(qa, loading.model),
                width=width,
                columns=shown,
            )
            contents[found["--out"]] = page.encode()
        if "--png" in found:
            contents[found["--png"]] = drawing.png(drawing.compare_sheet(said, labels, seen, columns=shown))
    write_files(contents)
    if as_json:
        document = _sides(answers, plain) | {
            "model": loading.model or "builtin",
            "failures": failures,
            "files": [str(path) for path in contents],
        }
        common.print_json(document)
        return
    for label, one in answers.items():
        typer.echo(f"{label}: {one.text}")
    tell_written(contents)


def _sides(answers: Mapping[str, Answer], plain: Answer | None) -> dict[str, Any]:
    """Answers of several methods to one question as JSON types."""
    from prunevid.cli import common

    first = next(iter(answers.values()))
    sides = [
        {"label": label, "answer": one.text, "same": None if plain is None else _alike(one, plain), "stats": one.stats}
        for label, one in answers.items()
    ]
    return {
        "question": first.question,
        "clip": common.clip_dict(first.clip),
        "unpruned": None if plain is None else {"answer": plain.text, "stats": plain.stats},
        "sides": sides,
    }


@app.command("attention", no_args_is_help=True)
@bundled
def attention(
    clip: options.Clip,
    question: options.Question,
    *,
    out: _Out = None,
    png: _Png = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Decoder layers (from 0) with commas between, as 2,10,20. Default: all.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="linear or log: how colours lie between the numbers.", rich_help_panel=options.OUTPUT)
    ] = "linear",
    loading: Loading,
    reading: Reading,
    max_new_tokens: _NewTokens = None,
    columns: _Columns = None,
    width: _Width = 240,
    as_json: _Json = False,
) -> None:
    """Show how the question's attention to the clip changes over the layers of the unpruned model."""
    from prunevid import view as drawing
    from prunevid.cli import common
    from prunevid.view.reports import attention_report

    found = places({"--out": out, "--png": png}, clip)
    wanted = None if layers is None else common.numbers("--layers", layers, int, "2,10")
    if scale not in ("linear", "log"):
        raise ConfigError(f"scale is {scale!r}, but must be 'linear' or 'log'.")
    qa = common.load(loading)
    with _seen(qa, clip, reading) as (seen, tell):
        tell("Answering")
        watched = drawing.watch(qa, seen, question, layers=wanted, max_new_tokens=max_new_tokens)
        tell("Drawing")
        shown = columns or 8
        contents: dict[Path, bytes] = {}
        if "--out" in found:
            page = attention_report(
                watched, frames=seen, facts=_model_facts(qa, loading.model), width=width, columns=shown, scale=scale
            )
            contents[found["--out"]] = page.encode()
        if "--png" in found:
            picture = drawing.attention_sheet(watched, seen, columns=shown, scale=scale)
            contents[found["--png"]] = drawing.png(picture)
    write_files(contents)
    if as_json:
        document = common.as_dict(watched.answer) | {
            "model": loading.model or "builtin",
            "layers": list(watched.layers),
            "files": [str(path) for path in contents],
        }
        common.print_json(document)
        return
    typer.echo(watched.answer.text)
    tell_written(contents)


@contextmanager
def _seen(qa: VideoQA, clip: Path, reading: Reading) -> Iterator[tuple[Clip, Callable[[str], None]]]:
    """The frames, read once, and a function that says on stderr what is being done."""
    from prunevid.cli import common

    with common.working("Reading the clip") as tell:
        yield qa.load_clip(clip, **reading.arguments(), progress=common.reading(tell)), tell


def _asked(
    qa: VideoQA,
    chosen: Sequence[Any],
    seen: Clip,
    question: str,
    max_new_tokens: int | None,
    tell: Callable[[str], None],
) -> tuple[dict[str, Answer], dict[str, str]]:
    """By label: answers, and why others have none.

    Raises:
        PruneVidError: none has an answer.
    """
    answers: dict[str, Answer] = {}
    failures: dict[str, str] = {}
    error: PruneVidError | None = None
    for one in chosen:
        label = one.label if one.retention_ratio is None else f"{one.label} at {100 * one.retention_ratio:g}%"
        tell(f"Answering with {label}")
        try:
            answers[label] = qa.using(one).ask(seen, question, max_new_tokens=max_new_tokens)
        except PruneVidError as failed:
            failures[label], error = one_line(failed), failed
    if error is not None and not answers:
        raise error
    return answers, failures


def _drawn(
    found: Mapping[str, Path],
    qa: VideoQA,
    model: str | None,
    answer: Answer,
    plain: Answer | None,
    seen: Clip,
    width: int,
    columns: int | None,
) -> dict[Path, bytes]:
    """What stands in each file of `view`."""
    from prunevid import view as drawing
    from prunevid.view.reports import facts_of, report

    contents: dict[Path, bytes] = {}
    if "--out" in found:
        facts = facts_of(qa, model or "the embedded model")
        page = report(answer, unpruned=plain, frames=seen, facts=facts, width=width, columns=columns or 16)
        contents[found["--out"]] = page.encode()
    if "--png" in found:
        contents[found["--png"]] = drawing.png(drawing.sheet(answer, seen, columns=columns or 8))
    if "--mp4" in found or "--gif" in found:
        film = drawing.overlay(answer, seen, width=width)
        if "--mp4" in found:
            contents[found["--mp4"]] = drawing.mp4(film)
        if "--gif" in found:
            contents[found["--gif"]] = drawing.gif(film)
    return contents


def _model_facts(qa: VideoQA, model: str | None) -> dict[str, str]:
    """What a report says of the model alone, where the method is not one."""
    from prunevid.view.reports import facts_of

    facts = facts_of(qa, model or "the embedded model")
    return {name: facts[name] for name in ("Model", "Versions")}


def _options_of(qa: VideoQA) -> dict[str, Any]:
    from prunevid.comparing import options_of

    return options_of(qa.method)


def _alike(one: Answer, other: Answer) -> bool:
    from prunevid.comparing import alike

    return alike(one.text, other.text)
