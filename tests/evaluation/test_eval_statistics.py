# SPDX-License-Identifier: Apache-2.0
"""Tests of significance and intervals against published values, enumeration, and plain loops."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunevid.errors import InputError
from prunevid.evaluation.statistics import clustered_bootstrap, mcnemar, wilson


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 0.0625),  # 2 / 2^5
        (6, 0, 0.03125),
        (5, 5, 1.0),
        (1, 9, 0.021484375),  # 2 (1 + 10) / 1024, the textbook's sign test of 9 in 10
    ],
)
def test_mcnemar_known_values(gained: int, lost: int, expected: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=5e-8)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@pytest.mark.parametrize("pairs", range(1, 11))
def test_mcnemar_is_the_share_of_all_splits_that_are_as_uneven(pairs: int) -> None:
    splits = [sum(way) for way in itertools.product((0, 1), repeat=pairs)]
    for gained in range(pairs + 1):
        uneven = abs(2 * gained - pairs)
        share = sum(abs(2 * split - pairs) >= uneven for split in splits) / len(splits)
        assert mcnemar(gained, pairs - gained) == pytest.approx(share, rel=1e-12)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_of_thousands_of_pairs_is_a_probability(gained: int, lost: int) -> None:
    assert 0 <= mcnemar(gained, lost) <= 1


def test_mcnemar_of_many_pairs_equals_whole_number_arithmetic() -> None:
    import math

    tail = sum(math.comb(2400, k) for k in range(1101))
    assert mcnemar(1100, 1300) == pytest.approx(float(Fraction(2 * tail, 2**2400)), rel=1e-12)


@pytest.mark.parametrize(
    ("right", "questions", "expected"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_known_values(right: int, questions: int, expected: tuple[float, float]) -> None:
    assert wilson(right, questions) == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_its_equation_and_mirror(counts: tuple[int, int]) -> None:
    right, questions = counts
    low, high = wilson(right, questions)
    assert 0 <= low <= right / questions <= high <= 1
    for bound in (low, high):  # |share - p| = z sqrt(p (1 - p) / n), but where the interval meets 0 or 1
        if 1e-12 < bound < 1 - 1e-12:
            assert abs(right / questions - bound) == pytest.approx(
                1.959963984540054 * (bound * (1 - bound) / questions) ** 0.5, rel=1e-6
            )
    mirrored = wilson(questions - right, questions)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def every_resample(differences: list[float], clusters: list[str]) -> list[float]:
    """The means of all k^k resamples of k clusters, none left to chance."""
    groups = [[d for d, c in zip(differences, clusters) if c == name] for name in sorted(set(clusters))]
    drawn = itertools.product(groups, repeat=len(groups))
    return [sum(sum(group) for group in ways) / sum(len(group) for group in ways) for ways in drawn]


@pytest.mark.parametrize(
    ("differences", "clusters"),
    [
        ([1, 0, 0, -1, 1], list("abcde")),
        ([1, 1, 1, 0, -1, 0], list("aaabbc")),
        ([1, 1, 0, 0, 0, -1, 1], list("aabbbcd")),
        ([0.5, -1.5, 2.0, 0.0], list("abcc")),
    ],
)
@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_bootstrap_equals_enumeration(differences: list[float], clusters: list[str], confidence: float) -> None:
    means = np.array(every_resample(differences, clusters))
    found = clustered_bootstrap(differences, clusters, confidence=confidence, draws=200_000)
    for bound, level in zip(found, ((1 - confidence) / 2, (1 + confidence) / 2)):
        below, up_to = np.mean(means < bound - 1e-9), np.mean(means <= bound + 1e-9)
        assert below - 0.005 <= level <= up_to + 0.005
        assert np.abs(means - bound).min() < 1e-9


def test_bootstrap_draws_videos_not_questions() -> None:
    """A hundred questions about four videos say little more than four: the interval must show it."""
    differences = [1] * 25 + [-1] * 25 + [1] * 25 + [0] * 25
    together = clustered_bootstrap(differences, [i // 25 for i in range(100)])
    apart = clustered_bootstrap(differences, list(range(100)))
    assert together[1] - together[0] > 3 * (apart[1] - apart[0])


def test_bootstrap_is_repeatable_and_exact_where_nothing_varies() -> None:
    assert clustered_bootstrap([0, 0, 0], ["a", "b", "b"]) == (0.0, 0.0)
    assert clustered_bootstrap([1], ["a"]) == (1.0, 1.0)
    one = clustered_bootstrap([1, 0, -1, 1], list("abcd"), seed=3)
    assert one == clustered_bootstrap([1, 0, -1, 1], list("abcd"), seed=3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mcnemar(-1, 2),
        lambda: mcnemar(1, -2),
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(-1, 5),
        lambda: wilson(1, 5, confidence=1.0),
        lambda: clustered_bootstrap([], []),
        lambda: clustered_bootstrap([1.0], []),
        lambda: clustered_bootstrap([1.0], ["a"], confidence=0),
    ],
)
def test_wrong_numbers_are_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        wrong()
