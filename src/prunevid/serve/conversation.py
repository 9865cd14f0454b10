# SPDX-License-Identifier: Apache-2.0
"""A conversation about one clip as one prompt in the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunevid.serve.refusals import unusable
from prunevid.turns import written

MOST_MESSAGES = 256


@dataclass(frozen=True)
class Message:
    """One turn: `role` is "system", "user" or "assistant"; the clip stands before the first user's text."""

    role: str
    text: str


def check(messages: Sequence[Message], tokenizer: Any, most: int) -> None:
    """Refuses a conversation that no model can be asked.

    Args:
        most: characters of all messages together.

    Raises:
        Refusal: 422: the order of the turns, an empty question, too much text, or a control token of the model.
    """
    if len(messages) > MOST_MESSAGES:
        raise unusable(f"There are {len(messages)} messages, above the limit of {MOST_MESSAGES}.", "too_long")
    kinds = [message.role for message in messages]
    turns = kinds[1:] if kinds[:1] == ["system"] else kinds
    expected = [("user", "assistant")[place % 2] for place in range(len(turns))]
    if turns != expected or len(turns) % 2 == 0:
        raise unusable(
            "The messages must be an optional system message, then user and assistant in turns, with the question of "
            f"the user last, but they are {', '.join(kinds[:8]) or 'none'}."
        )
    if not messages[-1].text.strip():
        raise unusable("The question is empty; ask something about the clip.")
    total = sum(len(message.text) for message in messages)
    if total > most:
        raise unusable(f"The messages have {total} characters, above the limit of {most}; shorten them.", "too_long")
    control = [token for token in getattr(tokenizer, "all_special_tokens", ()) if token]
    for message in messages:
        for token in control:
            if token in message.text:
                raise unusable(f"A message contains {token!r}, which is a control token of the model; leave it out.")


def prompt(messages: Sequence[Message], processor: Any) -> str | None:
    """The whole prompt, or None for a single question, which `VideoQA` writes itself (`prunevid.turns.written`).

    Raises:
        Refusal: 422: the model's chat format has no place for a system message, or for earlier turns.
    """
    if len(messages) == 1:
        return None
    rendered = written(processor, [(message.role, message.text) for message in messages])
    if rendered is None:
        what = "earlier turns" if len(messages) > 2 else "a system message"
        raise unusable(f"The chat format of this model has no place for {what}; ask one question alone.", "unsupported")
    return rendered
