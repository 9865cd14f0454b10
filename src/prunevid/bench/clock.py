# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of a piece of work, on any device: every synchronisation of the benchmark is in here."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from prunevid.engine.timing import counted_by, now

Result = TypeVar("Result")


class Clock:
    """Milliseconds on a device.

    Args:
        device: whose queue is emptied before the time is read.
        cpu_time: count the time that the processor was given, over all threads, and not the time that it waited. That
            is what to compare where other programs run; only for the CPU, and only with one thread does it stand for
            the time that a user waits.
    """

    def __init__(self, device: torch.device, cpu_time: bool = False):
        self.device, self.cpu_time = device, cpu_time

    def read(self) -> float:
        """Milliseconds, of which only differences mean something."""
        return now(self.device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """In its block every time is of this clock, those that the engine takes itself among them."""
        with counted_by(time.process_time if self.cpu_time else time.perf_counter):
            yield

    def time(self, work: Callable[[], Result]) -> tuple[float, Result]:
        """Milliseconds of one call, and what it returned."""
        with self.running():
            start = self.read()
            result = work()
            return self.read() - start, result


def peak_bytes(device: torch.device, work: Callable[[], Any]) -> int:
    """The most bytes that a call had allocated at once, beyond what was there before it.

    On CUDA that is the allocator's own count. On the CPU it is the same count of torch's CPU allocator, by torch's
    profiler: every allocation and release with its size, the inner buffers of kernels among them, whatever Python
    holds. (The memory of the process is no such number: an allocator keeps freed pages, and one run hides the next.)
    It slows the call down, so that a call is either timed or weighed. Buffers of libraries that do not ask torch's
    allocator (those of oneDNN and MKL) are not in it.
    """
    if device.type == "cuda":
        now(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        now(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _silent(), torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    return _highest(_memory_events(profiler))


@contextmanager
def _silent() -> Iterator[None]:
    """Without the lines that the profiler's library writes to the process's stderr."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _memory_events(profiler: Any) -> list[tuple[float, int]]:
    """(time, bytes) of every allocation and release on the CPU, in no order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    found = [event for event in events if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0]
    return [(float(event["ts"]), int(event["args"]["Bytes"])) for event in found]


def _highest(events: list[tuple[float, int]]) -> int:
    """The highest sum on the way, at least 0; releases of what was there before count against it."""
    held = highest = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        held += size
        highest = max(highest, held)
    return highest
