# SPDX-License-Identifier: Apache-2.0
"""What "keep 15 %" means for methods that prune at several places (docs/methods.md, "Budgets")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunevid.core import share_out
from prunevid.errors import ConfigError

__all__ = [
    "Split",
    "expanded_split",
    "largest",
    "layer_average",
    "mean_over_layers",
    "most_before_choices",
    "share_out",
    "tokens_after_choices",
]


@dataclass(frozen=True)
class Split:
    """How many tokens of a video are left.

    Attributes:
        merged: after the merge before the language model; None: as the method's own options say.
        chosen: after each choice inside it, never more than before; None: as the method's own options say.
    """

    merged: int | None
    chosen: tuple[int, ...] | None


def tokens_after_choices(start: int, end: int, steps: int) -> tuple[int, ...]:
    """Tokens after each of some choices that keep equal shares, from `start` tokens down to `end` exactly."""
    share = (end / start) ** (1 / steps)
    between = [max(end, round(start * share ** (step + 1))) for step in range(steps - 1)]
    return (*between, end)


def mean_over_layers(start: int, chosen: Sequence[int], layers: Sequence[int], depth: int) -> float:
    """Tokens that a decoder layer processes, on average.

    Args:
        start: tokens before the first choice.
        chosen: tokens after each choice.
        layers: the 0-based layers after which the choices are made.
        depth: layers of the decoder.
    """
    total, tokens, done = 0, start, 0
    for layer, left in zip(layers, chosen):
        total += tokens * (layer + 1 - done)
        tokens, done = left, layer + 1
    return (total + tokens * (depth - done)) / depth


def layer_average(name: str, start: int, allowed: int, layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Tokens after each choice so that the mean over layers is `allowed`, or less by less than one token.

    The choices keep equal shares, up to what is left over: where one more token at the end would be too many, the
    earlier choices take it, the first of them first.

    Raises:
        ConfigError: even keeping one token would exceed it.
    """

    def mean(chosen: Sequence[int]) -> float:
        return mean_over_layers(start, chosen, layers, depth)

    def fits(chosen: Sequence[int]) -> bool:
        return mean(chosen) <= allowed

    steps = len(layers)
    end = largest(lambda tokens: fits(tokens_after_choices(start, tokens, steps)), start)
    if end == 0:
        least = mean(tokens_after_choices(start, 1, steps)) / start
        raise ConfigError(
            f"The method {name!r} can't keep {allowed / start:.3g} of the tokens on average over the layers, because "
            f"its first layers see all of them ({least:.3g} is the least); choose earlier layers, or a larger budget."
        )
    chosen = list(tokens_after_choices(start, end, steps))
    more = tokens_after_choices(start, min(end + 1, start), steps)
    for step in range(steps):
        room = range(more[step] - chosen[step])
        while room and fits([*chosen[:step], chosen[step] + 1, *chosen[step + 1 :]]):
            chosen[step], room = chosen[step] + 1, room[1:]
        if room:
            break
    return tuple(chosen)


def most_before_choices(allowed: int, layers: Sequence[int], depth: int) -> int:
    """Most tokens that a merge may leave so that choices after it can still bring the mean over layers to `allowed`."""

    def fits(start: int) -> bool:
        return mean_over_layers(start, tokens_after_choices(start, 1, len(layers)), layers, depth) <= allowed

    return largest(fits, allowed * depth)


def expanded_split(cells: int, allowed: int, keep: float, layer: int, depth: int) -> tuple[int, int]:
    """Tokens after a merge and after one choice, so that the mean over layers is nearest to `allowed` from below.

    The choice keeps the share `keep` of what the merge leaves, and more only where the merge leaves everything.

    Args:
        cells: tokens of the unpruned video.
        allowed: the mean to reach, at least 1.
        keep: in (0, 1].
        layer: 0-based layer after which the choice is made.
        depth: layers of the decoder.
    """
    first = max(1, int(cells * keep))

    def at(step: int) -> tuple[int, int]:  # 1 ... cells: the merge leaves more; beyond: the choice does
        return (step, max(1, int(step * keep))) if step < cells else (cells, first + step - cells)

    low, high = 1, cells + cells - first
    while low < high:
        middle = (low + high + 1) // 2
        merged, chosen = at(middle)
        fits = mean_over_layers(merged, (chosen,), (layer,), depth) <= allowed
        low, high = (middle, high) if fits else (low, middle - 1)
    return at(low)


def largest(fits: Callable[[int], bool], high: int) -> int:
    """The largest of 1 ... high that fits, where all smaller ones fit too; 0 where none does."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
