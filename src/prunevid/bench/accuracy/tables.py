# SPDX-License-Identifier: Apache-2.0
"""Results as tables in Markdown: one over all questions, and one by kind for every share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunevid.bench.accuracy.entries import NO_VIDEO, UNPRUNED
from prunevid.bench.accuracy.results import ALL


def report(results: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [_head(results), main_table(results)]
    parts += [kinds_table(results, share) for share in shares(results)]
    return "\n".join(parts)


def shares(results: Mapping[str, Any]) -> list[float]:
    """The shares of a run's points, largest first."""
    found = {point["retention"] for point in results["points"]}
    return sorted((share for share in found if share is not None), reverse=True)


def _head(results: Mapping[str, Any]) -> str:
    first, last = results["seeds"]
    lines = [
        f"Plan {results['plan']}: {results['questions'][ALL]} questions about {results['clips']} clips of the "
        f"{results['split']} split (seeds {first} to {last}); weights {results['weights']}.",
        "",
        "Open: one word, the likeliest of all. Choice: the likeliest of the words that could be the answer. Intervals "
        "are 95 %, from resampling whole clips; differences are taken question by question, p is of a test clustered "
        "by clip. Differs: share of open answers that are not the unpruned model's, right or wrong. Random: at the "
        "same layer and share; at the same cost: before the language model, of as many tokens as a layer processes on "
        "average.",
        "",
    ]
    return "\n".join(lines)


def main_table(results: Mapping[str, Any]) -> str:
    """A row for each method and control at each layer and share, over all questions."""
    names = ["", "layer", "kept %", "FLOPs %", "open %", "choice %", "differs %", "to unpruned", "p", "to random", "p"]
    names += ["to random, same cost", "p"]
    other = results["against"]
    names += [] if other is None else [f"to {other}", "p"]
    rows = []
    for point in results["points"]:
        against = point["against"]
        nothing = point["identical"] and point["name"] != UNPRUNED
        rows.append(
            [
                title(point),
                "" if point["layer"] is None else str(point["layer"]),
                "" if point["name"] == NO_VIDEO else f"{100 * point['kept']:.1f}",
                "" if point["name"] == NO_VIDEO else f"{100 * point['flops']:.1f}",
                _share(point["open"][ALL]),
                _share(point["choice"][ALL]),
                "changes nothing" if nothing else f"{100 * point['differs']:.1f}",
                *_compared(against.get(UNPRUNED)),
                *_compared(against.get("random")),
                *_compared(_same_cost(point)),
                *(() if other is None else _compared(against.get(other))),
            ]
        )
    return _table(names, rows)


def kinds_table(results: Mapping[str, Any], share: float) -> str:
    """Open accuracy by kind at one share, and of what has no share: a row for each kind, a column for each point."""
    points = [point for point in results["points"] if point["retention"] in (None, share)]
    kinds = [kind for kind in results["questions"] if kind != ALL]
    names = ["kind", "questions", *(_column(point) for point in points)]
    rows = [
        [
            kind,
            str(results["questions"][kind]),
            *(f"{100 * point['open'][kind]['accuracy']:.1f}" for point in points),
        ]
        for kind in (*kinds, ALL)
    ]
    return f"Open accuracy (%) by kind, {100 * share:g} % kept:\n\n{_table(names, rows)}"


def title(point: Mapping[str, Any]) -> str:
    """A point's name with its number of draws."""
    return f"{point['name']} (mean of {point['draws']})" if point["draws"] > 1 else str(point["name"])


def _column(point: Mapping[str, Any]) -> str:
    return str(point["name"]) if point["layer"] is None else f"{point['name']}, layer {point['layer']}"


def _same_cost(point: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison with random before the language model that costs as much: of as many tokens a layer."""
    against = point["against"]
    if point["place"] == "before" and "random" in against:
        return dict(against["random"])
    return next((found for name, found in against.items() if name.startswith(("random at", "random, as"))), None)


def _share(found: Mapping[str, float]) -> str:
    return f"{100 * found['accuracy']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _compared(found: Mapping[str, Any] | None) -> tuple[str, str]:
    """A difference of open answers in points with its interval, and its p-value."""
    if found is None:
        return "", ""
    one = found["open"]
    shown = f"{100 * one['difference']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
    return shown, "<.001" if one["p_clustered"] < 0.001 else f"{one['p_clustered']:.3f}".lstrip("0")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (names, *rows)) for i in range(len(names))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in (names, *rows)]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:])) + "\n"
