# SPDX-License-Identifier: Apache-2.0
"""Adds up what a run kept, over its prompts and over its processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any


@dataclass
class Totals:
    """Sums over prompts.

    Attributes:
        prompts: all of them.
        with_video: those with visual tokens that a method may prune; all other sums are over these.
        original: visual tokens of the unpruned model.
        kept: visual tokens that the cache holds after the prompt.
        flops: shares of the unpruned prefill's FLOPs, by formula (`prunevid.stats.flops_ratio`).
    """

    prompts: int = 0
    with_video: int = 0
    original: int = 0
    kept: float = 0.0
    flops: float = 0.0

    def add(self, row: Mapping[str, Mapping[str, Any]]) -> None:
        """Counts one prompt by its statistics (`prunevid.stats.row_stats`)."""
        self.prompts += 1
        original = row["stage1"]["original_tokens"]
        if original:
            self.with_video += 1
            self.original += original
            self.kept += original * row["total"]["retained_ratio"]
            self.flops += row["total"]["flops_ratio"]

    def numbers(self) -> dict[str, float]:
        """Means over the prompts with a video, under the names that stand in lmms-eval's results; empty without any."""
        if not self.with_video:
            return {}
        return {
            "prunevid_visual_tokens": self.original / self.with_video,
            "prunevid_visual_tokens_kept": self.kept / self.with_video,
            "prunevid_retained_ratio": self.kept / self.original,
            "prunevid_flops_ratio": self.flops / self.with_video,
        }

    def describe(self) -> str:
        """One line for people."""
        found = self.numbers()
        if not found:
            return f"{self.prompts} prompts, none with a video, so nothing was pruned"
        before, kept = found["prunevid_visual_tokens"], found["prunevid_visual_tokens_kept"]
        return (
            f"visual tokens {before:.1f} -> {kept:.1f} a prompt "
            f"({found['prunevid_retained_ratio']:.1%} kept), prefill FLOPs {found['prunevid_flops_ratio']:.1%} of the "
            f"unpruned model's; means over {self.with_video} prompts with a video of {self.prompts}"
        )


class Tally:
    """Watches a pruned model and counts every prompt once, when its prefill is done.

    Args:
        pruning: a handle of `prunevid.attach`.
    """

    def __init__(self, pruning: Any) -> None:
        self.totals = Totals()
        self._pruning = pruning
        self._seen: Any = pruning.stats
        self._hook = pruning.model.register_forward_hook(self._after)

    def stop(self) -> None:
        """Watches no more."""
        self._hook.remove()

    def _after(self, module: Any, args: Any, output: Any) -> None:
        rows = self._pruning.stats  # a new list after every prefill
        if rows is not self._seen:
            self._seen = rows
            for row in rows:
                self.totals.add(row)


def gathered(totals: Totals) -> Totals:
    """The sums of all processes, where there are several; every process has to call it."""
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return totals
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, astuple(totals))
    return added(everyone)


def added(parts: Iterable[tuple[Any, ...]]) -> Totals:
    """One `Totals` from the fields of several."""
    return Totals(*(sum(column) for column in zip(*parts)))
