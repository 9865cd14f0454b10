# SPDX-License-Identifier: Apache-2.0
"""What is read in a judge's reply."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid.evaluation.judging.replies import read_reply


@pytest.mark.parametrize(
    ("text", "score", "strict"),
    [
        ("{'score': 4}", 4.0, True),
        ("{'score': 4.8}", 4.8, True),
        ('{"score": 3}', 3.0, True),
        (" \n{'score': 0}\n", 0.0, True),
        ("{'score': 5, 'why': {'a': 1}}", 5.0, True),
        ('{"score": 2, "sure": true}', 2.0, False),
        ("{'score': '4'}", 4.0, False),
        ("{''score': 4.5}", 4.5, False),
        ("Here it is: {'score': 3}. Bye!", 3.0, False),
        ("```python\n{'score': 1}\n```", 1.0, False),
        ("{} {'other': 1} {'score': 2}", 2.0, False),
        ("[{'score': 2}]", 2.0, False),
    ],
)
def test_scores(text: str, score: float, strict: bool) -> None:
    reading = read_reply(text)
    assert (reading.score, reading.reason, reading.strict) == (score, None, strict)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        (" \n\t", "empty reply"),
        ("I would say 4 out of 5.", "no dictionary"),
        ("4", "no dictionary"),
        ("{'score': ", "no dictionary"),
        ("{'score': __import__('os').getpid()}", "no dictionary"),
        ("{'score': 2 ** 2}", "no dictionary"),
        ("(" * 5000, "no dictionary"),
        ("\0", "no dictionary"),
        ("{'Score': 4}", "no score in the dictionary"),
        ("{}", "no score in the dictionary"),
        ("{'score': 'high'}", "score is no number"),
        ("{'score': None}", "score is no number"),
        ('{"score": null}', "score is no number"),
        ("{'score': True}", "score is no number"),
        ("{'score': [4]}", "score is no number"),
        ("{'score': 4+1j}", "score is no number"),
        ("{'score': 6}", "score out of range"),
        ("{'score': -1}", "score out of range"),
        ("{'score': 1e999}", "score out of range"),
        ('{"score": NaN}', "score out of range"),
        ("{'score': " + "9" * 400 + "}", "score out of range"),
        ("{'score': 'nan'}", "score out of range"),
    ],
)
def test_failures_have_a_reason(text: str, reason: str) -> None:
    reading = read_reply(text)
    assert (reading.score, reading.reason) == (None, reason)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=20) | st.text("{}[]'\": 0459.-e,scor", max_size=20).map("{{'score': {}}}".format))
def test_any_text_gives_a_score_in_range_or_a_reason(text: str) -> None:
    reading = read_reply(text)
    assert (reading.score is None) != (reading.reason is None)
    assert reading.score is None or 0 <= reading.score <= 5
    if reading.strict:
        assert float(ast.literal_eval(text.strip())["score"]) == reading.score
