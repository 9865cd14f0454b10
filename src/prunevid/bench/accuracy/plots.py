# SPDX-License-Identifier: Apache-2.0
"""Accuracy against what is kept and what it costs: over all questions, and for every kind by itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunevid.bench.accuracy.entries import NO_VIDEO, UNPRUNED
from prunevid.bench.accuracy.kinds import GROUPS
from prunevid.bench.accuracy.results import ALL
from prunevid.choice import choose_method
from prunevid.view import style

KEPT = ("kept", "visual tokens kept (%)")
FLOPS = ("flops", "FLOPs of the prefill, layer by layer (%)")
LAYER = ("layer", "0-based layer after which is chosen")
_COLUMNS = 5
BEFORE, INSIDE = "Fewer visual tokens before the language model", "A choice inside it"


def series_of(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The points of a method or control by its name, at one layer; at all of them where the layer is what is varied.

    Those that everything is measured by are left out.
    """
    sweep, several = over_layers(results), len(_layers(results)) > 1
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in results["points"]:
        name = str(point["name"])
        if name in (UNPRUNED, NO_VIDEO) or point["control"] == "keep all" or (sweep and point["layer"] is None):
            continue
        if point["layer"] is not None and not sweep:
            name += f", layer {point['layer']}" if several else ", inside"
        found.setdefault(name, []).append(point)
    return found


def over_layers(results: Mapping[str, Any]) -> bool:
    """Whether a run varies the layer of the choice, so that its plots have layers along the bottom."""
    return len(_layers(results)) > 3


def _layers(results: Mapping[str, Any]) -> set[int]:
    return {point["layer"] for point in results["points"] if point["layer"] is not None}


def _place(point: Mapping[str, Any], name: str) -> float:
    """Where a point stands along an axis."""
    return float(point[name]) if name == LAYER[0] else 100 * float(point[name])


def save_plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws accuracy.svg, ... and kinds.svg, ... for light and for dark pages.

    Returns:
        The files.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    whole = style.save_all(functools.partial(_draw_all, results), folder / "accuracy")
    return [*whole, *style.save_all(functools.partial(_draw_kinds, results), folder / "kinds")]


def _draw_all(results: Mapping[str, Any], theme: style.Theme) -> Any:
    """Both axes beside each other, with intervals; what shortens the prompt before the language model in a row of its
    own, for it costs far less than what is chosen inside, and does far worse."""
    early, late = {}, {}
    for name, points in series_of(results).items():
        if _early(points[0]) and not over_layers(results):
            early[name.removesuffix(", inside")] = points
        else:
            late[name.removesuffix(", inside")] = points
    rows = [(title, part) for title, part in ((BEFORE, early), (INSIDE, late)) if part]
    size = (12.0, 0.6 + sum(max(4.2, 0.9 + 0.26 * len(part)) for _, part in rows))
    with style.figure(theme, size=size, rows=len(rows), columns=2, sharey="row") as (figure, axes):
        for (title, part), (left, right) in zip(rows, axes):
            for axis, (name, label) in zip((left, right), (LAYER if over_layers(results) else KEPT, FLOPS)):
                _levels(axis, theme, results, ALL, (UNPRUNED,) if early and part is late else (UNPRUNED, NO_VIDEO))
                for index, (called, points) in enumerate(part.items()):
                    _draw_series(axis, theme, index, called, points, name, ALL, intervals=True)
                axis.set_xlabel(label)
            left.set_ylabel("open answers right (%)")
            left.set_title(title, loc="left")
            _legend(right, [UNPRUNED, *sorted(part, key=functools.partial(_best, part), reverse=True), NO_VIDEO])
        figure.suptitle(f"{results['questions'][ALL]} questions, {results['clips']} clips ({results['split']})")
    return figure


def _early(point: Mapping[str, Any]) -> bool:
    """Whether the language model is given fewer visual tokens than there are."""
    if point["layer"] is None or point["control"] == "stage 1, random":
        return True
    method = point["method"]
    return bool(method) and choose_method(method, method_options=point["options"]).merges


def _best(series: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> float:
    return max(float(point["open"][ALL]["accuracy"]) for point in series[name])


def _legend(axis: Any, order: Sequence[str]) -> None:
    """Beside the axes, from top to bottom as the lines are."""
    handles, labels = axis.get_legend_handles_labels()
    known = dict(zip(labels, handles))
    names = [name for name in order if name in known]
    axis.legend([known[name] for name in names], names, loc="upper left", bbox_to_anchor=(1.02, 1.02))


def _draw_kinds(results: Mapping[str, Any], theme: style.Theme) -> Any:
    """A small plot for each kind, against FLOPs or layers."""
    name, label = LAYER if over_layers(results) else FLOPS
    kinds = [kind for group in GROUPS.values() for kind in group if kind in results["questions"]]
    rows = -(-len(kinds) // _COLUMNS)
    series = series_of(results)
    size = (14.0, 2.4 * rows + 0.8 + 0.24 * -(-len(series) // 4))
    with style.figure(theme, size=size, rows=rows, columns=_COLUMNS, sharex=True, sharey=True) as (figure, axes):
        grid = [axes] if rows == _COLUMNS == 1 else list(axes.flat)
        for axis, kind in zip(grid, kinds):
            _levels(axis, theme, results, kind)
            for index, (title, points) in enumerate(series.items()):
                _draw_series(axis, theme, index, title, points, name, kind, intervals=False)
            axis.set_title(f"{kind} ({results['questions'][kind]})", fontsize=10)
        for axis in grid[len(kinds) :]:
            axis.set_visible(False)
        figure.suptitle(f"Open answers right (%), by kind of question, against {label}", fontsize=12)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _levels(
    axis: Any,
    theme: style.Theme,
    results: Mapping[str, Any],
    kind: str,
    names: Sequence[str] = (UNPRUNED, NO_VIDEO),
) -> None:
    """The unpruned model and the model without a video as lines across."""
    for point in results["points"]:
        if point["name"] in names:
            level = 100 * point["open"][kind]["accuracy"]
            line = "--" if point["name"] == UNPRUNED else ":"
            axis.axhline(level, color=theme.muted, linestyle=line, linewidth=1.4, label=point["name"])


def _draw_series(
    axis: Any,
    theme: style.Theme,
    index: int,
    title: str,
    points: Sequence[Mapping[str, Any]],
    name: str,
    kind: str,
    *,
    intervals: bool,
) -> None:
    """One method, or with a dotted line one control: its points from left to right."""
    known = sorted(points, key=lambda point: _place(point, name))
    found = [point["open"][kind] for point in known]
    values = [100 * one["accuracy"] for one in found]
    spread = [
        [100 * max(0.0, one["accuracy"] - one["low"]) for one in found],
        [100 * max(0.0, one["high"] - one["accuracy"]) for one in found],
    ]
    axis.errorbar(
        [_place(point, name) for point in known],
        values,
        yerr=spread if intervals else None,
        color=theme.colour(index),
        marker=theme.marker(index),
        markersize=7 if intervals else 5,
        linestyle="none" if len(known) == 1 else "-" if known[0]["control"] == "method" else ":",
        elinewidth=1.0,
        linewidth=1.6,
        label=title,
    )
