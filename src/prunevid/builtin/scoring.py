# SPDX-License-Identifier: Apache-2.0
"""Accuracy for each kind of question, with intervals that respect that questions of one clip belong together."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from prunevid.builtin.clips import make_clip
from prunevid.builtin.questions import KINDS, LEARNT


@dataclass(frozen=True)
class Asked:
    """One question that was put: number of its clip, kind, wording, right answer, what was said."""

    clip: int
    kind: str
    text: str
    answer: str
    said: str

    @property
    def right(self) -> bool:
        """Whether what was said is the answer, word for word (case and outer spaces aside)."""
        return self.said.strip().lower() == self.answer


@dataclass(frozen=True)
class Score:
    """Share of right answers with the ends of its 95 % interval and the number of questions."""

    accuracy: float
    low: float
    high: float
    questions: int


def score(asked: list[Asked], draws: int = 2000) -> Score:
    """Accuracy with a 95 % percentile interval from a bootstrap over clips (a clip's questions stay together)."""
    if not asked:
        return Score(float("nan"), float("nan"), float("nan"), 0)
    clips = sorted({item.clip for item in asked})
    place = {clip: i for i, clip in enumerate(clips)}
    right, count = np.zeros(len(clips)), np.zeros(len(clips))
    for item in asked:
        right[place[item.clip]] += item.right
        count[place[item.clip]] += 1
    drawn = np.random.default_rng(0).integers(len(clips), size=(draws, len(clips)))
    shares = right[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Score(float(right.sum() / count.sum()), float(low), float(high), len(asked))


def scores(asked: list[Asked]) -> dict[str, Score]:
    """Scores of every kind that was asked, of the kinds that were "learnt", and of "all" questions together."""
    kinds = [kind for kind in KINDS if any(item.kind == kind for item in asked)]
    table = {kind: score([item for item in asked if item.kind == kind]) for kind in kinds}
    return {**table, "learnt": score([item for item in asked if item.kind in LEARNT]), "all": score(asked)}


class Majority:
    """The best guess without looking: the answer that a wording (or, for one never met, a kind) most often had among
    the first training clips."""

    def __init__(self, clips: int = 2000) -> None:
        by_text: dict[str, Counter[str]] = defaultdict(Counter)
        by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for seed in range(clips):
            for question in make_clip(seed, "train").questions:
                by_text[question.text][question.answer] += 1
                by_kind[question.kind][question.answer] += 1
        self._text = {text: counts.most_common(1)[0][0] for text, counts in by_text.items()}
        self._kind = {kind: counts.most_common(1)[0][0] for kind, counts in by_kind.items()}

    def guess(self, kind: str, text: str) -> str:
        """The answer that it would give."""
        return self._text.get(text, self._kind.get(kind, ""))
