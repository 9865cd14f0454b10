# SPDX-License-Identifier: Apache-2.0
"""What "keep 15 %" means for methods that prune at several places (docs/methods.md, "Budgets")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunevid.core import share_out
from prunevid.errors import ConfigError

__all__ = ["Split", "largest", "layer_average", "mean_over_layers", "share_out", "tokens_after_choices"]


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
    """Tokens after each choice so that the mean over layers is below `allowed` by less than a token, or equal to it.

    Choices keep equal shares; where one token more at the end would exceed the mean, earlier choices keep some more.

    Raises:
        ConfigError: even keeping one token would exceed it.
    """

    def fits(chosen: Sequence[int]) -> bool:
        return mean_over_layers(start, chosen, layers, depth) <= allowed

    end = largest(lambda tokens: fits(tokens_after_choices(start, tokens, len(layers))), start)
    if end == 0:
        least = mean_over_layers(start, tokens_after_choices(start, 1, len(layers)), layers, depth) / start
        raise ConfigError(
            f"The method {name!r} can't keep {allowed / start:.3g} of the tokens on average over the layers, because "
            f"its first layers see all of them ({least:.3g} is the least); choose earlier layers, or a larger budget."
        )
    found = list(tokens_after_choices(start, end, len(layers)))
    for step, more in enumerate(tokens_after_choices(start, min(start, end + 1), len(layers))):
        room = more - found[step]
        extra = largest(lambda n: fits([*found[:step], found[step] + n, *found[step + 1 :]]), room)  # noqa: B023
        found[step] += extra
        if extra < room:  # later choices wait, so that no number shrinks when the budget grows
            break
    return tuple(found)


def largest(fits: Callable[[int], bool], high: int) -> int:
    """The largest of 1 ... high that fits, where all smaller ones fit too; 0 where none does."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
