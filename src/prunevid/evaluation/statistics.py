# SPDX-License-Identifier: Apache-2.0
"""How sure a difference between two runs is: exact and resampled, on the questions that both of them answered.

Sources: McNemar, Psychometrika 12 (1947), in its exact form (binomial test of the discordant pairs); Wilson, JASA 22
(1927); the percentile bootstrap of whole clusters, for several questions about one video are not independent; and
McNemar's test for such clusters by Durkalski and others, Statistics in Medicine 22 (2003).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist

from prunevid.errors import InputError

CONFIDENCE = 0.95
DRAWS = 10_000


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact test that both runs are equally often right where only one of them is.

    Args:
        gained: questions that only the first run got right.
        lost: questions that only the second run got right.

    Returns:
        P(as uneven a split, or more), each discordant pair falling either way with one half; 1.0 where there is none.

    Raises:
        InputError: a count is negative.
    """
    _count("gained", gained)
    _count("lost", lost)
    pairs, fewer = gained + lost, min(gained, lost)
    tail = term = 1
    for index in range(fewer):  # C(n, 0) + ... + C(n, fewer), each from the one before
        term = term * (pairs - index) // (index + 1)
        tail += term
    return float(min(1.0, _ratio(2 * tail, pairs)))


def _ratio(numerator: int, power: int) -> float:
    """numerator / 2 ** power, where both are too large for a float."""
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(float(numerator >> shift), shift - power)


def wilson(right: int, questions: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction.

    Args:
        right: questions answered rightly.
        questions: questions answered, at least 1.
        confidence: in (0, 1).

    Returns:
        (low, high), within 0 ... 1. Questions count as independent.

    Raises:
        InputError: a count or the confidence is out of range.
    """
    _count("right", right)
    if questions < 1 or right > questions:
        raise InputError(f"{right} of {questions} is no share of questions; give at least one, and no more right.")
    z = NormalDist().inv_cdf(0.5 + _confidence(confidence) / 2)
    share, scale = right / questions, 1 + z * z / questions
    centre = (share + z * z / (2 * questions)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / questions + z * z / (4 * questions * questions))
    low = 0.0 if right == 0 else centre - half
    return low, 1.0 if right == questions else centre + half


def clustered_bootstrap(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a mean difference when whole clusters are drawn with replacement.

    Args:
        differences: of each question, the first run's score less the second's (1, 0 or -1 for right and wrong).
        clusters: of each question, what it shares with others: its video.
        confidence: in (0, 1).
        draws: resamples.
        seed: of the resampling; the same one gives the same interval.

    Returns:
        (low, high) of sum / number of the drawn questions.

    Raises:
        InputError: there are no questions, or the lengths differ.
    """
    import numpy as np

    if len(differences) != len(clusters) or not len(differences):
        raise InputError(
            f"There are {len(differences)} differences and {len(clusters)} clusters; give one of each for a question."
        )
    _confidence(confidence)
    sums: dict[Hashable, list[float]] = {}
    for difference, cluster in zip(differences, clusters):
        entry = sums.setdefault(cluster, [0.0, 0.0])
        entry[0] += difference
        entry[1] += 1
    # Clusters of the same sum and size are interchangeable, and there are few such kinds: how often each kind is drawn
    # has a multinomial distribution, so that a resample costs a handful of numbers instead of thousands.
    kinds = Counter((total, size) for total, size in sums.values())
    values = np.array(sorted(kinds), dtype=np.float64)
    odds = np.array([kinds[kind] for kind in sorted(kinds)], dtype=np.float64) / len(sums)
    drawn = np.random.default_rng(seed).multinomial(len(sums), odds, size=draws) @ values
    means = drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def clustered_mcnemar(differences: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Two-sided p-value of the test that the mean difference is zero, where whole clusters are independent.

    The differences are summed up in every cluster; the square of their total over the total of their squares has one
    degree of freedom. With clusters of one it is McNemar's test without continuity correction.

    Args:
        differences: of each question, the first run's score less the second's.
        clusters: of each question, what it shares with others: its video.

    Returns:
        1.0 where no cluster differs.

    Raises:
        InputError: the lengths differ.
    """
    if len(differences) != len(clusters):
        raise InputError(f"There are {len(differences)} differences and {len(clusters)} clusters; give one of each.")
    sums: dict[Hashable, float] = {}
    for difference, cluster in zip(differences, clusters):
        sums[cluster] = sums.get(cluster, 0.0) + difference
    squares = math.fsum(total * total for total in sums.values())
    if squares == 0:
        return 1.0
    return math.erfc(abs(math.fsum(sums.values())) / math.sqrt(2 * squares))


def _count(name: str, value: int) -> None:
    if value < 0:
        raise InputError(f"{name} is {value}, but must be a number of questions.")


def _confidence(value: float) -> float:
    if not 0 < value < 1:
        raise InputError(f"confidence is {value}, but must be between 0 and 1.")
    return value
