# SPDX-License-Identifier: Apache-2.0
"""The messages that a judge of VideoChatGPT-Bench gets; judge_texts.json names the source of their words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from prunevid.errors import ConfigError

ASPECTS = {
    "CI": "correctness of information",
    "DO": "detail orientation",
    "CU": "contextual understanding",
    "TU": "temporal understanding",
    "CO": "consistency",
}
WORDINGS = ("prunevid", "original")

Messages = tuple[Mapping[str, str], ...]


def check_wording(wording: str) -> None:
    """Refuses a wording that is none.

    Raises:
        ConfigError: it is not one of `WORDINGS`.
    """
    if wording not in WORDINGS:
        raise ConfigError(f"The wording {wording!r} is unknown; choose one of {', '.join(WORDINGS)}.")


def messages(aspect: str, question: str, answer: str, prediction: str, *, wording: str = "prunevid") -> Messages:
    """What the judge is asked about one answer.

    Args:
        aspect: "CI", "DO", "CU" or "TU".
        question, answer, prediction: the question, the reference and what the model said.
        wording: the example reply ends with {'score': 4.8} ("prunevid": as PLLaVA and PruneVid ask) or {''score': 4.8}
            ("original": as Video-ChatGPT and lmms-eval ask).

    Returns:
        The system's message and the user's, as the chat completions interface takes them.

    Raises:
        ConfigError: the wording is unknown.
    """
    asked = _texts()["one"].format(question=question, answer=answer, prediction=prediction)
    return _messages(aspect, asked, wording)


def pair_messages(
    questions: Sequence[str], answer: str, predictions: Sequence[str], *, wording: str = "prunevid"
) -> Messages:
    """What the judge is asked about the consistency (CO) of two answers, in the order in which they are given.

    Args:
        questions: two, as "Question 1" and "Question 2".
        answer: the reference that both share.
        predictions: two, as "Predicted Answer to Question 1" and "... 2".
        wording: see `messages`.

    Raises:
        ConfigError: the wording is unknown.
    """
    asked = _texts()["two"].format(
        question1=questions[0],
        question2=questions[1],
        answer=answer,
        prediction1=predictions[0],
        prediction2=predictions[1],
    )
    return _messages("CO", asked, wording)


def _messages(aspect: str, asked: str, wording: str) -> Messages:
    check_wording(wording)
    texts = _texts()
    words = texts["aspects"][aspect]
    closing = "".join(texts["closing"]).format(example=texts["examples"][wording])
    return (
        {"role": "system", "content": "".join(words["system"])},
        {"role": "user", "content": texts["opening"] + asked + "".join(words["ask"]) + closing},
    )


@cache
def _texts() -> dict[str, Any]:
    return json.loads(files(__package__).joinpath("judge_texts.json").read_text(encoding="utf-8"))
