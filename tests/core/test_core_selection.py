# SPDX-License-Identifier: Apache-2.0
"""`select_by_group` and `select_top` against the loop, ties and rounding included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reference
from prunevid.core import peak_scores, select_by_group, select_top, selection
from prunevid.errors import ConfigError, InputError

RATIOS = st.one_of(st.sampled_from([0.1, 0.29, 0.3, 0.4, 0.57, 0.7, 1.0]), st.floats(0.001, 1.0))


@settings(deadline=None, max_examples=200)
@given(
    tokens=st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 6)), min_size=1, max_size=60),
    ratio=RATIOS,
)
def test_groups_equal_the_loop(tokens: list[tuple[int, int]], ratio: float) -> None:
    """Few scores, so that many tie; groups in any order, under any names."""
    scores = torch.tensor([score / 4 for score, _ in tokens])
    group = torch.tensor([name * 1000 for _, name in tokens])
    assert select_by_group(scores, group, ratio).tolist() == reference.select_by_group(scores, group, ratio)


@settings(deadline=None, max_examples=100)
@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=60), ratio=RATIOS)
def test_one_group_is_the_whole(scores: list[int], ratio: float) -> None:
    values = torch.tensor(scores, dtype=torch.float32)
    kept = select_top(values, ratio).tolist()
    assert kept == reference.select_by_group(values, torch.zeros(len(scores)), ratio)
    assert kept == select_by_group(values, torch.zeros(len(scores), dtype=torch.long), ratio).tolist()


@pytest.mark.parametrize("ratio", [0.1, 0.29, 0.3, 0.55, 0.57, 0.58, 0.7, 1.0])
def test_counts_are_those_of_python(ratio: float) -> None:
    """int(0.29 * 100) is 28: the product is taken in double precision, as Python takes it."""
    for size in range(1, 200):
        scores, group = torch.rand(size), torch.zeros(size, dtype=torch.long)
        assert len(select_by_group(scores, group, ratio)) == len(select_top(scores, ratio)) == int(ratio * size)


def test_ratio_one_keeps_all() -> None:
    scores, group = torch.rand(50), torch.arange(50) % 7
    assert select_by_group(scores, group, 1.0).tolist() == list(range(50))
    assert select_top(scores, 1.0).tolist() == list(range(50))


def test_ratio_zero_keeps_none() -> None:
    assert select_by_group(torch.rand(5), torch.zeros(5, dtype=torch.long), 0.0).tolist() == []
    assert select_top(torch.rand(5), 0.0).tolist() == []


def test_small_groups_may_lose_all() -> None:
    assert select_by_group(torch.rand(4), torch.tensor([0, 0, 1, 1]), 0.4).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    scores, group = torch.rand(64).to(dtype), torch.arange(64) // 9
    assert select_by_group(scores, group, 0.4).tolist() == reference.select_by_group(scores, group, 0.4)


def test_nothing_in_nothing_out() -> None:
    assert select_by_group(torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"keep_ratio": -0.1}, ConfigError, "keep_ratio is -0.1"),
        ({"keep_ratio": 1.01}, ConfigError, "at most 1"),
        ({"group": torch.zeros(3, dtype=torch.long)}, InputError, "one for each score"),
        ({"group": torch.zeros(4)}, InputError, "whole numbers"),
        ({"scores": torch.zeros(2, 2)}, InputError, "scores is"),
        ({"scores": torch.zeros(4, dtype=torch.long)}, InputError, "floating-point"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    good = {"scores": torch.rand(4), "group": torch.zeros(4, dtype=torch.long), "keep_ratio": 0.5}
    with pytest.raises(error, match=words):
        select_by_group(**{**good, **change})


@settings(deadline=None, max_examples=150)
@given(
    scores=st.lists(st.integers(-2, 6), min_size=1, max_size=40),
    width=st.integers(1, 5),
    table=st.integers(1, 200),
    seed=st.integers(0, 2**16),
)
def test_peaks_equal_the_loop(scores: list[int], width: int, table: int, seed: int) -> None:
    """Few scores, so that many tie; few directions, so that tokens repeat; tables of similarities cut anywhere."""
    values = torch.tensor(scores) / 4
    features = torch.randint(-1, 2, (len(scores), width), generator=torch.Generator().manual_seed(seed)).float()
    expected = torch.tensor(reference.peak_scores(values, features))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_TABLE_ELEMENTS", table)
        found = peak_scores(values, features)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)


def test_what_a_better_token_shows_is_passed_over() -> None:
    """Two things seen often, a third once: by score the first takes all places, by peaks each has one."""
    kinds = torch.tensor([0, 0, 0, 1, 1, 2])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.5, 0.4, 0.1])
    assert select_top(scores, 0.5).tolist() == [0, 1, 2]
    assert select_top(peak_scores(scores, torch.eye(3)[kinds]), 0.5).tolist() == [0, 3, 5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_peaks_in_other_precisions(dtype: torch.dtype) -> None:
    drawn = torch.Generator().manual_seed(0)
    scores, features = torch.rand(30, generator=drawn), torch.randn(30, 8, generator=drawn)
    found = peak_scores(scores.to(dtype), features.to(dtype))
    assert found.dtype == torch.float32
    expected = torch.tensor(reference.peak_scores(scores.to(dtype), features.to(dtype)), dtype=torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scores", "features"),
    [
        (torch.zeros(3, 1), torch.zeros(3, 2)),
        (torch.zeros(3, dtype=torch.long), torch.zeros(3, 2)),
        (torch.zeros(3), torch.zeros(4, 2)),
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(3), torch.zeros(3, 2, dtype=torch.long)),
    ],
)
def test_peaks_of_what_does_not_fit(scores: torch.Tensor, features: torch.Tensor) -> None:
    with pytest.raises(InputError):
        peak_scores(scores, features)
