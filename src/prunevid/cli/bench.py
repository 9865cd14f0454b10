# SPDX-License-Identifier: Apache-2.0
"""`prunevid bench speed`: what pruning costs and saves, measured beside the unpruned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli import options
from prunevid.cli.places import tell_written
from prunevid.errors import ConfigError

if TYPE_CHECKING:
    from prunevid.bench import ScalingResult, SpeedResult, Subject

_MODEL = "Model"
_CLIP = "Clip"
_PRUNING = "Pruning"
_RUNS = "Runs"
_OUTPUT = "Output"
_SHAPE = "qwen2.5-vl-7b"
_CPU_WIDTH = 512  # of a shape where nothing is said: a full-size one is no match for a processor

app = typer.Typer(
    help="Measure: `bench speed` times stages and weighs memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    """Measure: `bench speed` times stages and weighs memory."""


@app.command("speed")
def speed(
    shape: Annotated[
        str | None,
        typer.Option(
            help=f"A model's shape with random weights, such as {_SHAPE} (the default); `list` prints all.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model folder, or an id on the model hub, instead.", rich_help_panel=_MODEL)
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers of the shape.", rich_help_panel=_MODEL)] = None,
    width: Annotated[
        int | None,
        typer.Option(
            help=f"Width of the shape's decoder; everything else in proportion. Default on a CPU: {_CPU_WIDTH}.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor for both, where they are not given.", rich_help_panel=_MODEL)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best there is.", rich_help_panel=_MODEL)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or bfloat16. Default: bfloat16 on a GPU, float32 on a CPU.", rich_help_panel=_MODEL
        ),
    ] = None,
    attn_implementation: Annotated[str, typer.Option(help=options.KERNEL_HELP, rich_help_panel=_MODEL)] = "sdpa",
    frames: Annotated[int, typer.Option(help="Frames of the clip.", rich_help_panel=_CLIP)] = 32,
    resolution: Annotated[
        str, typer.Option(help="Of the clip, WIDTHxHEIGHT in pixels.", rich_help_panel=_CLIP)
    ] = "392x392",
    methods: Annotated[
        str, typer.Option(help="Pruning methods with commas between, or all.", rich_help_panel=_PRUNING)
    ] = "prunevid",
    retention: Annotated[
        str,
        typer.Option(
            help="Shares of the visual tokens to keep, with commas between, each with every method; 'own' leaves it to "
            "the methods' own settings.",
            rich_help_panel=_PRUNING,
        ),
    ] = "0.2",
    batches: Annotated[
        str, typer.Option(help="Batch sizes with commas between, as 1,2,4.", rich_help_panel=_RUNS)
    ] = "1",
    new_tokens: Annotated[int, typer.Option(help="Tokens of every answer.", rich_help_panel=_RUNS)] = 16,
    repeats: Annotated[int, typer.Option(help="Rounds that count.", rich_help_panel=_RUNS)] = 5,
    warmup: Annotated[int, typer.Option(help="Rounds before them.", rich_help_panel=_RUNS)] = 1,
    cpu_time: Annotated[
        bool,
        typer.Option(
            "--cpu-time",
            help="Count the processor's time instead of the time that passed: for machines that do other work.",
            rich_help_panel=_RUNS,
        ),
    ] = False,
    memory: Annotated[bool, typer.Option(help="Weigh the peak memory.", rich_help_panel=_RUNS)] = True,
    seed: Annotated[int, typer.Option(help="Of clips, weights and orders.", rich_help_panel=_RUNS)] = 0,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Instead: stage 1 over 8 to 1,024 frames, the prefill over clips of up to --frames.",
            rich_help_panel=_RUNS,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for speed.json and speed.md (scaling.json ...).", rich_help_panel=_OUTPUT),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the plots, too, into the folder of --out.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[bool, options.as_json(_OUTPUT)] = False,
) -> None:
    """Time the unpruned model and pruned ones in turns, stage by stage, and weigh their memory."""
    from prunevid.bench import Settings, measure_scaling, measure_speed
    from prunevid.cli import common
    from prunevid.comparing import contestants

    if shape == "list":
        from prunevid.bench import shapes

        common.print_json(shapes.names()) if as_json else typer.echo("\n".join(shapes.names()))
        return
    if plot and out is None:
        raise typer.BadParameter("needs a folder; name one by --out.", param_hint="--plot")
    shares = [] if retention == "own" else common.numbers("--retention", retention, float, "0.1,0.2")
    wide, high = _resolution(resolution)
    settings = Settings(
        frames=frames,
        width=wide,
        height=high,
        methods=tuple(contestants(methods, shares)),
        repeats=repeats,
        warmup=warmup,
        new_tokens=new_tokens,
        batches=tuple(common.numbers("--batches", batches, int, "1,2,4")),
        memory=memory,
        cpu_time=cpu_time,
        seed=seed,
    )
    sizes = {"layers": layers, "width": width, "scale": scale}
    with common.working("Making the model") as tell:
        subject = _subject(shape, model, sizes, device, dtype, attn_implementation, seed)
        if scaling:
            result: SpeedResult | ScalingResult = measure_scaling(
                subject, settings, prefill_frames=_halves(frames), tell=tell
            )
        else:
            result = measure_speed(subject, settings, tell)
        files = _write(result, out, plot)
    _print(result, as_json)
    tell_written(files)


def _subject(
    shape: str | None,
    model: str | None,
    sizes: dict[str, Any],
    device: str | None,
    dtype: str | None,
    attention: str,
    seed: int,
) -> Subject:
    """The model that the options name.

    Raises:
        ConfigError: both a shape and a model, or sizes for a model.
    """
    import torch

    from prunevid.bench import Loaded, Made, shapes
    from prunevid.bench.weights import random_model
    from prunevid.loading import check_dtype, load, pick_device

    target = pick_device(device)
    usual = "float32" if target.type == "cpu" else "bfloat16"
    if model is not None:
        given = [name for name, value in {"shape": shape, **sizes}.items() if value is not None]
        if given:
            raise ConfigError(f"--{given[0]} belongs to a shape, but --model names a model; leave one of them out.")
        loaded, processor = load(model, device=target, dtype=dtype or usual, attn_implementation=attention)
        loaded.generation_config.eos_token_id = None  # answers of one length
        return Loaded(Path(model).name, loaded, processor)
    name = shape or _SHAPE
    if target.type == "cpu" and not any(sizes.values()):
        sizes = {**sizes, "width": _CPU_WIDTH}
    published = shapes.get(name).config()
    config = shapes.scaled(published, **sizes) if any(value is not None for value in sizes.values()) else published
    kind = check_dtype(dtype or usual)
    kind = getattr(torch, usual) if kind == "auto" else getattr(torch, str(kind))
    return Made(name, random_model(config, target, kind, attention, seed))


def _resolution(text: str) -> tuple[int, int]:
    """Width and height."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is no size such as 392x392.", param_hint="--resolution")
    return int(parts[0]), int(parts[1])


def _halves(frames: int) -> tuple[int, ...]:
    """The number of frames, its half, and so on down to 8; ascending."""
    found = [frames]
    while found[-1] % 2 == 0 and found[-1] // 2 >= 8:
        found.append(found[-1] // 2)
    return tuple(reversed(found))


def _write(result: SpeedResult | ScalingResult, out: Path | None, plot: bool) -> list[Path]:
    """The files of a result."""
    if out is None:
        return []
    import json

    from prunevid.bench import ScalingResult, document
    from prunevid.bench.text import grids, headline
    from prunevid.files import write_files

    stem = out / ("scaling" if isinstance(result, ScalingResult) else "speed")
    tables = "\n\n".join(f"**{grid.title}**\n\n{grid.markdown()}" for grid in grids(result))
    contents = {
        stem.with_suffix(".json"): json.dumps(document(result), indent=2) + "\n",
        stem.with_suffix(".md"): f"{headline(result)}\n\n{tables}\n",
    }
    write_files({path: text.encode() for path, text in contents.items()})
    if not plot:
        return list(contents)
    from prunevid.bench.plots import write_plots

    return [*contents, *write_plots(result, stem)]


def _print(result: SpeedResult | ScalingResult, as_json: bool) -> None:
    from prunevid.bench import document
    from prunevid.bench.text import grids, headline
    from prunevid.cli import common

    if as_json:
        common.print_json(document(result))
        return
    console = common.console()
    console.print(headline(result), soft_wrap=True, highlight=False)
    for grid in grids(result):
        console.print(grid.rich())
    for note in result.notes:
        console.print(note, highlight=False)
