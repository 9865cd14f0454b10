# SPDX-License-Identifier: Apache-2.0
"""The bounds that a measurement is held to."""

from __future__ import annotations

from typing import Any

from prunevid.bench.results import ALL_KEPT, ATTACHED, Goal, Spread

IDEAL = 0.85
"""Least share of the speed-up by FLOPs that the prefill's measured speed-up must reach."""
STAGE_1 = 0.03
"""Most of the unpruned prefill that stage 1 may take."""
ENGINE = 1.01
"""Most time of a prefill with nothing to prune, as a share of the plain model's."""
TOKEN = 1.02
"""Most time of a new token over a pruned cache, as a share of the plain model's over a cache of the same length."""
MEMORY = 1.0
"""Most peak memory of a prefill, as a share of the unpruned one's."""
FURTHER = 0.15
"""Most model time of a further question about an open clip, as a share of the first one's."""
GPU_STAGE_1 = 2.0
"""Milliseconds of stage 1 on a GPU, at 32 x 196 tokens of 3,584 channels."""
GPU_CHOICE = 1.0
"""Milliseconds of stages 2 and 3 on a GPU."""


def goals_of(sides: dict[str, dict[str, Any]], on_gpu: bool, facts: dict[str, Any]) -> list[Goal]:
    """Every goal for every side that it says something about.

    Args:
        sides: from the measurement, by name: "cost" (prefill over the unpruned one), "gain" (measured over ideal
            speed-up), "causal gain" (the same where attention counts without what a causal kernel leaves out), "share"
            (stage 1 over the unpruned prefill), "step" (a token over the plain model's), "memory", "merge" and "choose"
            (milliseconds), "tokens" (visual, unpruned); what was not measured is None.
        on_gpu: whether the bounds in milliseconds, which are meant for a GPU, say anything.
        facts: the model's, of which its width decides whether they do.
    """
    found: list[Goal] = []

    def hold(name: str, side: str, value: Spread | None, bound: float, least: bool = False) -> None:
        if value is not None:
            found.append(Goal(name, side, value, bound, least))

    for name, side in sides.items():
        prunes = name not in (ATTACHED, ALL_KEPT)
        if not prunes:
            hold("prefill with nothing to prune / unpruned", name, side["cost"], ENGINE)
        else:
            hold("prefill speed-up / ideal by FLOPs", name, side["gain"], IDEAL, least=True)
            hold("the same, attention counted as causal", name, side["causal gain"], IDEAL, least=True)
            hold("stage 1 / unpruned prefill", name, side["share"], STAGE_1)
        hold("new token / plain model, same cache length", name, side["step"], TOKEN)
        if name != ALL_KEPT:
            hold("peak memory / unpruned", name, side["memory"], MEMORY)
        if on_gpu and facts["width"] == 3584 and side["tokens"] == 6272 and prunes:
            hold("stage 1, ms", name, side["merge"], GPU_STAGE_1)
            hold("stages 2 and 3, ms", name, side["choose"], GPU_CHOICE)
    return found
