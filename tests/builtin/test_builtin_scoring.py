# SPDX-License-Identifier: Apache-2.0
"""Scores: shares, intervals that widen when answers cluster by clip, and the guess from the wording."""

from __future__ import annotations

import math

import numpy as np

from prunevid.builtin.clips import make_clip
from prunevid.builtin.evaluate import table
from prunevid.builtin.scoring import Asked, Majority, score, scores


def asked(right: np.ndarray) -> list[Asked]:
    """right: (clips, questions) bool."""
    return [
        Asked(clip, "count", "how many objects are there?", "one", "one" if hit else "two")
        for clip, row in enumerate(right)
        for hit in row
    ]


def test_interval_covers_the_share_and_respects_clips() -> None:
    rng = np.random.default_rng(0)
    loose = rng.random((60, 10)) < 0.7
    tied = np.repeat(rng.random((60, 1)) < 0.7, 10, axis=1)
    one, two = score(asked(loose)), score(asked(tied))
    assert one.accuracy == loose.mean()
    assert one.low < one.accuracy < one.high
    assert one.questions == 600
    # Independent questions: the interval is near the binomial one; ten copies of one answer: about sqrt(10) wider.
    assert 0.05 < one.high - one.low < 0.1
    assert 2.0 < (two.high - two.low) / (one.high - one.low) < 5.0


def test_certain_answers_have_no_spread_and_no_answers_no_share() -> None:
    sure = score(asked(np.ones((5, 3), bool)))
    assert (sure.accuracy, sure.low, sure.high) == (1.0, 1.0, 1.0)
    assert math.isnan(score([]).accuracy)


def test_what_was_said_counts_without_case_and_spaces() -> None:
    assert Asked(0, "count", "?", "one", " One ").right
    assert not Asked(0, "count", "?", "one", "one two").right


def test_scores_and_table_have_a_row_for_each_kind() -> None:
    items = [Asked(0, "count", "a", "one", "one"), Asked(1, "where", "b", "top-left", "x")]
    shown = scores(items)
    assert list(shown) == ["where", "count", "learnt", "all"]
    assert shown["all"].accuracy == 0.5
    assert (shown["learnt"].questions, shown["learnt"].accuracy) == (1, 0.0)  # "count" was not learnt
    assert len(table({"accuracy": shown, "other": shown}).splitlines()) == 6


def test_majority_guesses_by_wording_and_is_far_from_right() -> None:
    majority = Majority(300)
    hits = [
        majority.guess(question.kind, question.text) == question.answer
        for seed in range(60)
        for question in make_clip(seed).questions
    ]
    assert 0.15 < np.mean(hits) < 0.5
    assert majority.guess("count", "never asked this way?") in {"one", "two", "three", "four", "five"}
