# SPDX-License-Identifier: Apache-2.0
"""Adding up what a judge said: VideoChatGPT-Bench's five scores and their two means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid.evaluation.judging.prompts import ASPECTS

ACCURATE_ABOVE = 3
LABELS = {
    "mean": "mean score of the aspect's judged items, 0 to 5; an empty answer and a failed reply count as 0",
    "accuracy": "share of the aspect's judged items with a score above 3",
    "micro_mean": "mean over all judged items (Avg_Score of the published code)",
    "macro_mean": "mean of the five aspects' means (the average that the papers print)",
}


@dataclass(frozen=True)
class Verdict:
    """What became of one case.

    Attributes:
        aspect, key: of the case.
        score: 0 to 5; None while it is not judged yet.
        failure: why the judge's replies gave no score (which then is 0).
        empty: the model's answer is empty: 0 without asking.
        error: the model could not be asked: 0 without asking the judge; counts as empty too.
        strict: see `prunevid.evaluation.judging.replies.Reading`.
    """

    aspect: str
    key: str
    score: float | None
    failure: str | None = None
    empty: bool = False
    error: bool = False
    strict: bool = True


def summary(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """The scores, as JSON types.

    Returns:
        aspects: for each of the five, name, mean, accuracy, n (judged), pending (not yet judged), empty, errors, failed
        (reason to count) and loose (replies that the published reader would not have read); micro_mean and macro_mean
        (None while an aspect has no judged item); labels, what these are; judged and pending in all.
    """
    verdicts = list(verdicts)
    aspects = {
        aspect: {"name": name} | _aspect([verdict for verdict in verdicts if verdict.aspect == aspect])
        for aspect, name in ASPECTS.items()
    }
    means = [aspect["mean"] for aspect in aspects.values()]
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return {
        "aspects": aspects,
        "micro_mean": _mean(scores),
        "macro_mean": None if None in means else _mean(means),
        "labels": dict(LABELS),
        "judged": len(scores),
        "pending": len(verdicts) - len(scores),
    }


def _aspect(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    judged = [verdict for verdict in verdicts if verdict.score is not None]
    scores = [verdict.score for verdict in judged if verdict.score is not None]
    return {
        "mean": _mean(scores),
        "accuracy": _mean([float(score > ACCURATE_ABOVE) for score in scores]),
        "n": len(scores),
        "pending": len(verdicts) - len(scores),
        "empty": sum(verdict.empty for verdict in judged),
        "errors": sum(verdict.error for verdict in judged),
        "failed": dict(sorted(Counter(verdict.failure for verdict in judged if verdict.failure).items())),
        "loose": sum(not verdict.strict and verdict.failure is None for verdict in judged),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
