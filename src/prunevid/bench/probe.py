# SPDX-License-Identifier: Apache-2.0
"""One run of `generate`, taken apart: vision, the first pass over the prompt, every new token, and the cache's bytes.

The hooks here stand around those of an attached pruning, so that what it costs is inside of what is measured.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from prunevid.bench.clock import Clock
from prunevid.bench.subjects import Subject
from prunevid.stats import cache_bytes


@dataclass
class Timeline:
    """What one run took.

    Attributes:
        vision: milliseconds in the vision tower; 0 where its output was replayed.
        prefill: milliseconds of the model's first forward pass without the vision tower.
        steps: milliseconds from the start of one decoding pass to the start of the next: a token, with all that
            `generate` does for it.
        kv_bytes: of keys and values right after the prefill, as they lie in the cache's tensors.
    """

    vision: float = 0.0
    prefill: float = 0.0
    steps: list[float] = field(default_factory=list)
    kv_bytes: int = 0


class Probe:
    """Watches a subject's model while it is in place (a context manager).

    Args:
        subject: whose model is watched. Nothing may be attached to it yet.
        clock: what time is.
    """

    def __init__(self, subject: Subject, clock: Clock):
        self.subject, self.clock = subject, clock
        self.replays = False
        self._line = Timeline()
        self._starts: list[float] = []
        self._inside = 0.0  # milliseconds of the tower inside the first forward pass
        self._known: list[tuple[Tensor, Any]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Probe:
        model, base = self.subject.model, self.subject.base
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._after),
        ]
        name = self.subject.adapter.feature_function
        base.__dict__[name] = self._timed(getattr(base, name))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.subject.base.__dict__.pop(self.subject.adapter.feature_function, None)
        self._known.clear()

    @contextmanager
    def replay(self, active: bool) -> Iterator[None]:
        """In its block a video that was encoded before is not encoded again: its features are handed out anew."""
        before, self.replays = self.replays, active
        try:
            yield
        finally:
            self.replays = before

    def run(self, work: Callable[[], Any]) -> Timeline:
        """Runs one call of the model's `generate` and says what it took."""
        self._line, self._starts, self._inside = Timeline(), [], 0.0
        work()
        starts = self._starts
        self._line.steps = [after - before for before, after in pairwise(starts[1:])]
        return self._line

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside = 0.0
        self._starts.append(self.clock.read())

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if len(self._starts) == 1:
            self._line.prefill = self.clock.read() - self._starts[0] - self._inside
            self._line.kv_bytes = cache_bytes(getattr(output, "past_key_values", None))

    def _timed(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(encode)  # `generate` reads the signature to pick its arguments
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.clock.read()
            output = self._recall((*args, *kwargs.values()), lambda: encode(*args, **kwargs))
            spent = self.clock.read() - start
            self._inside += spent
            if not self.replays:
                self._line.vision += spent
            return output

        return timed

    def _recall(self, arguments: tuple[Any, ...], encode: Callable[[], Any]) -> Any:
        """The features of the pixels among the arguments: remembered ones where that is asked."""
        pixels = next(value for value in arguments if isinstance(value, Tensor) and value.is_floating_point())
        known = [output for seen, output in self._known if seen is pixels]
        if self.replays and known:
            return copy.copy(known[0])  # a copy: `generate` repeats the features in place for beams
        output = encode()
        if self.replays:
            self._known.append((pixels, copy.copy(output)))
        return output
