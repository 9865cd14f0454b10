# SPDX-License-Identifier: Apache-2.0
"""Time `merge_video` beside the plain loop of the tests, call by call in one process.

    python benchmarks/stage1_cpu.py [--rounds 15] [--dtype float32] [--cpu-time]

Prints the medians in milliseconds and the median of the ratios of neighbouring calls, which a busy machine
disturbs less than the times. `--cpu-time` runs one thread and counts the time it was given, not the time it waited.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from prunevid.core import merge_video

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "core"))
import reference

SHAPES = ((16, 144, 4096), (32, 196, 3584))


def clip(frames: int, positions: int, channels: int, moving: float, seed: int = 0) -> Tensor:
    """(T, N, C): scenes of four to eight frames; the share `moving` of a scene's positions changes in every frame."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.empty(frames, positions, channels)
    start = 0
    while start < frames:
        length = min(int(torch.randint(4, 9, (1,), generator=generator)), frames - start)
        scene = torch.randn(1, positions, channels, generator=generator)
        share = min(1.0, max(0.0, moving + 0.2 * (float(torch.rand(1, generator=generator)) - 0.5)))
        noise = torch.where(torch.rand(positions, generator=generator) < share, 1.0, 0.1)[:, None]
        spread = torch.randn(length, positions, channels, generator=generator)
        features[start : start + length] = scene + noise * spread
        start += length
    return features


def timed(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """Milliseconds of one call."""
    begin = clock()
    function()
    return (clock() - begin) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.thread_time if options.cpu_time else time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.dtype}, {options.rounds} rounds")
    print(f"{'shape':>16} {'moving':>7} {'tokens':>7} {'merge ms':>9} {'loop ms':>9} {'ratio':>6}")
    for shape in SHAPES:
        for name, moving, tau in (("none", 0.0, 0.8), ("half", 0.5, 0.8), ("most", 0.85, 0.8), ("all", 1.0, 1.5)):
            features = clip(*shape, moving).to(getattr(torch, options.dtype))
            merged = merge_video(features, tau)
            reference.merge(features, tau, exact=False)
            pairs = [
                (
                    timed(lambda x=features, t=tau: merge_video(x, t), clock),
                    timed(lambda x=features, t=tau: reference.merge(x, t, exact=False), clock),
                )
                for _ in range(options.rounds)
            ]
            ours, loop = (statistics.median(column) for column in zip(*pairs))
            ratio = statistics.median(a / b for a, b in pairs)
            label = "x".join(map(str, shape))
            print(f"{label:>16} {name:>7} {len(merged.features):>7} {ours:>9.1f} {loop:>9.1f} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
