# SPDX-License-Identifier: Apache-2.0
"""The last row's attention against loops over heads and keys."""

from __future__ import annotations

import math

import pytest
import torch

from prunevid.methods.attention import last_row_attention
from prunevid.methods.base import Attention


def by_loops(queries: torch.Tensor, keys: torch.Tensor, visual: torch.Tensor, last: int) -> list[float]:
    """Queries (H, d) of one row, keys (H_kv, S, d) -> the mean over heads of its attention to every visual key."""
    share = len(queries) // len(keys)
    total = [0.0] * keys.shape[1]
    for head, query in enumerate(queries.double()):
        weights = [
            math.exp(float(query @ key) / math.sqrt(len(query))) if place <= last else 0.0
            for place, key in enumerate(keys[head // share].double())
        ]
        total = [old + weight / sum(weights) / len(queries) for old, weight in zip(total, weights)]
    return [value for value, wanted in zip(total, visual.tolist()) if wanted]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("last", [10, 13])
def test_equals_loops(kv_heads: int, last: int, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(last + kv_heads)
    queries = torch.randn(4, 3, 8, generator=make).to(dtype)
    keys = torch.randn(kv_heads, 14, 8, generator=make).to(dtype)
    visual = torch.zeros(14, dtype=torch.bool)
    visual[2:9] = True
    rows = torch.arange(last - 2, last + 1)
    never = torch.full_like(queries, math.nan), torch.full_like(keys, math.nan)
    scores = last_row_attention(Attention(*never, visual, rows, lambda: (queries, keys)))
    assert scores.dtype == torch.float32
    expected = torch.tensor(by_loops(queries[:, -1], keys, visual, last))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7)
