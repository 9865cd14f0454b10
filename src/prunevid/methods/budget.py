# SPDX-License-Identifier: Apache-2.0
"""What "keep 15 %" means for methods that prune at several places (docs/methods.md, "Budgets")."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from prunevid.errors import ConfigError


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
    """Tokens after each choice so that the mean over layers is nearest to `allowed` from below.

    Raises:
        ConfigError: even keeping one token would exceed it.
    """

    def mean(end: int) -> float:
        return mean_over_layers(start, tokens_after_choices(start, end, len(layers)), layers, depth)

    if mean(1) > allowed:
        least = mean(1) / start
        raise ConfigError(
            f"The method {name!r} can't keep {allowed / start:.3g} of the tokens on average over the layers, because "
            f"its first layers see all of them ({least:.3g} is the least); choose earlier layers, or a larger budget."
        )
    low, high = 1, start
    while low < high:  # the mean grows with what is left at the end
        middle = (low + high + 1) // 2
        low, high = (middle, high) if mean(middle) <= allowed else (low, middle - 1)
    return tokens_after_choices(start, low, len(layers))


def share_out(total: int, sizes: Sequence[int], least: Sequence[int] | None = None) -> list[int]:
    """Deals `total` out in proportion to sizes, never more than a size nor less than its least.

    The sum is exactly `total` wherever sum(least) <= total <= sum(sizes), otherwise the nearer of these two sums. No
    share shrinks when the total grows: shares are dealt one by one, each to the greatest size / (share + 1/2), which is
    Webster's method of apportionment.

    Args:
        total: what to deal out.
        sizes: at least 0.
        least: at least 0; None: 0 for all.
    """
    least = [0] * len(sizes) if least is None else [min(low, size) for low, size in zip(least, sizes)]
    total = min(max(total, sum(least)), sum(sizes))

    def at(level: float) -> list[int]:  # what has been dealt when the greatest claim is 1 / level
        return [min(max(int(size * level + 0.5), floor), size) for size, floor in zip(sizes, least)]

    low, high = 0.0, 2.0
    while high - low > 1e-9:
        level = (low + high) / 2
        low, high = (level, high) if sum(at(level)) <= total else (low, level)
    shares = at(max(0.0, low - 1e-8))  # a little early, so that ties are dealt exactly below
    claims = [(-Fraction(size, 2 * share + 1), i) for i, (size, share) in enumerate(zip(sizes, shares)) if share < size]
    heapq.heapify(claims)
    for _ in range(total - sum(shares)):
        _, index = heapq.heappop(claims)
        shares[index] += 1
        if shares[index] < sizes[index]:
            heapq.heappush(claims, (-Fraction(sizes[index], 2 * shares[index] + 1), index))
    return shares
