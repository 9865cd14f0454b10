# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the five scores against tables made by hand."""

from __future__ import annotations

import pytest

from prunevid.evaluation.judging.scores import Verdict, summary


def verdicts(aspect: str, *scores: float | None) -> list[Verdict]:
    return [Verdict(aspect, str(number), score) for number, score in enumerate(scores)]


def test_hand_made_table() -> None:
    part = summary(
        [
            *verdicts("CI", 5, 3, 3.5, None),
            *verdicts("DO", 0, 1),
            Verdict("DO", "x", 0.0, empty=True),
            Verdict("DO", "y", 0.0, empty=True, error=True),
            *verdicts("CU", 4, 4),
            Verdict("TU", "a", 0.0, failure="no dictionary", strict=False),
            Verdict("TU", "b", 0.0, failure="no dictionary", strict=False),
            Verdict("TU", "c", 3.0, strict=False),
            Verdict("TU", "d", 0.0, failure="empty reply", strict=False),
            *verdicts("CO", 2),
        ]
    )
    found = {aspect: (values["mean"], values["accuracy"], values["n"]) for aspect, values in part["aspects"].items()}
    assert found["CI"] == (pytest.approx(11.5 / 3), pytest.approx(2 / 3), 3)  # 3 itself is not above 3
    assert found["DO"] == (0.25, 0.0, 4)
    assert found["CU"] == (4.0, 1.0, 2)
    assert found["TU"] == (0.75, 0.0, 4)
    assert found["CO"] == (2.0, 0.0, 1)
    assert part["micro_mean"] == pytest.approx((11.5 + 1 + 8 + 3 + 2) / 14)
    assert part["macro_mean"] == pytest.approx((11.5 / 3 + 0.25 + 4 + 0.75 + 2) / 5)
    assert (part["judged"], part["pending"]) == (14, 1)
    detail, temporal = part["aspects"]["DO"], part["aspects"]["TU"]
    assert (detail["empty"], detail["errors"], detail["failed"], detail["loose"]) == (2, 1, {}, 0)
    assert (temporal["failed"], temporal["loose"]) == ({"no dictionary": 2, "empty reply": 1}, 1)
    assert part["aspects"]["CI"]["pending"] == 1


def test_the_papers_row_is_the_macro_mean() -> None:
    """2.33, 3.62, 2.93, 2.86 and 3.21 average to the printed 2.99; the mean over all items is another number."""
    row = {"CI": 2.33, "DO": 3.62, "CU": 2.93, "TU": 2.86, "CO": 3.21}
    counts = {"CI": 2000, "DO": 2000, "CU": 2000, "TU": 500, "CO": 500}
    part = summary([verdict for name in row for verdict in verdicts(name, *[row[name]] * counts[name])])
    assert round(part["macro_mean"], 2) == 2.99
    assert part["micro_mean"] == pytest.approx((2000 * (2.33 + 3.62 + 2.93) + 500 * (2.86 + 3.21)) / 7000)
    assert round(part["micro_mean"], 2) == 2.97
    assert "Avg_Score" in part["labels"]["micro_mean"] and "papers" in part["labels"]["macro_mean"]


def test_no_mean_of_nothing() -> None:
    part = summary(verdicts("CI", 4, None))
    assert part["macro_mean"] is None and part["micro_mean"] == 4.0
    assert part["aspects"]["CO"]["mean"] is None and part["aspects"]["CO"]["accuracy"] is None
    assert summary([])["micro_mean"] is None
