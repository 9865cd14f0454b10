# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval mvbench`, `videomme`, `egoschema`, `vcgbench`: run a benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.cli import options
from prunevid.cli.bundles import Pruning, bundled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from prunevid.evaluation.runs import Record, Run

_BENCHMARK = "Benchmark"
_NAMED = 5  # clips that could not be read and are named
SUMMARIES = {
    "mvbench": "Run MVBench: 20 tasks, multiple choice.",
    "videomme": "Run Video-MME: multiple choice about short, medium and long clips.",
    "egoschema": "Run EgoSchema: multiple choice; scores the public part, and writes the file to submit.",
    "vcgbench": "Run VideoChatGPT-Bench: answers in free words, which `prunevid eval judge` scores.",
}


@dataclass(frozen=True)
class Asked:
    """What is asked, by which protocol, and where the answers go."""

    data: Annotated[
        Path,
        typer.Option(
            help="Folder of MVBench/, Video-MME/, ego_schema/ and VCGBench/.",
            rich_help_panel=_BENCHMARK,
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            help="The run's folder: answers, settings and scores. The same command goes on where it stopped.",
            rich_help_panel=_BENCHMARK,
        ),
    ]
    protocol: Annotated[
        str,
        typer.Option(
            help="paper (prompts, frames and matching of the published numbers) or lmms (those of lmms-eval).",
            rich_help_panel=_BENCHMARK,
        ),
    ] = "paper"
    frames: Annotated[
        int | None,
        typer.Option(help="Frames of a clip. Default: what the protocol says.", rich_help_panel=_BENCHMARK),
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only this task ('Action Count'); may be given repeatedly.", rich_help_panel=_BENCHMARK),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(help="Only the first so many questions of each task.", rich_help_panel=_BENCHMARK),
    ] = None
    subtitles: Annotated[
        bool, typer.Option("--subtitles", help="Video-MME with its subtitles.", rich_help_panel=_BENCHMARK)
    ] = False
    subtitles_before_video: Annotated[
        bool,
        typer.Option(
            "--subtitles-before-video",
            help="Put them before the video instead of the question, so that tokens are not chosen by them.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = False
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Length of an answer in tokens, at most. Default: what the protocol says.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = None
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Ask those again whose clip could not be read.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = False

    def arguments(self) -> dict[str, Any]:
        """The fields by their names in a `Request`."""
        own = {name: value for name, value in vars(self).items() if name not in ("task", "retry_errors")}
        return {**own, "tasks": tuple(self.task or ())}


@dataclass(frozen=True)
class Loading:
    """Which model, and where it runs."""

    model: options.Model = None
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps. Default: the best there is, and under accelerate launch a GPU for each "
            "process; cpu for the embedded model.",
            rich_help_panel=options.MODEL,
        ),
    ] = None
    device_map: Annotated[
        str | None,
        typer.Option(help="auto: one model over several GPUs, in one process.", rich_help_panel=options.MODEL),
    ] = None
    dtype: options.Dtype = "auto"
    attn_implementation: Annotated[
        str | None,
        typer.Option(
            "--attn-implementation",
            "--attn",
            help=options.KERNEL_HELP,
            rich_help_panel=options.MODEL,
        ),
    ] = None
    lora_alpha: Annotated[
        float | None,
        typer.Option(
            help="Scale of PLLaVA's adapters, where they lie apart. Default: 14, and 4 for vcgbench, as published.",
            rich_help_panel=options.MODEL,
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """What was said beyond the model, by its name in `Request.loading`."""
        given = {**vars(self), "dtype": None if self.dtype == "auto" else self.dtype}
        return {name: value for name, value in given.items() if name != "model" and value is not None}


def command(benchmark: str) -> Callable[..., int]:
    """The command that runs one benchmark.

    Args:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
    """

    def run(
        *,
        asked: Asked,
        loading: Loading,
        pruning: Pruning,
        setting: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=VALUE",
                help="An option of the method, as keep_ratio=0.3; may be given repeatedly. Default for PLLaVA with "
                "prunevid: those of the benchmark's published run.",
                rich_help_panel=options.PRUNING,
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the scores as one JSON document.")] = False,
    ) -> int:
        from prunevid.cli import common
        from prunevid.evaluation.command import run_benchmark
        from prunevid.evaluation.distributed import Place
        from prunevid.evaluation.request import Request

        place = Place.of_environment()
        request = Request(
            benchmark=benchmark,
            model=loading.model,
            method_options=common.method_options(setting or ()),
            loading=loading.arguments(),
            **pruning.arguments(),
            **asked.arguments(),
        )
        found = run_benchmark(request, tell=_tell, retry_errors=asked.retry_errors, place=place)
        return report(found, as_json) if place.main else 0

    run.__doc__ = SUMMARIES[benchmark]
    return bundled(run)


def _tell(line: str) -> None:
    """A line for people, who may read it in a log."""
    print(line, file=sys.stderr, flush=True)


def report(run: Run, as_json: bool) -> int:
    """Prints the scores of a finished run, and what could not be asked.

    Returns:
        The exit status: 1 where nothing at all could be asked.
    """
    from prunevid.cli import common
    from prunevid.evaluation.runs import RESULTS

    results = json.loads((run.folder / RESULTS).read_text(encoding="utf-8"))
    errors = [record for record in run.records.values() if record.error is not None]
    if as_json:
        common.print_json({"out": str(run.folder), "results": results})
    else:
        _show(run, results, errors, common.console())
    return 1 if len(errors) == len(run.records) else 0


def _show(run: Run, results: Mapping[str, Any], errors: Sequence[Record], console: Console) -> None:
    from rich.markup import escape

    console.print(_table(results))
    for line in (*_means(results), *_what_failed(errors), *_what_next(run)):
        console.print(escape(line), soft_wrap=True, highlight=False)


def _table(results: Mapping[str, Any]) -> Table:
    """A row for each task, and for the other groups that a benchmark is reported in."""
    from rich.table import Table

    title = f"{results['benchmark']}: {results['n']} questions"
    table = Table(title=title, title_justify="left", pad_edge=False, box=None)
    scored = "accuracy" in results
    table.add_column("task")
    for name in ("questions", "not asked", *(("unreadable", "right %", "strict %") if scored else ())):
        table.add_column(name, justify="right")
    groups = [results.get(name, {}) for name in ("tasks", "duration", "domain", "sub_category", "task_type")]
    groups += [{"answers that are public": results["subset"]}] if "subset" in results else []
    for rows in groups:
        for name, row in rows.items():
            shares = (str(row["unreadable"]), _percent(row["correct"]), _percent(row["strict"])) if scored else ()
            table.add_row(name, str(row["n"]), str(row["errors"]), *shares)
        table.add_section()
    return table


def _means(results: Mapping[str, Any]) -> Iterable[str]:
    """The means over questions and over tasks, named as such."""
    names = {"correct": "By the protocol's matcher", "strict": "By the strict matcher"}
    for matcher, found in results.get("accuracy", {}).items():
        if found["micro"] is None:
            yield "No right answer is known here, so nothing is scored."
            return
        micro, macro = _percent(found["micro"]), _percent(found["macro"])
        yield f"{names[matcher]}: {micro} % of the questions (micro), {macro} % as the mean over tasks (macro)."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _what_failed(errors: Sequence[Record]) -> Iterable[str]:
    """How many questions had no answer, and about which clips."""
    if not errors:
        return
    clips = {record.video: record.error for record in errors}
    yield f"{len(errors)} questions could not be asked, about {len(clips)} clips; --retry-errors asks them again:"
    for video, error in list(clips.items())[:_NAMED]:
        yield f"  {video}: {error}"
    if len(clips) > _NAMED:
        yield f"  and {len(clips) - _NAMED} more; answers.jsonl names them all."


def _what_next(run: Run) -> Iterable[str]:
    """Where the results are, and what is to be done with them."""
    yield f"Answers and scores are in {run.folder}."
    if run.settings.benchmark == "vcgbench":
        yield f"A judge scores them: prunevid eval judge {run.folder}"
    if run.settings.benchmark == "egoschema":
        from prunevid.evaluation.command import SUBMISSION
        from prunevid.evaluation.egoschema import submit_commands

        yield "The answers are not posted. To hand them in, type one of:"
        yield from (f"  {line}" for line in submit_commands(run.folder / SUBMISSION))
