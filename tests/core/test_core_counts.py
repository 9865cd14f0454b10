# SPDX-License-Identifier: Apache-2.0
"""What stage 1 and the peaks of stage 2 cost, counted: tensor operations, waits for the device, the largest tensor."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.clips import clip, regular
from prunevid.core import merge_video, merging, peak_scores, selection

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "repeat_interleave", "equal")
HOST_READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


class Dispatched(TorchDispatchMode):
    """Counts the aten operations, views included, and notes the size of the largest tensor that one of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for made in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(made, torch.Tensor):
                    self.largest = max(self.largest, made.numel() * made.element_size())
        return result


def count(features: torch.Tensor, tau: float = 0.8) -> Dispatched:
    with Dispatched() as seen:
        merge_video(features, tau)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.8, 1.5, -2.0])
def test_operations_do_not_grow_with_the_video(dtype: torch.dtype, tau: float) -> None:
    shapes = [(2, 32, 24), (16, 32, 24), (2, 144, 16), (16, 144, 16), (4, 196, 100)]
    totals = {shape: count(regular(*shape, still=shape[1] // 2 - 1).to(dtype), tau).counts.total() for shape in shapes}
    assert len(set(totals.values())) == 1, totals
    assert max(totals.values()) <= 150


@pytest.mark.parametrize("frames", [8, 16, 64])
@pytest.mark.parametrize("seed", range(4))
def test_operations_stay_bounded_for_uneven_scenes(frames: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_CUT_PRODUCTS", 0)
    assert count(clip(frames, 100, 32, seed)).counts.total() <= 150


@pytest.mark.parametrize(("frames", "reads"), [(1, 1), (8, 2), (64, 2)])
def test_the_host_reads_twice(frames: int, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    def watch(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def watched(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            seen[name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watched)

    features = clip(frames, 40, 16)
    for name in HOST_READS:
        watch(name)
    with Dispatched() as dispatched:
        merge_video(features)
    assert seen == {"tolist": reads}
    assert not [name for name in dispatched.counts if name.strip("_").startswith(WAITS) or name in WAITS]


def test_no_tensor_outgrows_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clip(64, 64, 8, scenes=8)
    assert count(features, 1.5).largest == 64 * 64**2 * 4  # the distances of all sets at once
    monkeypatch.setattr(merging, "_DISTANCE_ELEMENTS", 4 * 64**2)
    monkeypatch.setattr(merging, "_GATHER_BYTES", {"cpu": 4 * 64 * 8 * 4})
    assert count(features, 1.5).largest == 4 * 64**2 * 4


@pytest.mark.slow
def test_a_thousand_frames_fit() -> None:
    """1,024 frames of 256 tokens: at most 64 MiB in one tensor, of which about four live at a time."""
    features = clip(1024, 256, 8)
    for tau in (0.8, 1.5):
        assert count(features, tau).largest <= 64 * 2**20


@pytest.mark.parametrize(("tokens", "table"), [(50, None), (2_000, None), (2_000, 2_000 * 500)])
def test_peaks_take_few_operations_and_no_wait(tokens: int, table: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of operations for each table of similarities, whatever the tokens; no tensor is larger than a table."""
    drawn = torch.Generator().manual_seed(0)
    scores, features = torch.rand(tokens, generator=drawn), torch.randn(tokens, 16, generator=drawn)
    if table is not None:
        monkeypatch.setattr(selection, "_TABLE_ELEMENTS", table)
    tables = 1 if table is None else tokens * tokens // table
    with Dispatched() as seen:
        peak_scores(scores, features)
    assert not set(WAITS) & set(seen.counts)
    assert seen.counts.total() <= 25 + 25 * tables
    assert seen.largest <= max(4 * (table or tokens * tokens), 8 * tokens * 16)
