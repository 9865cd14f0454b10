# SPDX-License-Identifier: Apache-2.0
"""A judge that is none: words in common, offline. For tests and for trying the command; its scores mean nothing."""

from __future__ import annotations

import re

from prunevid.evaluation.judging.asking import Gate, Identity, Said
from prunevid.evaluation.judging.cases import Case

STUB_MODEL = "stub-word-overlap"
STUB_NOTE = "Offline stub, not a judge: words in common with the reference. No score of any model; do not report it."


class StubJudge:
    """Gives 0 to 5 for the words that an answer and the reference have in common (F1; of a pair the worse one)."""

    identity = Identity(STUB_MODEL, "", None, stub=True)

    def ask(self, case: Case, gate: Gate) -> Said:
        """See `prunevid.evaluation.judging.asking.Judge`."""
        gate.enter()
        shared = min(_overlap(case.answer, prediction) for prediction in case.predictions)
        return Said(f"{{'score': {int(5 * shared + 0.5)}}}", STUB_MODEL, 0, 0, 0)


def _overlap(answer: str, prediction: str) -> float:
    """F1 of the two texts' sets of words."""
    ours, theirs = (set(re.findall(r"\w+", text.lower())) for text in (prediction, answer))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 0.0
