# SPDX-License-Identifier: Apache-2.0
"""A number of tokens dealt out to sets of unlike sizes."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction


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
