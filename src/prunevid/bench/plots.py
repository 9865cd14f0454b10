# SPDX-License-Identifier: Apache-2.0
"""Plots of the benchmark: speed-ups and memory of the sides, and how time and memory grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunevid.bench.results import Growth, ScalingResult, SpeedResult
from prunevid.view import style

MIB = 2**20


def write_plots(result: SpeedResult | ScalingResult, path: Path) -> list[Path]:
    """Draws a result for light and for dark pages, as SVG and PNG.

    Args:
        path: without an ending.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """

    def draw(theme: style.Theme) -> Any:
        return draw_scaling(result, theme) if isinstance(result, ScalingResult) else draw_speed(result, theme)

    return style.save_all(draw, path)


def draw_speed(result: SpeedResult, theme: style.Theme) -> Any:
    """Measured beside ideal speed-up of the prefill, and what of the memory is left, for every side."""
    base, *sides = result.batches[0].sides
    names = [side.name for side in sides]
    with style.figure(theme, columns=2, size=(9.6, 0.55 * len(sides) + 2.2), sharey=True) as (figure, axes):
        speed, memory = axes[0]
        ideal, measured = [side.ideal for side in sides], [side.speedup.median for side in sides]
        _bars(speed, names, {"by FLOPs": ideal, "measured": measured}, theme)
        speed.set_title("Prefill, times faster")
        shares = {"KV cache": [side.kv_bytes / base.kv_bytes for side in sides]}
        if base.peak_bytes:
            shares["peak of the prefill"] = [(side.peak_bytes or 0) / base.peak_bytes for side in sides]
        _bars(memory, names, shares, theme)
        memory.set_title("Memory, share of unpruned")
        speed.invert_yaxis()
        for axis in (speed, memory):
            axis.axvline(1.0, color=theme.muted, linewidth=1)
            axis.grid(axis="y", visible=False)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2 / len(sides) - 0.05), ncols=2)
    return figure


def _bars(axis: Any, names: Sequence[str], groups: dict[str, list[float]], theme: style.Theme) -> None:
    """Horizontal bars, the groups under each other, with their numbers."""
    high = 0.8 / len(groups)
    for index, (label, values) in enumerate(groups.items()):
        places = [number - 0.4 + high * (index + 0.5) for number in range(len(names))]
        bars = axis.barh(places, values, height=high, color=theme.colour(index), label=label)
        axis.bar_label(bars, fmt="%.2f", padding=3, color=theme.text, fontsize=9)
    axis.set_yticks(range(len(names)), names)
    axis.margins(x=0.15)


def draw_scaling(result: ScalingResult, theme: style.Theme) -> Any:
    """Stage 1 over frames, and the prefill over tokens, on logarithmic axes; dotted: in proportion."""
    with style.figure(theme, columns=2, size=(9.6, 4.4)) as (figure, axes):
        left, right = axes[0]
        _curves(left, result.stage1, lambda one: one.frames, theme)
        left.set_title("Stage 1")
        left.set_xlabel(f"frames of {result.settings['positions']} tokens")
        _curves(right, result.prefill, lambda one: one.tokens, theme, peaks=False)
        right.set_title("Whole prefill")
        right.set_xlabel("visual tokens before pruning")
        right.legend()
        left.set_ylabel("ms")
    return figure


def _curves(
    axis: Any, growth: Sequence[Growth], at: Callable[[Growth], int], theme: style.Theme, peaks: bool = True
) -> None:
    """Times of every series with their quartiles; the peak memory on an axis of its own."""
    places = [at(one) for one in growth]
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(places, [f"{place:,}" for place in places], rotation=45 if len(places) > 5 else 0)
    axis.minorticks_off()
    for index, name in enumerate(growth[0].milliseconds):
        spreads = [one.milliseconds[name] for one in growth]
        colour = theme.colour(index)
        axis.plot(places, [spread.median for spread in spreads], theme.marker(index) + "-", color=colour, label=name)
        axis.fill_between(places, [s.low for s in spreads], [s.high for s in spreads], color=colour, alpha=0.2)
    first = growth[0].milliseconds[next(iter(growth[0].milliseconds))].median
    proportional = [first * place / places[0] for place in places]
    axis.plot(places, proportional, ":", color=theme.muted, linewidth=1.2, label="in proportion")
    if peaks and all(one.peak_bytes for one in growth):
        other = axis.twinx()
        other.set_yscale("log")
        name, colour = next(iter(growth[0].peak_bytes)), theme.colour(len(growth[0].milliseconds))
        other.plot(places, [one.peak_bytes[name] / MIB for one in growth], "s--", color=colour, label="peak memory")
        other.set_ylabel("MiB beyond the input")
        other.minorticks_off()
        other.grid(visible=False)
        lines = [*axis.get_lines(), *other.get_lines()]
        axis.legend(lines, ["time", "in proportion", "peak memory"])
