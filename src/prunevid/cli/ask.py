# SPDX-License-Identifier: Apache-2.0
"""`prunevid ask CLIP [QUESTION]`: one question about one clip, or one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli import asking, options
from prunevid.cli.bundles import Loading, Pruning, Reading, bundled

if TYPE_CHECKING:
    from pathlib import Path

    from prunevid.answers import Answer
    from prunevid.qa import VideoQA


@dataclass(frozen=True)
class Settings:
    """Settings of PruneVid, one by one."""

    tau: Annotated[
        float | None,
        typer.Option(help="A place is static above this similarity over a scene.", rich_help_panel=options.PRUNING),
    ] = None
    cluster_ratio: Annotated[
        float | None,
        typer.Option(help="Share of tokens that merging leaves, above 0 to 1.", rich_help_panel=options.PRUNING),
    ] = None
    temporal_segment_ratio: Annotated[
        float | None, typer.Option(help="Scene clusters for each frame, above 0 to 1.", rich_help_panel=options.PRUNING)
    ] = None
    keep_ratio: Annotated[
        float | None,
        typer.Option(help="Share of merged tokens that the question keeps, 0 to 1.", rich_help_panel=options.PRUNING),
    ] = None
    pruning_layer: Annotated[
        int | None,
        typer.Option(
            help="Decoder layer (from 0) after which tokens go. Default: 10 of 32, scaled to the depth.",
            rich_help_panel=options.PRUNING,
        ),
    ] = None


@dataclass(frozen=True)
class LongReading(Reading):
    """Which frames, also by a budget, within limits, and how many at a time."""

    max_frames: options.MaxFramesOrAuto = None  # type: ignore[assignment]
    token_budget: options.TokenBudget = None
    flops_budget: options.FlopsBudget = None
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Refuse clips longer than this; 4 hours by default.", rich_help_panel=options.FRAMES),
    ] = None
    max_pixels: Annotated[
        int | None,
        typer.Option(help="Refuse frames of more pixels; 4096 x 4096 by default.", rich_help_panel=options.FRAMES),
    ] = None
    vision_chunk_frames: options.VisionChunkFrames = "auto"

    def budgets(self) -> dict[str, Any]:
        """The budgets by name, as `VideoQA.ask` takes them."""
        return {"token_budget": self.token_budget, "flops_budget": self.flops_budget}


@dataclass(frozen=True)
class Answering:
    """How questions are answered, and what is told of it."""

    max_new_tokens: options.NewTokens = None
    temperature: Annotated[
        float | None,
        typer.Option(help="Sample with this temperature instead of greedy decoding.", rich_help_panel=options.ANSWER),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", rich_help_panel=options.ANSWER)] = 0
    follow_up: Annotated[
        bool,
        typer.Option(
            "--follow-up",
            help="Without QUESTION: every question sees the earlier ones and their answers. Default: each alone.",
            rich_help_panel=options.ANSWER,
        ),
    ] = False
    max_open_bytes: Annotated[
        int | None,
        typer.Option(
            help="Without QUESTION: bytes held from one question to the next, at most. Default: 4 GiB.",
            rich_help_panel=options.ANSWER,
        ),
    ] = None
    stats: Annotated[
        bool, typer.Option("--stats", help="Also print what was kept and what it cost.", rich_help_panel=options.ANSWER)
    ] = False
    flops: Annotated[
        bool,
        typer.Option(
            "--flops", help="Also count the prefill's FLOPs (two more prefills).", rich_help_panel=options.ANSWER
        ),
    ] = False

    def generating(self) -> dict[str, Any]:
        """Arguments of `VideoQA.ask` that `generate` takes."""
        sampling = {} if self.temperature is None else {"do_sample": True, "temperature": self.temperature}
        return {"max_new_tokens": self.max_new_tokens, **sampling}

    def check(self, question: str | None, budget: bool) -> None:
        """Refuses options that belong to the other way of asking, and numbers out of range.

        Args:
            question: None where questions are read line by line.
            budget: whether frames are taken by a budget.
        """
        if self.max_open_bytes is not None and self.max_open_bytes < 1:
            raise typer.BadParameter("must be at least 1.", param_hint="--max-open-bytes")
        if question is None and self.flops:
            raise typer.BadParameter("needs a QUESTION.", param_hint="--flops")
        if question is None and budget:
            raise typer.BadParameter("a budget of frames needs a QUESTION.", param_hint="--max-frames")
        given = {"--follow-up": self.follow_up, "--max-open-bytes": self.max_open_bytes is not None}
        for name, wanted in given.items():
            if question is not None and wanted:
                raise typer.BadParameter("is for questions read line by line; leave QUESTION out.", param_hint=name)
        if self.temperature is not None and self.temperature <= 0:
            raise typer.BadParameter("must be above 0 (leave it out for greedy decoding).", param_hint="--temperature")


@bundled
def ask(
    clip: options.Clip,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUESTION]",
            help="What to ask about the clip. Without it questions are read line by line until an empty line or /quit.",
            show_default=False,
        ),
    ] = None,
    *,
    loading: Loading,
    pruning: Pruning,
    settings: Settings,
    reading: LongReading,
    answering: Answering,
    as_json: options.Json = False,
) -> None:
    """Ask a clip one question, or many without reading it again; greedy decoding unless --temperature is given."""
    from prunevid.cli import common

    budgets = reading.budgets()
    answering.check(question, reading.max_frames == "auto" or any(budgets.values()))
    frames = reading.arguments() | {
        "max_frames": common.frames(reading.max_frames),
        "limits": common.limits(reading.max_seconds, reading.max_pixels),
    }
    chunk_frames = common.chunk_frames(reading.vision_chunk_frames)
    qa = common.load(loading, pruning, overrides=dataclasses.asdict(settings))
    qa.vision_chunk_frames = chunk_frames

    def show(answer: Answer) -> None:
        if as_json:
            common.print_json(_document(answer, qa, loading.model), lines=question is None)
            return
        typer.echo(answer.text)
        if (answering.stats or answering.flops) and answer.stats:
            common.console().print(common.stats_table(answer.stats))

    if question is None:
        if _ask_lines(qa, clip, answering, frames, show):
            raise typer.Exit(2)
        return
    import torch

    with common.working("Reading the clip") as tell:
        frames["progress"] = common.reading(tell)
        torch.manual_seed(answering.seed)
        answer = qa.ask(clip, question, measure_flops=answering.flops, **budgets, **frames, **answering.generating())
    show(answer)


def _ask_lines(
    qa: VideoQA, clip: Path, answering: Answering, frames: dict[str, Any], show: Callable[[Answer], None]
) -> int:
    """Answers questions that are read line by line; how many could not be asked."""
    import torch

    from prunevid.cli import common
    from prunevid.opened import MAX_OPEN_BYTES

    def ask_held(text: str, turns: list[tuple[str, str]]) -> Answer:
        torch.manual_seed(answering.seed)  # the answer is that of the question alone, whatever was asked before
        return video.ask(text, history=turns if answering.follow_up else (), **answering.generating())

    with ExitStack() as held:
        with common.working("Reading the clip") as tell:
            most = answering.max_open_bytes or MAX_OPEN_BYTES
            video = held.enter_context(qa.open(clip, max_open_bytes=most, progress=common.reading(tell), **frames))
        return asking.loop(video, ask_held, show)


def _document(answer: Answer, qa: VideoQA, model: str | None) -> dict[str, Any]:
    """An answer as JSON types, with what was asked of which model."""
    from prunevid.cli import common
    from prunevid.comparing import options_of

    return {
        **common.as_dict(answer),
        "model": model or "builtin",
        "method": qa.method.label,
        "options": options_of(qa.method),
        "config": common.settings(qa.config),
    }
