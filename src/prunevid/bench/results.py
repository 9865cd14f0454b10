# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found: spreads of repeated measurements, sides beside each other, and the goals they are held to."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

UNPRUNED = "unpruned"
ATTACHED = "nothing to prune"
"""The side that shows what the engine costs where a method has nothing to do."""
ALL_KEPT = "all kept"
"""The side of a method that scores every token and keeps them all."""


@dataclass(frozen=True)
class Spread:
    """A measurement that was repeated: its median, its quartiles and how often; of one all three are the same."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high, len(values))

    def __format__(self, spec: str) -> str:
        """Median and quartiles, as 12.3 (11.9 to 12.8)."""
        if self.count < 2:
            return format(self.median, spec)
        return f"{format(self.median, spec)} ({format(self.low, spec)} to {format(self.high, spec)})"


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratios of runs of the same round, which a busy machine disturbs less than their times."""
    return Spread.of([a / b for a, b in zip(above, below)])


@dataclass(frozen=True)
class Side:
    """One way to run the prompt, measured. Times are milliseconds.

    Attributes:
        name: for people.
        tokens: of the language model's layers, the rows of a batch together: in the first and in the last layer.
        visual_tokens: of the unpruned prompt, after stage 1, and at the end.
        prefill: the model's first forward pass without the vision tower.
        merge, choose: stage 1, and stages 2 and 3 inside of it; None where there is none.
        step: one new token.
        kv_bytes: of the cache right after the prefill.
        peak_bytes: the most that the prefill had allocated beyond weights and inputs; None where it was not weighed.
        flops: of the decoder's layers in the prefill; `flops_causal` without what a causal kernel may leave out.
        speedup: the unpruned prefill's time divided by this one's, round by round.
        ideal, ideal_causal: what the FLOPs say that it could be.
        clips_per_second: of the model: vision, prefill and all new tokens.
    """

    name: str
    tokens: tuple[int, int]
    visual_tokens: tuple[int, int, int]
    prefill: Spread
    merge: Spread | None
    choose: Spread | None
    step: Spread
    kv_bytes: int
    peak_bytes: int | None
    flops: int
    flops_causal: int
    speedup: Spread
    ideal: float
    ideal_causal: float
    clips_per_second: Spread


@dataclass(frozen=True)
class Goal:
    """A bound that a measured number is held to.

    Attributes:
        name: what is bounded; side: of which side.
        value, bound: the number, and what it must reach (`least`) or not exceed.
        least: whether the bound is the least that it may be.
        met: whether it was.
    """

    name: str
    side: str
    value: Spread
    bound: float
    least: bool = False

    @property
    def met(self) -> bool:
        """By the median."""
        return self.value.median >= self.bound if self.least else self.value.median <= self.bound


@dataclass(frozen=True)
class Batch:
    """One batch size: how many frames its clips have, and the sides."""

    size: int
    frames: tuple[int, ...]
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class SpeedResult:
    """All of one `bench speed`.

    Attributes:
        machine: what it ran on (see `machine_facts`).
        subject: the model's name and its sizes.
        settings: the options.
        stages: milliseconds that all sides share: decode_video (None where no video file can be made here), preprocess
            and vision.
        batches: the sides of every batch size, the first one first.
        goals: of the first batch size.
        notes: what was left out, and why.
    """

    stem: ClassVar[str] = "speed"  # of the names of its files

    machine: dict[str, Any]
    subject: dict[str, Any]
    settings: dict[str, Any]
    stages: dict[str, Spread | None]
    batches: tuple[Batch, ...]
    goals: tuple[Goal, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Growth:
    """One size of a scaling measurement.

    Attributes:
        frames, tokens: of the clip, tokens before pruning.
        milliseconds: of each series, by name.
        peak_bytes: likewise.
    """

    frames: int
    tokens: int
    milliseconds: dict[str, Spread]
    peak_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ScalingResult:
    """`bench speed --scaling`: stage 1 over frames, and the whole prefill over tokens."""

    stem: ClassVar[str] = "scaling"  # of the names of its files

    machine: dict[str, Any]
    subject: dict[str, Any]
    settings: dict[str, Any]
    stage1: tuple[Growth, ...]
    prefill: tuple[Growth, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """One method over several questions about one open clip. Times are milliseconds.

    Attributes:
        name: for people.
        visual_tokens: of the unpruned prompt, after stage 1, and at the end.
        reused_tokens: of the unpruned prompt, which a further question did not run again.
        vision: the vision tower, once.
        first: the tower and the first forward pass of the first question.
        further: the same of every further question.
        share: a round's median further question divided by its first one.
        held_bytes: what lies open, by what it is (`OpenVideo.memory`).
    """

    name: str
    visual_tokens: tuple[int, int, int]
    reused_tokens: int
    vision: Spread
    first: Spread
    further: Spread
    share: Spread
    held_bytes: dict[str, int]


@dataclass(frozen=True)
class QuestionsResult:
    """`bench speed --questions`: what further questions about an open clip cost."""

    stem: ClassVar[str] = "questions"  # of the names of its files

    machine: dict[str, Any]
    subject: dict[str, Any]
    settings: dict[str, Any]
    sides: tuple[Asked, ...]
    goals: tuple[Goal, ...]
    notes: tuple[str, ...] = ()


Result = SpeedResult | ScalingResult | QuestionsResult
"""What any measurement of `bench speed` finds."""


def document(result: Result) -> dict[str, Any]:
    """A result as JSON types; a goal says whether it was met."""
    found = dataclasses.asdict(result)
    for goal, entry in zip(getattr(result, "goals", ()), found.get("goals", ())):
        entry["met"] = goal.met
    return found


def machine_facts(device: Any) -> dict[str, Any]:
    """What a number was measured on: device, cores, threads, versions and how busy the machine was."""
    import os
    import platform

    import torch
    import transformers

    facts: dict[str, Any] = {
        "device": _device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if hasattr(os, "getloadavg"):
        facts["load"] = round(os.getloadavg()[0], 2)
    return facts


def _device_name(device: Any) -> str:
    """The device's own name; of a processor what Linux calls it."""
    import platform
    from pathlib import Path

    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
