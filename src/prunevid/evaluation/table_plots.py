# SPDX-License-Identifier: Apache-2.0
"""A plot of a table: what accuracy is left at which share of the tokens, and of the FLOPs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.evaluation.published import Published, flat_options
from prunevid.evaluation.table_text import TITLES
from prunevid.evaluation.tables import Row, Section
from prunevid.view import style


@dataclass(frozen=True)
class Point:
    """A run in the plot.

    Attributes:
        kept, flops: shares in percent; None where unknown.
        value: accuracy in percent, or the judge's mean of five.
        low, high: its 95 % interval; equal to `value` where there is none.
        budgeted: whether the share was asked for; such runs of a method are joined by a line.
        published: the printed numbers beside it.
    """

    kept: float | None
    flops: float | None
    value: float
    low: float
    high: float
    budgeted: bool
    published: tuple[Published, ...] = ()


def series_of(section: Section) -> dict[str, list[Point]]:
    """The points of a section by what they share: the method, and the model where there are several."""
    several = len({row.settings.model for row in section.rows}) > 1
    found: dict[str, list[Point]] = {}
    for row in section.rows:
        point = _point(row)
        if point is not None and (point.kept is not None or point.flops is not None):
            name = "not pruned" if row.settings.method == "none" else row.settings.method
            found.setdefault(f"{name}, {Path(row.settings.model).name}" if several else name, []).append(point)
    return found


def _point(row: Row) -> Point | None:
    kept, flops = (None if share is None else 100 * share for share in (row.kept, row.flops))
    published = tuple(entry for entry in row.published if entry.part != "full")
    options = flat_options(row.settings)
    budgeted = any(options.get(name) is not None for name in ("retention_ratio", "retention_tokens"))
    if row.settings.benchmark == "vcgbench":
        value = None if row.judged is None else row.judged.macro
        return None if value is None else Point(kept, flops, value, value, value, budgeted, published)
    share, interval = row.accuracy.share, row.accuracy.interval
    if share is None or interval is None:
        return None
    return Point(kept, flops, 100 * share, 100 * interval[0], 100 * interval[1], budgeted, published)


def save_plots(sections: Sequence[Section], folder: str | Path) -> list[Path]:
    """Draws each benchmark of a table, for light and dark pages, as SVG and PNG: mvbench-light.svg, ...

    Returns:
        The files; none of a benchmark without a run that has both an accuracy and a share.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    found: list[Path] = []
    for section in sections:
        series = series_of(section)
        if series:
            draw = functools.partial(_draw, section.benchmark, series)
            found += style.save_all(draw, Path(folder) / section.benchmark)
    return found


def _draw(benchmark: str, series: dict[str, list[Point]], theme: style.Theme) -> Any:
    with style.figure(theme, size=(9.0, 4.4), columns=2, sharey=True) as (figure, axes):
        for axis, name, label in (
            (axes[0, 0], "kept", "visual tokens kept (%)"),
            (axes[0, 1], "flops", "FLOPs of the prefill, by formula (%)"),
        ):
            for index, (title, points) in enumerate(series.items()):
                _draw_series(axis, theme, index, title, points, name)
            axis.set_xlabel(label)
        unit = "judge's mean of five" if benchmark == "vcgbench" else "accuracy, micro (%)"
        axes[0, 0].set_ylabel(unit)
        axes[0, 0].set_title(TITLES[benchmark])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _draw_series(axis: Any, theme: style.Theme, index: int, title: str, points: list[Point], name: str) -> None:
    """One method: a marker with its interval for each run, and hollow ones for the printed numbers, where they stood.

    Args:
        name: "kept" or "flops", what goes to the right.
    """
    found = [(getattr(point, name), point) for point in points]
    known = sorted([entry for entry in found if entry[0] is not None], key=lambda entry: entry[0])
    colour, marker = theme.colour(index), theme.marker(index)
    axis.errorbar(
        [place for place, _ in known],
        [point.value for _, point in known],
        yerr=[[point.value - point.low for _, point in known], [point.high - point.value for _, point in known]],
        color=colour,
        marker=marker,
        linestyle="-" if len(known) > 1 and all(point.budgeted for _, point in known) else "none",
        elinewidth=1.2,
        capsize=3,
        label=title,
    )
    printed = sorted({(100 * getattr(entry, name), entry.value) for point in points for entry in point.published})
    if printed:
        axis.plot(
            *zip(*printed),
            linestyle="none",
            marker=marker,
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=colour,
            label=f"{title}, published",
        )
