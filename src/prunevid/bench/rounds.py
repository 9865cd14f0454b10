# SPDX-License-Identifier: Apache-2.0
"""The order in which things are measured: each once a round, so that a machine that gets busier does so for all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from prunevid.bench.settings import Settings
from prunevid.methods import Method

Tell = Callable[[str], None]
Side = TypeVar("Side")


def rounds(settings: Settings, sides: list[Side], tell: Callable[[str, Side], None]) -> Iterator[tuple[Side, bool]]:
    """Every side once a round, in an order that is drawn anew for each.

    Args:
        settings: how many rounds, and the seed of the orders.
        sides: what takes turns; one that is removed meanwhile has none in the rounds to come.
        tell: is given the name of the round, and the side, before its turn.

    Returns:
        The side, and whether the round counts or only warms up.
    """
    rng = random.Random(settings.seed)
    for number in range(-settings.warmup, settings.repeats):
        turn = f"Round {number + 1} of {settings.repeats}" if number >= 0 else "Warming up"
        for side in rng.sample(sides, len(sides)):
            tell(turn, side)
            yield side, number >= 0


def left_out(name: str, method: Method | None, settings: Settings, error: Exception) -> str:
    """The note about a method that can't run on a model.

    Raises:
        Exception: the error itself, where the method is not one of those that were asked for.
    """
    if method not in settings.methods:
        raise error
    return f"{name} is left out: {error}"
