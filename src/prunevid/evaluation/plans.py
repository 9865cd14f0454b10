# SPDX-License-Identifier: Apache-2.0
"""The plan of a sweep: a YAML file with what all points have in common and what is varied.

    benchmark, data, model, protocol, frames, max_new_tokens, tasks, limit, subtitles,
    subtitles_before_video, loading   of every point
    out             folder of the sweep
    baseline        false: do not add the run of method none
    base            the point that the others depart from
    one_at_a_time   {name: [values]}: the base, and the base with one setting changed
    grid            {name: [values]}, or a list of such: all combinations
    points          [{name: value}]: as they are, departing from the base

A point names a method, a preset, a budget, and options of the method. Where it names another method than the base, it
takes only the budget from it. `EXAMPLE` is a worked one.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.errors import ConfigError, InputError, one_line
from prunevid.evaluation.items import BENCHMARKS
from prunevid.evaluation.request import Request
from prunevid.evaluation.yaml_lines import Place, read_yaml

EXAMPLE = Path(__file__).with_name("ablation.yaml")
BUDGET = ("retention_ratio", "retention_tokens", "average_over_layers")
POINT = ("method", "preset", *BUDGET)
LOADING = (
    "device",
    "dtype",
    "device_map",
    "attn_implementation",
    "lora_alpha",
    "revision",
    "cache_dir",
    "max_memory",
    "offload_folder",
)
_KINDS: dict[str, tuple[type, str]] = {
    "benchmark": (str, "a benchmark's name"),
    "data": (str, "a folder"),
    "out": (str, "a folder"),
    "model": (str, "a folder or hub id"),
    "protocol": (str, "paper or lmms"),
    "frames": (int, "a whole number"),
    "max_new_tokens": (int, "a whole number"),
    "limit": (int, "a whole number"),
    "subtitles": (bool, "true or false"),
    "subtitles_before_video": (bool, "true or false"),
    "baseline": (bool, "true or false"),
    "tasks": (list, "a list of tasks' names"),
    "loading": (dict, "a mapping"),
    "base": (dict, "a mapping"),
    "one_at_a_time": (dict, "a mapping of names to lists"),
    "grid": (object, "a mapping of names to lists, or a list of those"),
    "points": (list, "a list of mappings"),
}
_COMMON = (
    *("benchmark", "model", "protocol", "frames", "max_new_tokens", "limit"),
    *("subtitles", "subtitles_before_video", "loading"),
)


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: of its folder; the same in every plan that has the point.
        settings: method, preset, budget and options, by name.
    """

    name: str
    settings: Mapping[str, Any]

    def request(self, common: Mapping[str, Any], data: Path, out: Path) -> Request:
        """What the point asks for, in a folder of its own below `out`."""
        own = {name: value for name, value in self.settings.items() if name in POINT}
        options = {name: value for name, value in self.settings.items() if name not in POINT}
        return Request(data=data, out=out / self.name, **common, **own, method_options=options)


@dataclass(frozen=True)
class Plan:
    """A plan, checked.

    Attributes:
        path: its file.
        data: see `Request`.
        out: what the plan says; None: nothing.
        common: arguments of `Request` that all points share.
        points: each once, the baseline first.
    """

    path: Path
    data: Path
    out: Path | None
    common: Mapping[str, Any]
    points: Sequence[Point]

    def requests(self, out: Path) -> dict[str, Request]:
        """A request for each point by its name, below the folder `out`."""
        return {point.name: point.request(self.common, self.data, out) for point in self.points}


def read_plan(path: str | Path) -> Plan:
    """Reads a plan and checks every point of it. Folders in it are taken from where the program runs.

    Raises:
        InputError: the file can't be read or is no YAML, or an entry is unknown or of the wrong kind (which line).
    """
    path = Path(path)
    content, lines = read_yaml(path)
    document = _Document(path, content, lines)
    document.check()
    common = {name: content[name] for name in _COMMON if name in content}
    common["tasks"] = tuple(content.get("tasks", ()))
    out = content.get("out")
    return Plan(path, _folder(content["data"]), _folder(out) if out else None, common, document.points())


def _folder(name: str) -> Path:
    return Path(name).expanduser()


@dataclass(frozen=True)
class _Document:
    """A plan as it was read, with the lines for complaints."""

    path: Path
    content: dict[str, Any]
    lines: Mapping[Place, int]

    def complaint(self, place: Place, text: str) -> InputError:
        """An error that names the file and the line of an entry."""
        while place and place not in self.lines:
            place = place[:-1]
        return InputError(f"{self.path}, line {self.lines.get(place, 1)}: {text}")

    def check(self) -> None:
        """Names and kinds of the entries at the top.

        Raises:
            InputError: one is unknown, missing, or of the wrong kind.
        """
        for name, value in self.content.items():
            if name not in _KINDS:
                raise self.unknown((name,), name, _KINDS, "entry of a plan")
            kind, words = _KINDS[name]
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is None or not (whole if kind is int else isinstance(value, kind)):
                raise self.complaint((name,), f"{name} is {value!r}, but must be {words}.")
        for name in ("benchmark", "data"):
            if name not in self.content:
                raise InputError(f"{self.path} does not say {name!r}; `prunevid eval sweep --example` shows how.")
        if self.content["benchmark"] not in BENCHMARKS:
            raise self.unknown(("benchmark",), self.content["benchmark"], BENCHMARKS, "benchmark")
        for name in self.content.get("loading", {}):
            if name not in LOADING:
                raise self.unknown(("loading", name), name, LOADING, "argument of loading")
        for index, task in enumerate(self.content.get("tasks", ())):
            if not isinstance(task, str):
                raise self.complaint(("tasks", index), f"{task!r} is no task's name.")

    def unknown(self, place: Place, name: Any, known: Any, what: str) -> InputError:
        """A complaint about a name, with the nearest that is known."""
        near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
        nearest = f" (do you mean {near[0]!r}?)" if near else ""
        return self.complaint(place, f"{name!r} is no {what}{nearest}; choose from {', '.join(known)}.")

    def points(self) -> list[Point]:
        """All points, each once, in the order of the plan, the baseline first.

        Raises:
            InputError: a name or value does not fit (which line), or there is no point.
        """
        found: dict[str, Point] = {}
        names: set[str] = set()
        for settings, places in self._settings():
            same = _same_as(self._checked(settings, places), settings)
            if same in found:
                continue
            name = point_name(settings)
            if name.casefold() in names:  # two that are written alike: the folder says which
                name = f"{name},{_digest(same)}"
            names.add(name.casefold())
            found[same] = Point(name, settings)
        if not found:
            raise InputError(f"{self.path} has no points; give base, one_at_a_time, grid or points.")
        points = list(found.values())
        plain = [point for point in points if point.settings["method"] == "none"]
        if not plain and self.content.get("baseline", True):
            plain = [Point("none", {"method": "none"})]
        return [*plain, *(point for point in points if point not in plain)]

    def _settings(self) -> Iterator[tuple[dict[str, Any], dict[str, Place]]]:
        """The settings of each point with the places of their entries; some may come twice."""
        base = self.content.get("base", {})
        places = {name: ("base", name) for name in base}
        axes, grids, own = (self.content.get(name) for name in ("one_at_a_time", "grid", "points"))
        if axes is not None or (base and grids is None and own is None):
            yield _departing({}, base), places
        for name, values in (axes or {}).items():
            place = ("one_at_a_time", name)
            for index, value in enumerate(self._values(place, values)):
                yield _departing(base, {name: value}), {**places, name: (*place, index)}
        for number, grid in enumerate(grids if isinstance(grids, list) else [grids] if grids is not None else []):
            at_grid: Place = ("grid", number) if isinstance(grids, list) else ("grid",)
            if not isinstance(grid, dict) or not grid:
                raise self.complaint(at_grid, f"a grid is {grid!r}, but must be a mapping of names to lists.")
            columns = [self._values((*at_grid, name), values) for name, values in grid.items()]
            for chosen in itertools.product(*(range(len(column)) for column in columns)):
                changes = {name: column[i] for name, column, i in zip(grid, columns, chosen)}
                at = {name: (*at_grid, name, i) for name, i in zip(grid, chosen)}
                yield _departing(base, changes), {**places, **at}
        for number, changes in enumerate(own or []):
            if not isinstance(changes, dict):
                raise self.complaint(("points", number), f"a point is {changes!r}, but must be a mapping.")
            yield _departing(base, changes), {**places, **{name: ("points", number, name) for name in changes}}

    def _values(self, place: Place, values: Any) -> list[Any]:
        if not isinstance(values, list) or not values:
            raise self.complaint(place, f"{place[-1]} is {values!r}, but must be a list of values to try.")
        return values

    def _checked(self, settings: Mapping[str, Any], places: Mapping[str, Place]) -> Any:
        """The method that the settings name.

        Raises:
            InputError: they name none, with the line of the entry at fault.
        """
        from prunevid.choice import choose_method

        given = {name: value for name, value in settings.items() if name in POINT}
        options = {name: value for name, value in settings.items() if name not in POINT}
        for name in ("method", "preset"):
            if name in given and not isinstance(given[name], str):
                raise self.complaint(places.get(name, ()), f"{name} is {given[name]!r}, but must be a name.")
        try:
            return choose_method(**given, method_options=options)
        except (ConfigError, TypeError) as error:
            text = one_line(error)
            blamed = [name for name in places if repr(name) in text or text.startswith(f"{name} ")]
            blamed += [name for name, value in settings.items() if name in places and repr(value) in text]
            place = places[blamed[0]] if blamed else next(reversed(list(places.values())), ())
            raise self.complaint(place, text) from error


def _departing(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with changes: of another method only its budget, and one budget at a time."""
    kept = dict(base)
    if "method" in changes and changes["method"] != base.get("method", "prunevid"):
        kept = {name: value for name, value in base.items() if name in BUDGET and changes["method"] != "none"}
    for one, other in (("retention_ratio", "retention_tokens"), ("retention_tokens", "retention_ratio")):
        if one in changes and other not in changes:
            kept.pop(other, None)
    merged = {"method": "prunevid", **kept, **changes}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in merged.items()}


def _same_as(method: Any, settings: Mapping[str, Any]) -> str:
    """A text that is the same for points that surely ask for the same.

    What a preset says is written out, but for what a model may replace in it; what nobody said stays unsaid, because
    models and benchmarks have defaults of their own.
    """
    said = dict(settings)
    preset = said.pop("preset", None)
    if preset is not None:
        from prunevid.config import get_preset

        config = dataclasses.asdict(get_preset(preset))
        said = {name: value for name, value in config.items() if name not in ("pruning_layer", "max_frames")} | said
    said = {name: float(value) if type(value) is int else value for name, value in said.items() if value is not None}
    return json.dumps([method.label, bool(preset), said], sort_keys=True, default=str)


def point_name(settings: Mapping[str, Any]) -> str:
    """A folder's name that says what the point is: "prunevid,preset=paper,tau=0.7"."""
    order = [*(name for name in POINT if name in settings), *sorted(name for name in settings if name not in POINT)]
    parts = [
        str(settings[name]) if name == "method" else f"{name}={_written(settings[name])}"
        for name in order
        if settings[name] is not None
    ]
    plain = ",".join(parts).replace("|", "+").replace(" ", "")
    name = re.sub(r"[^A-Za-z0-9.,=+_-]", "-", plain)
    if name != plain or len(name) > 180:
        name = f"{name[:160]},{_digest(plain)}"
    return name


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "-".join(map(_written, value))
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
