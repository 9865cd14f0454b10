# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of a piece of work, with the device's queue emptied before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_read: Callable[[], float] = time.perf_counter


@contextmanager
def counted_by(read: Callable[[], float]) -> Iterator[None]:
    """In its block times are differences of what `read` returns, in seconds: of a processor's time, say."""
    global _read
    before, _read = _read, read
    try:
        yield
    finally:
        _read = before


def now(device: torch.device | None, measure: bool = True) -> float:
    """Milliseconds on a steady clock, after the device has finished what it was given (0 where nothing is measured)."""
    if not measure:
        return 0.0
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()
    return _read() * 1000.0


@contextmanager
def stopwatch(times: dict[str, float], name: str, device: torch.device | None, measure: bool = True) -> Iterator[None]:
    """Adds the milliseconds of its block to `times[name]`."""
    start = now(device, measure)
    try:
        yield
    finally:
        times[name] = times.get(name, 0.0) + now(device, measure) - start
