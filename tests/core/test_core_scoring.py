# SPDX-License-Identifier: Apache-2.0
"""`question_scores` against the full attention map."""

from __future__ import annotations

import pytest
import torch

from core import reference
from prunevid.core import question_scores, scoring
from prunevid.errors import ConfigError, InputError


def sample(heads: int = 4, kv_heads: int = 2, rows: int = 5, length: int = 30, width: int = 8) -> tuple:
    queries, keys = 3 * torch.randn(heads, rows, width), torch.randn(kv_heads, length, width)
    visual = (torch.arange(length) >= 4) & (torch.arange(length) < length - rows)
    return queries, keys, visual


@pytest.mark.parametrize("aggregation", ["max", "mean"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1), (1, 1)])
@pytest.mark.parametrize("rows", [1, 5, 12])
@pytest.mark.parametrize("bound", [1, 300, 2**24])
def test_equals_the_full_map(
    aggregation: str, heads: int, kv_heads: int, rows: int, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MAP_ELEMENTS", bound)
    queries, keys, visual = sample(heads, kv_heads, rows)
    scores = question_scores(queries, keys, visual, aggregation)
    assert scores.dtype == torch.float32 and scores.shape == (int(visual.sum()),)
    torch.testing.assert_close(scores, reference.question_scores(queries, keys, visual, aggregation))


@pytest.mark.parametrize("aggregation", ["max", "mean"])
@pytest.mark.parametrize("bound", [1, 300, 2**24])
def test_masked_keys_get_nothing(aggregation: str, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MAP_ELEMENTS", bound)
    queries, keys, visual = sample()
    padding = torch.arange(30) >= 7
    causal = torch.arange(30) <= torch.arange(25, 30)[:, None]
    for mask in (padding, causal & padding, torch.zeros(30, dtype=torch.bool)):
        expected = reference.question_scores(queries, keys, visual, aggregation, mask)
        torch.testing.assert_close(question_scores(queries, keys, visual, aggregation, key_mask=mask), expected)
    scores = question_scores(queries, keys, visual, aggregation, key_mask=padding)
    assert scores[:3].tolist() == [0, 0, 0] and (scores[3:] > 0).all()


def test_a_row_without_keys_does_not_spoil_the_others() -> None:
    queries, keys, visual = sample()
    mask = torch.ones(5, 30, dtype=torch.bool)
    mask[2] = False
    scores = question_scores(queries, keys, visual, key_mask=mask)
    others = question_scores(queries[:, [0, 1, 3, 4]], keys, visual)
    torch.testing.assert_close(scores, others)


def test_indices_instead_of_a_mask() -> None:
    queries, keys, visual = sample()
    assert torch.equal(
        question_scores(queries, keys, visual), question_scores(queries, keys, visual.nonzero().flatten())
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_in_float32(dtype: torch.dtype) -> None:
    queries, keys, visual = sample()
    queries, keys = queries.to(dtype), keys.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = question_scores(queries, keys, visual)
    torch.testing.assert_close(scores, question_scores(queries.float(), keys.float(), visual), rtol=0, atol=0)


def test_strided_heads_are_read_as_they_lie() -> None:
    queries, keys, visual = sample()
    strided = queries.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(question_scores(strided, keys, visual), question_scores(queries, keys, visual))


def test_a_long_sequence_is_scored_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    softmax = torch.Tensor.softmax

    def watched(self: torch.Tensor, *args: int) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, self.numel())
        return softmax(self, *args)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    monkeypatch.setattr(scoring, "_MAP_ELEMENTS", 10_000)
    queries, keys, visual = sample(rows=40, length=600)
    question_scores(queries, keys, visual)
    assert 5_000 < largest <= 10_000


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"aggregation": "sum"}, ConfigError, "'max' or 'mean'"),
        ({"queries": torch.zeros(3, 5, 8)}, InputError, "multiple of the key heads"),
        ({"queries": torch.zeros(4, 5, 9)}, InputError, "last axes equal"),
        ({"queries": torch.zeros(4, 0, 8)}, InputError, "no empty axis"),
        ({"keys": torch.zeros(2, 30)}, InputError, "keys has shape"),
        ({"visual": torch.ones(29, dtype=torch.bool)}, InputError, "visual has 29"),
        ({"visual": torch.ones(30)}, InputError, "visual is"),
        ({"key_mask": torch.ones(4, 30, dtype=torch.bool)}, InputError, "key_mask is"),
        ({"key_mask": torch.ones(30)}, InputError, "key_mask is"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    queries, keys, visual = sample()
    with pytest.raises(error, match=words):
        question_scores(**{"queries": queries, "keys": keys, "visual": visual, **change})
