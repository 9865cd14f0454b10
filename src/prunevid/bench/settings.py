# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunevid.errors import ConfigError
from prunevid.methods import Method


@dataclass(frozen=True)
class Settings:
    """What is measured and how often.

    Attributes:
        frames, width, height: of the clip.
        methods: in the order of the table; each has its budget.
        repeats, warmup: rounds that count, and rounds before them that don't.
        new_tokens: of every answer.
        batches: batch sizes; stages, goals and memory are those of the first.
        memory: whether the peak memory is weighed (one more prefill of every side).
        seed: of clips and of the order of the sides.
    """

    frames: int = 32
    width: int = 392
    height: int = 392
    methods: tuple[Method, ...] = ()
    repeats: int = 5
    warmup: int = 1
    new_tokens: int = 16
    batches: tuple[int, ...] = (1,)
    memory: bool = True
    cpu_time: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"frames": 1, "repeats": 1, "warmup": 0, "new_tokens": 3}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least {low}.")
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches is {list(self.batches)}, but must be numbers of at least 1.")


def side_name(method: Method) -> str:
    """A method and its budget, for people."""
    if method.retention_tokens is not None:
        return f"{method.label} {method.retention_tokens} tokens"
    return method.label if method.retention_ratio is None else f"{method.label} {method.retention_ratio:.0%}"


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON types."""
    chosen = dict(vars(settings))
    chosen["methods"] = [side_name(method) for method in settings.methods]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
