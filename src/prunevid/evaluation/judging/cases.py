# SPDX-License-Identifier: Apache-2.0
"""From the answers of a run to what a judge is asked about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunevid.errors import ConfigError, InputError
from prunevid.evaluation.judging import prompts
from prunevid.evaluation.runs import Record

ASPECTS_OF_TASK = {"generic": ("CI", "DO", "CU"), "temporal": ("TU",), "consistency": ("CO",)}
CONSISTENCIES = ("prunevid", "fixed")


@dataclass(frozen=True)
class Case:
    """One thing that is judged: an answer in one aspect, or a pair of answers.

    Attributes:
        aspect: one of `prunevid.evaluation.judging.prompts.ASPECTS`.
        key: of the record; of the pair where there are two.
        answer: the reference.
        predictions: what the model said; two for a pair.
        messages: what the judge is asked.
        error: why the model could not be asked, where it could not.
    """

    aspect: str
    key: str
    answer: str
    predictions: tuple[str, ...]
    messages: prompts.Messages
    error: str | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to judge: an answer, or one of a pair, is empty."""
        return not all(prediction.strip() for prediction in self.predictions)

    @property
    def messages_hash(self) -> str:
        """SHA-256 of the messages as JSON, in hexadecimal."""
        text = json.dumps([dict(message) for message in self.messages], sort_keys=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Cases:
    """What is to be judged.

    Attributes:
        cases: in the order of the records.
        halves: keys of the pairs of which one question has not been answered yet; they can't be judged.
    """

    cases: tuple[Case, ...]
    halves: tuple[str, ...] = ()


def cases_of(records: Iterable[Record], *, consistency: str = "prunevid", wording: str = "prunevid") -> Cases:
    """What a judge is asked about the answers of a run.

    An answer to a generic question is judged three times (CI, DO, CU), one to a temporal question once (TU), a pair of
    answers to a consistency question together (CO).

    Args:
        records: of VideoChatGPT-Bench.
        consistency: "prunevid": the questions stand crossed before the judge (Question 1 is the second, Question 2 the
            first, the predicted answers in order), as in the published code; "fixed": in order.
        wording: see `prompts.messages`.

    Raises:
        ConfigError: an option is unknown.
        InputError: a record is none of VideoChatGPT-Bench, or has no reference.
    """
    prompts.check_wording(wording)
    if consistency not in CONSISTENCIES:
        raise ConfigError(f"The consistency {consistency!r} is unknown; choose one of {', '.join(CONSISTENCIES)}.")
    found: list[Case] = []
    pairs: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.task not in ASPECTS_OF_TASK:
            known = ", ".join(ASPECTS_OF_TASK)
            raise InputError(f"{record.key} is of the task {record.task!r}; a judge knows {known} only.")
        if record.task == "consistency":
            _add_half(pairs, record)
            continue
        answer = _reference(record)
        for aspect in ASPECTS_OF_TASK[record.task]:
            asked = prompts.messages(aspect, record.question, answer, record.pred, wording=wording)
            found.append(Case(aspect, record.key, answer, (record.pred,), asked, record.error))
    whole = {pair: halves for pair, halves in pairs.items() if len(halves) == 2}
    found += [_pair(pair, halves, consistency, wording) for pair, halves in whole.items()]
    return Cases(tuple(found), tuple(pair for pair in pairs if pair not in whole))


def _add_half(pairs: dict[str, dict[int, Record]], record: Record) -> None:
    """Puts a record of a consistency question to the other one of its pair."""
    pair, part = record.facts.get("pair"), record.facts.get("part")
    if pair is None or part not in (1, 2):
        raise InputError(f"{record.key} does not say which part of which pair it is; answer the question again.")
    halves = pairs.setdefault(str(pair), {})
    if part in halves:
        raise InputError(f"{record.key} and {halves[part].key} are both question {part} of pair {pair}; remove one.")
    halves[part] = record


def _pair(pair: str, halves: Mapping[int, Record], consistency: str, wording: str) -> Case:
    first, second = halves[1], halves[2]
    questions = (first.question, second.question)
    if consistency == "prunevid":
        questions = questions[::-1]
    answer, predictions = _reference(first), (first.pred, second.pred)
    asked = prompts.pair_messages(questions, answer, predictions, wording=wording)
    return Case("CO", pair, answer, predictions, asked, first.error or second.error)


def _reference(record: Record) -> str:
    if record.answer is None:
        raise InputError(f"{record.key} has no reference answer, so that it can't be judged.")
    return record.answer
