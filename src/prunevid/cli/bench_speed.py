# SPDX-License-Identifier: Apache-2.0
"""`prunevid bench speed`: what pruning costs and saves, measured beside the unpruned model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli import options
from prunevid.cli.bundles import bundled
from prunevid.cli.common import numbers
from prunevid.cli.places import tell_written
from prunevid.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from prunevid.bench import Result, Settings, Subject
    from prunevid.bench.rounds import Tell

_MODEL = "Model"
_CLIP = "Clip"
_PRUNING = "Pruning"
_RUNS = "Runs"
_OUTPUT = "Output"
_SHAPE = "qwen2.5-vl-7b"
_CPU_WIDTH = 512  # of a shape where nothing is said: a full-size one is no match for a processor


@dataclass(frozen=True)
class Model:
    """The model that is measured: a folder's, or one of a shape with random weights."""

    shape: Annotated[
        str | None,
        typer.Option(
            help=f"A model's shape with random weights, such as {_SHAPE} (the default); `list` prints all.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    model: Annotated[
        str | None, typer.Option(help="A model folder, or an id on the model hub, instead.", rich_help_panel=_MODEL)
    ] = None
    layers: Annotated[int | None, typer.Option(help="Decoder layers of the shape.", rich_help_panel=_MODEL)] = None
    width: Annotated[
        int | None,
        typer.Option(
            help=f"Width of the shape's decoder; everything else in proportion. Default on a CPU: {_CPU_WIDTH}.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    scale: Annotated[
        float | None, typer.Option(help="Factor for both, where they are not given.", rich_help_panel=_MODEL)
    ] = None
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best there is.", rich_help_panel=_MODEL)
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or bfloat16. Default: bfloat16 on a GPU, float32 on a CPU.", rich_help_panel=_MODEL
        ),
    ] = None
    attn_implementation: Annotated[str, typer.Option(help=options.KERNEL_HELP, rich_help_panel=_MODEL)] = "sdpa"

    def subject(self, seed: int) -> Subject:
        """The model, loaded or made.

        Args:
            seed: of random weights.

        Raises:
            ConfigError: both a shape and a model, or sizes for a model.
        """
        from prunevid.bench import Made, shapes
        from prunevid.bench.weights import random_model
        from prunevid.loading import pick_device

        target = pick_device(self.device)
        sizes: dict[str, Any] = {"layers": self.layers, "width": self.width, "scale": self.scale}
        if self.model is not None:
            given = [name for name, value in {"shape": self.shape, **sizes}.items() if value is not None]
            if given:
                raise ConfigError(f"--{given[0]} belongs to a shape, but --model names a model; leave one of them out.")
            return self._loaded(self.model, target)
        if target.type == "cpu" and not any(sizes.values()):
            sizes["width"] = _CPU_WIDTH
        config = shapes.get(self.shape or _SHAPE).config()
        if any(value is not None for value in sizes.values()):
            config = shapes.scaled(config, **sizes)
        return Made(
            self.shape or _SHAPE, random_model(config, target, self._kind(target), self.attn_implementation, seed)
        )

    def _loaded(self, model: str, target: torch.device) -> Subject:
        from prunevid.bench import Loaded
        from prunevid.loading import load

        loaded, processor = load(
            model, device=target, dtype=self.dtype or _usual(target), attn_implementation=self.attn_implementation
        )
        loaded.generation_config.eos_token_id = None  # answers of one length
        return Loaded(Path(model).name, loaded, processor)

    def _kind(self, target: torch.device) -> torch.dtype:
        """Of the random weights."""
        import torch

        from prunevid.loading import check_dtype

        kind = check_dtype(self.dtype or _usual(target))
        found: torch.dtype = getattr(torch, _usual(target) if kind == "auto" else str(kind))
        return found


def _usual(target: torch.device) -> str:
    """The dtype where none is given."""
    return "float32" if target.type == "cpu" else "bfloat16"


@dataclass(frozen=True)
class Work:
    """What is run, and how often."""

    frames: Annotated[int, typer.Option(help="Frames of the clip.", rich_help_panel=_CLIP)] = 32
    resolution: Annotated[str, typer.Option(help="Of the clip, WIDTHxHEIGHT in pixels.", rich_help_panel=_CLIP)] = (
        "392x392"
    )
    methods: Annotated[
        str, typer.Option(help="Pruning methods with commas between, or all.", rich_help_panel=_PRUNING)
    ] = "prunevid"
    retention: Annotated[
        str,
        typer.Option(
            help="Shares of the visual tokens to keep, with commas between, each with every method; 'own' leaves it to "
            "the methods' own settings.",
            rich_help_panel=_PRUNING,
        ),
    ] = "0.2"
    batches: Annotated[str, typer.Option(help="Batch sizes with commas between, as 1,2,4.", rich_help_panel=_RUNS)] = (
        "1"
    )
    new_tokens: Annotated[int, typer.Option(help="Tokens of every answer.", rich_help_panel=_RUNS)] = 16
    repeats: Annotated[int, typer.Option(help="Rounds that count.", rich_help_panel=_RUNS)] = 5
    warmup: Annotated[int, typer.Option(help="Rounds before them.", rich_help_panel=_RUNS)] = 1
    cpu_time: Annotated[
        bool,
        typer.Option(
            "--cpu-time",
            help="Count the processor's time instead of the time that passed: for machines that do other work.",
            rich_help_panel=_RUNS,
        ),
    ] = False
    memory: Annotated[bool, typer.Option(help="Weigh the peak memory.", rich_help_panel=_RUNS)] = True
    seed: Annotated[int, typer.Option(help="Of clips, weights and orders.", rich_help_panel=_RUNS)] = 0
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Instead: stage 1 over 8 to 1,024 frames, the prefill over clips of up to --frames.",
            rich_help_panel=_RUNS,
        ),
    ] = False

    questions: Annotated[
        int | None,
        typer.Option(
            help="Instead: so many further questions about an open clip, beside the first one.", rich_help_panel=_RUNS
        ),
    ] = None

    def measured(self, subject: Subject, settings: Settings, tell: Tell) -> Result:
        """What is asked for: speed, scaling or questions."""
        from prunevid.bench import measure_questions, measure_scaling, measure_speed

        if self.questions is not None:
            return measure_questions(subject, settings, self.questions, tell)
        if self.scaling:
            return measure_scaling(subject, settings, prefill_frames=_halves(self.frames), tell=tell)
        return measure_speed(subject, settings, tell)

    def settings(self) -> Settings:
        """The same for the benchmark.

        Raises:
            typer.BadParameter: a list that is none, or a size.
            ConfigError: there is no such method, or a number is out of range.
        """
        from prunevid.bench import Settings
        from prunevid.comparing import contestants

        shares = [] if self.retention == "own" else numbers("--retention", self.retention, float, "0.1,0.2")
        wide, high = _resolution(self.resolution)
        return Settings(
            frames=self.frames,
            width=wide,
            height=high,
            methods=tuple(contestants(self.methods, shares)),
            repeats=self.repeats,
            warmup=self.warmup,
            new_tokens=self.new_tokens,
            batches=tuple(numbers("--batches", self.batches, int, "1,2,4")),
            memory=self.memory,
            cpu_time=self.cpu_time,
            seed=self.seed,
        )


@bundled
def speed(
    model: Model,
    work: Work,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder for speed.json and speed.md (scaling.json, questions.json ...).", rich_help_panel=_OUTPUT
        ),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the plots, too, into the folder of --out.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[bool, options.as_json(_OUTPUT)] = False,
) -> None:
    """Time the unpruned model and pruned ones in turns, stage by stage, and weigh their memory."""
    from prunevid.cli import common

    if model.shape == "list":
        from prunevid.bench import shapes

        common.print_json(shapes.names()) if as_json else typer.echo("\n".join(shapes.names()))
        return
    if plot and (out is None or work.questions is not None):
        reason = "needs a folder; name one by --out" if out is None else "has nothing to draw of --questions"
        raise typer.BadParameter(f"{reason}.", param_hint="--plot")
    if work.scaling and work.questions is not None:
        raise typer.BadParameter(
            "is another measurement than --scaling; ask for one of them.", param_hint="--questions"
        )
    settings = work.settings()  # what it refuses is refused before a model is made
    with common.working("Making the model") as tell:
        result = work.measured(model.subject(work.seed), settings, tell)
        files = _write(result, out, plot)
    _print(result, as_json)
    tell_written(files)


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


def _write(result: Result, out: Path | None, plot: bool) -> list[Path]:
    """The files of a result."""
    if out is None:
        return []
    import json

    from prunevid.bench import QuestionsResult, document
    from prunevid.bench.text import grids, headline
    from prunevid.files import write_files

    stem = out / result.stem
    tables = "\n\n".join(f"**{grid.title}**\n\n{grid.markdown()}" for grid in grids(result))
    contents = {
        stem.with_suffix(".json"): json.dumps(document(result), indent=2) + "\n",
        stem.with_suffix(".md"): f"{headline(result)}\n\n{tables}\n",
    }
    write_files({path: text.encode() for path, text in contents.items()})
    if not plot or isinstance(result, QuestionsResult):
        return list(contents)
    from prunevid.bench.plots import write_plots

    return [*contents, *write_plots(result, stem)]


def _print(result: Result, as_json: bool) -> None:
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
