# SPDX-License-Identifier: Apache-2.0
"""Runs all points of a plan, each in a folder of its own, and makes the table over them.

A sweep's folder holds a run's folder for each point and

    sweep.json     what each point asked for, and whether it is finished or can't run
    table.*, ...   the table over all points, made anew at the end of each sweep

A point that was finished is not run again; one that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prunevid.errors import ConfigError, InputError, MissingDependencyError, UnsupportedError, one_line
from prunevid.evaluation.plans import Plan
from prunevid.evaluation.request import Request
from prunevid.evaluation.runs import SETTINGS, Run
from prunevid.evaluation.tables import Section
from prunevid.files import replace_files

STATE = "sweep.json"
FINISHED, FAILED = "finished", "failed"
_ELSEWHERE = ("data", "out")
_PLACING = ("device", "device_map", "max_memory", "offload_folder", "cache_dir")

Tell = Callable[[str], None]
Pair = tuple[Any, Any]


class RunBenchmark(Protocol):
    """`prunevid.evaluation.command.run_benchmark`, or what stands in for it."""

    def __call__(self, request: Request, loaded: Pair | None = None, tell: Tell | None = None) -> Run: ...


@dataclass(frozen=True)
class Swept:
    """What became of a sweep.

    Attributes:
        finished: names of the points that are finished, now or before.
        ran: those of them that were run now.
        failed: names of the points whose method can't run on this model, with the reason.
        sections: the table over the finished points; None in a process that makes none.
        files: of the table.
    """

    finished: Sequence[str]
    ran: Sequence[str]
    failed: Mapping[str, str]
    sections: Sequence[Section] | None
    files: Sequence[Path]


def run_sweep(
    plan: Plan,
    out: Path,
    *,
    run_benchmark: RunBenchmark | None = None,
    load: Callable[[Request], Pair] | None = None,
    tell: Tell | None = None,
    plot: bool = True,
) -> Swept:
    """Runs every point that is not finished, with a model that is loaded once, and makes the table.

    A point whose method does not fit the model is passed over, with the reason; any other error stops the sweep, and
    the same call goes on from there. Under a launcher of several processes each runs its share of each point, and the
    main one keeps the state and makes the table.

    Args:
        plan: what to run.
        out: the sweep's folder.
        run_benchmark: runs one point; None: `prunevid.evaluation.command.run_benchmark`.
        load: the model and processor of a point's request; None: as `run_benchmark` would.
        tell: is given lines for people.
        plot: whether the table's plots are drawn.

    Raises:
        InputError: a finished or begun point asked for something else than the plan does, or a file is at fault.
        PruneVidError: what stopped a point.
    """
    run_benchmark, load, tell = run_benchmark or _run_benchmark, load or load_model, tell or _silent
    requests = plan.requests(out)
    state = _State(out, main=int(os.environ.get("RANK") or 0) == 0)
    state.check(requests)
    loaded: Pair | None = None
    ran: list[str] = []
    failed: dict[str, str] = {}
    for number, (name, request) in enumerate(requests.items(), start=1):
        if state.finished(name):
            tell(f"Point {number} of {len(requests)}: {name} is finished.")
            continue
        tell(f"Point {number} of {len(requests)}: {name}")
        loaded = loaded or load(request)
        state.put(name, request, "begun")
        try:
            run_benchmark(request, loaded, tell)
        except (ConfigError, UnsupportedError) as error:
            failed[name] = one_line(error)
            state.put(name, request, FAILED, failed[name])
            tell(f"{name} can't run: {failed[name]}")
        else:
            ran.append(name)
            state.put(name, request, FINISHED)
    finished = [name for name in requests if name in ran or state.finished(name)]
    sections, files = _table(out, finished, tell, plot) if state.main and finished else (None, [])
    return Swept(finished, ran, failed, sections, files)


def states(plan: Plan, out: Path) -> dict[str, str]:
    """For each point "finished", "begun", "failed" or "new".

    Raises:
        InputError: see `run_sweep`.
    """
    state = _State(out, main=False)
    requests = plan.requests(out)
    state.check(requests)
    return {name: state.of(name) for name in requests}


def load_model(request: Request) -> Pair:
    """The model and processor that a request names, without a pruning, on the device of this process."""
    import torch

    from prunevid.evaluation.distributed import Place
    from prunevid.evaluation.protocols import protocol_for
    from prunevid.evaluation.setup import model_config, open_model, with_published

    plain = Request(request.benchmark, request.data, request.out, request.model, "none", loading=request.loading)
    protocol = protocol_for(request.benchmark, request.protocol, subtitles=request.subtitles)
    plain = with_published(plain, model_config(plain), protocol.defaults, protocol.lora_alpha)
    given = dict(plain.loading)
    if plain.model is None and given.get("device") is None:
        given["device"] = "cpu"
    qa = open_model(plain, Place.of_environment().loading(given, torch.cuda.device_count()))
    return qa.model, qa.processor


def _run_benchmark(request: Request, loaded: Pair | None = None, tell: Tell | None = None) -> Run:
    from prunevid.evaluation.command import run_benchmark

    return run_benchmark(request, loaded, tell)


def _table(out: Path, names: Sequence[str], tell: Tell, plot: bool) -> tuple[Sequence[Section], list[Path]]:
    """The table over the finished points, written; without the plots where matplotlib is missing."""
    from prunevid.evaluation.table_files import write_tables
    from prunevid.evaluation.tables import find_runs, make_table

    sections = make_table(find_runs([out / name for name in names]))
    try:
        return sections, write_tables(sections, out, per_task=True, plot=plot)
    except MissingDependencyError as error:
        tell(str(error))
        return sections, write_tables(sections, out, per_task=True, plot=False)


class _State:
    """sweep.json: what each point asked for and what became of it. Only the main process writes it."""

    def __init__(self, out: Path, main: bool) -> None:
        self.path, self.main = out / STATE, main
        self.points: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {"points": {}}
            points = found["points"]
            if not all(isinstance(entry, dict) and {"asked", "state"} <= entry.keys() for entry in points.values()):
                raise ValueError("an entry is no point")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path} does not hold the state of a sweep ({error}); remove it: finished points are then only "
                "scored again."
            ) from error
        return dict(points)

    def of(self, name: str) -> str:
        """What became of a point; one whose folder was taken away is new."""
        known = self.points.get(name)
        if known is None or (known["state"] == FINISHED and not (self.path.parent / name / SETTINGS).is_file()):
            return "new"
        return str(known["state"])

    def finished(self, name: str) -> bool:
        """Whether a point need not be run."""
        return self.of(name) == FINISHED

    def check(self, requests: Mapping[str, Request]) -> None:
        """Compares what the points asked for when they were begun with what they ask for now.

        Raises:
            InputError: they differ (in what), so that the points would not be comparable.
        """
        for name, request in requests.items():
            if self.of(name) == "new":
                continue
            before, now = self.points[name]["asked"], asked(request)
            differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
            if differing:
                key = differing[0]
                raise InputError(
                    f"{self.path.parent / name} was run with {key} {json.dumps(before.get(key))}, but the plan says "
                    f"{json.dumps(now.get(key))}; give another --out, or put the plan back."
                )

    def put(self, name: str, request: Request, state: str, reason: str | None = None) -> None:
        """Notes what became of a point, on the disk before it returns.

        Raises:
            InputError: it can't be written.
        """
        self.points[name] = {"asked": asked(request), "state": state, **({"reason": reason} if reason else {})}
        if not self.main:
            return
        try:
            replace_files({self.path: (json.dumps({"points": self.points}, indent=2) + "\n").encode()})
        except OSError as error:
            raise InputError(f"{self.path} can't be written ({error.strerror or error}).") from error


def asked(request: Request) -> dict[str, Any]:
    """What of a request changes answers, as JSON types: not where the files are, nor on which device it runs."""
    found = {name: value for name, value in dataclasses.asdict(request).items() if name not in _ELSEWHERE}
    found["loading"] = {name: value for name, value in found["loading"].items() if name not in _PLACING}
    return dict(json.loads(json.dumps(found, sort_keys=True, default=str)))


def _silent(line: str) -> None:
    """Tells nobody."""
