# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval BENCHMARK` as a function: one run of one benchmark, from its files to its scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from prunevid.evaluation.distributed import Others, Place, claimed, merge
from prunevid.evaluation.items import Item
from prunevid.evaluation.progress import Progress
from prunevid.evaluation.request import Request
from prunevid.evaluation.runner import Runner, by_clip
from prunevid.evaluation.runs import RESULTS, Record, Run, answers_digest, read_answers, read_run
from prunevid.evaluation.setup import keep_settings, model_config, open_model, settings_of, with_published
from prunevid.evaluation.writing import Journal, write_json

SUBMISSION = "submission.json"
Tell = Callable[[str], None]


def run_benchmark(
    request: Request,
    loaded: tuple[Any, Any] | None = None,
    tell: Tell | None = None,
    *,
    retry_errors: bool = False,
    place: Place | None = None,
) -> Run:
    """Asks all questions of a benchmark that are not answered yet in the request's folder, and scores the answers.

    Under a launcher of several processes each asks its share, and the main one waits for the others, merges and scores.

    Args:
        request: what to run.
        loaded: a model and its processor to be used instead of loading them, for several runs in turn.
        tell: is given lines for people, and progress; with it, a bar is drawn on stderr where that is a terminal.
        retry_errors: ask those again that are recorded with an error.
        place: which process this is; None: what the launcher says.

    Returns:
        The folder as it is now; in the main process with the records in the order of the questions.

    Raises:
        InputError: files are missing or malformed, the folder holds another run, or one is at work in it.
        ConfigError, UnsupportedModelError: settings that do not fit, or no such model.
        StoppedError: the run could not go on; what was answered is kept, and the same call goes on from there.
    """
    from prunevid.evaluation.benchmarks import load_items
    from prunevid.evaluation.protocols import protocol_for

    place = place or Place.of_environment()
    tell = tell if place.main else None
    subtitles = {"subtitles": request.subtitles, "subtitles_before_video": request.subtitles_before_video}
    protocol = protocol_for(request.benchmark, request.protocol, **subtitles)
    items = load_items(request.benchmark, request.data, tasks=request.tasks, limit=request.limit)
    request = with_published(request, model_config(request), protocol.defaults, protocol.lora_alpha)
    with claimed(request.out, place):
        runner = _runner(request, protocol, items, loaded, place, tell or _silent)
        ask_all(request.out, items, runner, place, tell, retry_errors=retry_errors)
        return _finish(request, items, place)


def _runner(
    request: Request, protocol: Any, items: Sequence[Item], loaded: tuple[Any, Any] | None, place: Place, tell: Tell
) -> Runner:
    """The model, ready to be asked; its settings are in the folder then."""
    import torch

    from prunevid.evaluation.places import benchmark_root

    frames, length = request.frames or protocol.frames, request.max_new_tokens or protocol.max_new_tokens
    given = dict(request.loading)
    if request.model is None and given.get("device") is None:
        given["device"] = "cpu"
    if loaded is None:
        tell(f"Loading {request.model or 'the embedded model'}.")
    qa = open_model(request, place.loading(given, torch.cuda.device_count()), loaded)
    kept = keep_settings(request.out, settings_of(request, qa, protocol, items, frames, length))
    for line in (*kept, *protocol.remarks(qa.model.config)):
        tell(line)
    return Runner(qa, protocol, frames, length, benchmark_root(request.benchmark, request.data))


def ask_all(
    folder: Path,
    items: Sequence[Item],
    runner: Runner,
    place: Place,
    tell: Tell | None = None,
    *,
    retry_errors: bool = False,
) -> None:
    """Asks this process's share of what is not answered yet, and waits for the others in the main process.

    Args:
        folder: of the run, claimed for it.
        items: all of them.

    Raises:
        StoppedError: the run could not go on.
    """
    groups = by_clip(items)
    mine = place.share(groups)
    recorded = {key: record for key, record in read_answers(folder).items() if record.error is None or not retry_errors}
    left = [rest for group in mine if (rest := [item for item in group if item.key not in recorded])]
    known = [recorded[item.key] for group in mine for item in group if item.key in recorded]
    total = sum(map(len, mine))
    if known and tell is not None:
        tell(f"{len(known)} of {total} questions are answered already.")
    shown = Progress(total, known, tell, bar=sys.stderr.isatty())
    others = Others(folder, groups if place.main else (), place, retrying=retry_errors)
    with Journal(folder / place.file) as journal, shown as progress, closing(runner.records(left)) as records:
        for record in records:
            journal.append(record)
            progress.add(record)
            if place.main:
                others.look()
    if place.main:
        others.look()
        others.wait(tell)


def _finish(request: Request, items: Sequence[Item], place: Place) -> Run:
    """Merges and scores, in the main process; the folder as it is, in another one."""
    if not place.main:
        return read_run(request.out)
    records = merge(request.out, items)
    write_results(request.benchmark, request.out, records.values())
    run = read_run(request.out)
    return Run(run.folder, run.settings, records)


def write_results(benchmark: str, folder: Path, records: Iterable[Record]) -> Mapping[str, Any]:
    """Writes results.json, the original's result files for multiple choice, and for EgoSchema the file to be submitted.

    What a judge wrote into results.json stays if it was about the same answers.

    Returns:
        What results.json holds.
    """
    from prunevid.evaluation.egoschema import write_submission
    from prunevid.evaluation.scores import score, write_all_results

    records = list(records)
    keyed = {record.key: record for record in records}
    results = score(benchmark, records)
    write_json(folder / RESULTS, {**results, **_judged(folder / RESULTS, answers_digest(keyed))})
    if benchmark != "vcgbench":
        write_all_results(folder, records)
    if benchmark == "egoschema":
        write_submission(records, folder / SUBMISSION)
    return results


def _judged(path: Path, answers: str) -> dict[str, Any]:
    """The judge's parts of an earlier results.json that are about answers with this digest."""
    from prunevid.evaluation.judging.session import PART, STUB_PART

    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: earlier[name] for name in (PART, STUB_PART) if name in earlier}
        return {name: part for name, part in parts.items() if part["answers"] == answers}
    except (OSError, ValueError, TypeError, KeyError):  # none, or damaged: the scores are written anew
        return {}


def _silent(line: str) -> None:
    """Tells nobody."""
