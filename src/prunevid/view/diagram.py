# SPDX-License-Identifier: Apache-2.0
"""From input to answer: the tokens of every stage and what it cost, as data and as a small SVG drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from prunevid.view.style import LIGHT, Theme, theme_of

if TYPE_CHECKING:
    from prunevid.engine import TokenMap

_ROW, _LABEL, _BAR, _WIDTH = 34, 190, 330, 720


@dataclass(frozen=True)
class Stage:
    """One step from the clip to the answer.

    Attributes:
        name: for people.
        tokens: visual tokens of the row that go on after it, the protected ones included.
        share: of the unpruned ones, 0 ... 1.
        milliseconds: that it took; None where it is part of another stage's time, or nothing was measured.
    """

    name: str
    tokens: int
    share: float
    milliseconds: float | None = None


def stages(stats: Mapping[str, Any], maps: Sequence[TokenMap] = ()) -> list[Stage]:
    """The stages of one run.

    Args:
        stats: of one row (`prunevid.stats.row_stats`); stages that did nothing are left out.
        maps: the row's token maps, which know every choice of a method that chooses several times; without them
            its last one is shown.
    """
    if not stats:
        return []
    spent = stats.get("milliseconds", {})
    original, merged = stats["stage1"]["original_tokens"], stats["stage1"]["compressed_tokens"]
    kept, held = stats["stage2"]["compressed_tokens"], round(stats["total"]["retained_ratio"] * original)
    rows: list[tuple[str, int, float | None]] = [("vision tower", original, spent.get("vision"))]
    if merged < original:
        rows.append(("merge before the model", merged, spent.get("merge")))
    for layer, tokens in _choices(stats, maps, merged, kept):
        rows.append((f"choice after layer {layer}", tokens, None))
    rows.append(("language model, prompt", kept, spent.get("prefill")))
    if held != kept:
        rows.append(("cache of every layer", held, None))
    rows.append(("answer", held, spent.get("decode")))
    return [Stage(name, tokens, tokens / original if original else 1.0, time) for name, tokens, time in rows]


def _choices(stats: Mapping[str, Any], maps: Sequence[TokenMap], merged: int, kept: int) -> list[tuple[int, int]]:
    """(layer, tokens of the row after it) of every choice."""
    if not maps or not maps[0].layers:
        layer = stats["stage2"]["layer"]
        return [] if layer is None else [(layer, kept)]
    gone = [[item.tokens - left for left in item.after_choices] for item in maps]
    return [(layer, merged - sum(lost[step] for lost in gone)) for step, layer in enumerate(maps[0].layers)]


def stages_svg(stats: Mapping[str, Any], maps: Sequence[TokenMap] = (), *, theme: Theme | str = LIGHT) -> str:
    """The stages as an SVG drawing: a bar for the tokens of each, the numbers beside it, the totals below.

    Args:
        stats, maps: see `stages`.
        theme: "light" or "dark", or a theme of `prunevid.view.style`.

    Returns:
        An `<svg>` element, without a reference to anything outside; empty text where there are no stats.
    """
    found, colours = stages(stats, maps), theme_of(theme)
    if not found:
        return ""
    height = _ROW * len(found) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="Visual tokens and cost of every stage" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="{colours.background}"/>',
    ]
    for number, stage in enumerate(found):
        parts.append(_bar(stage, 8 + number * _ROW, colours, colours.colour(0 if stage.share == 1 else 2)))
    parts.append(_text(12, height - 12, total_line(stats), colours.text))
    return "".join([*parts, "</svg>"])


def total_line(stats: Mapping[str, Any]) -> str:
    """What the run cost as shares of the unpruned one, in one line."""
    total, cache = stats["total"], 1.0 - stats["stage3"]["reduction_ratio"]
    return (
        f"In all: {total['retained_ratio']:.1%} of the visual tokens, {total['flops_ratio']:.1%} of the prompt's FLOPs "
        f"(by formula), {cache:.1%} of the KV cache"
    )


def _bar(stage: Stage, top: int, theme: Theme, colour: str) -> str:
    """One stage: label, bar over a track of full length, numbers."""
    middle, length = top + 17, round(_BAR * stage.share, 1)
    time = "" if stage.milliseconds is None else f", {stage.milliseconds:.1f} ms"
    numbers = f"{stage.tokens} tokens ({stage.share:.1%}){time}"
    return (
        _text(12, middle, stage.name, theme.text)
        + f'<rect x="{_LABEL}" y="{top}" width="{_BAR}" height="22" rx="3" fill="{theme.grid}"/>'
        + f'<rect x="{_LABEL}" y="{top}" width="{length}" height="22" rx="3" fill="{colour}"/>'
        + _text(_LABEL + _BAR + 10, middle, numbers, theme.muted)
    )


def _text(left: int, base: int, text: str, colour: str) -> str:
    return f'<text x="{left}" y="{base}" fill="{colour}">{escape(text)}</text>'
