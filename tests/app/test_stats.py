# SPDX-License-Identifier: Apache-2.0
"""`prunevid.stats`: the arithmetic, and the dictionary's keys."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

from prunevid import stats

KEYS = {
    "stage1": {"original_tokens", "compressed_tokens", "reduction_percentage", "static_ratio", "num_segments"},
    "stage2": {"original_tokens", "compressed_tokens", "reduction_percentage", "layer"},
    "stage3": {"original_bytes", "compressed_bytes", "reduction_ratio"},
    "total": {"retained_ratio", "flops_ratio"},
    "milliseconds": {"decode_video", "vision", "merge", "prefill", "decode"},
}


def row(**changes: object) -> dict[str, dict[str, object]]:
    values = {
        "original": 100,
        "merged": 40,
        "kept": 10,
        "static": 30,
        "scenes": 2,
        "selection_layer": 5,
        "original_bytes": 1000,
        "compressed_bytes": 250,
        "flops_ratio": 0.3,
        "milliseconds": {"vision": 2.0},
    }
    return stats.row_stats(**{**values, **changes})  # type: ignore[arg-type]


def test_the_keys_are_the_contracts() -> None:
    assert {name: set(part) for name, part in row().items()} == KEYS


def test_the_numbers_of_a_row() -> None:
    made = row()
    assert made["stage1"]["reduction_percentage"] == pytest.approx(60.0)
    assert made["stage1"]["static_ratio"] == pytest.approx(0.75)
    assert made["stage2"]["original_tokens"] == 40
    assert made["stage2"]["reduction_percentage"] == pytest.approx(75.0)
    assert made["stage3"]["reduction_ratio"] == pytest.approx(0.75)
    assert made["total"]["retained_ratio"] == pytest.approx(0.1)
    assert made["milliseconds"] == {"decode_video": 0, "vision": 2.0, "merge": 0, "prefill": 0, "decode": 0}


def test_a_row_without_visual_tokens_divides_by_nothing() -> None:
    made = row(original=0, merged=0, kept=0, static=0, scenes=0, original_bytes=0, compressed_bytes=0)
    assert made["stage1"]["reduction_percentage"] == 0.0
    assert made["stage1"]["static_ratio"] == 0.0
    assert made["stage3"]["reduction_ratio"] == 0.0
    assert made["total"]["retained_ratio"] == 1.0


def test_one_layer_by_fastvs_formula() -> None:
    assert stats.decoder_flops(3, 5, 7) == 4 * 3 * 25 + 2 * 9 * 5 + 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(0, (50 + 9 * 20) / 1000), (4, (250 + 5 * 20) / 1000), (9, 0.5), (None, 0.5), (20, 0.5)],
)
def test_layers_up_to_the_choice_see_the_merged_tokens(
    layer: int | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "decoder_flops", lambda tokens, hidden, mlp: float(tokens))
    assert stats.flops_ratio(100, 50, 20, 10, layer, 8, 16) == pytest.approx(expected)


def test_flops_ratio_is_one_when_nothing_is_dropped_or_there_is_nothing() -> None:
    assert stats.flops_ratio(64, 64, 64, 4, 1, 32, 64) == 1.0
    assert stats.flops_ratio(0, 0, 0, 4, 1, 32, 64) == 1.0


def test_bytes_of_a_cache_are_those_of_its_tensors() -> None:
    cache = DynamicCache()
    assert stats.cache_bytes(cache) == 0
    for layer in range(2):
        cache.update(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4), layer)
    assert stats.cache_bytes(cache) == 2 * (2 * 5 * 4) * 2 * 4


def test_counted_flops_of_a_product_and_of_one_submodule() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 8, bias=False)
            self.second = torch.nn.Linear(8, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    two = Two()
    count, result = stats.measure_flops(lambda: two(torch.ones(3, 4)))
    assert (count, result.shape) == (2 * 3 * (4 * 8 + 8 * 2), (3, 2))
    assert stats.measure_flops(lambda: two(torch.ones(3, 4)), "Two.second")[0] == 2 * 3 * 8 * 2


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("kernel", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], ids=str)
def test_attention_is_counted_whatever_the_kernel(kernel: SDPBackend, heads: int) -> None:
    queries, keys, values = torch.ones(3, 4, 5, 16), torch.ones(3, heads, 7, 16), torch.ones(3, heads, 7, 16)
    with sdpa_kernel(kernel):
        count, _ = stats.measure_flops(
            lambda: scaled_dot_product_attention(queries, keys, values, enable_gqa=heads < 4)
        )
    assert count == 3 * 4 * (2 * 5 * 7 * 16) * 2


def test_the_one_line_names_tokens_and_layer() -> None:
    assert "100 -> 40 -> 10 (after layer 5), 10.0% kept" in stats.describe(row())
