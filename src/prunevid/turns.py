# SPDX-License-Identifier: Apache-2.0
"""A conversation about one clip as one prompt in the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def written(processor: Any, turns: Sequence[tuple[str, str]]) -> str | None:
    """The whole prompt, with one placeholder for the video before the first user's text.

    Templates differ in whether they take lists or plain text for system and assistant messages, and some drop
    messages that they have no place for. So both forms are tried, and what comes out is searched for every text.

    Args:
        processor: of the model.
        turns: (role, text), the roles "system", "user" and "assistant".

    Returns:
        The prompt up to where the model goes on; None where its chat format has no place for one of the texts.
    """
    for plain in (False, True):
        rendered = _render(processor, turns, plain)
        if rendered is not None and _holds(rendered, [text.strip() for _, text in turns]):
            return rendered
    return None


def _render(processor: Any, turns: Sequence[tuple[str, str]], plain: bool) -> str | None:
    """The conversation by the model's template; None where the template refuses it."""
    messages: list[dict[str, Any]] = []
    clip: list[dict[str, Any]] = [{"type": "video"}]
    for role, words in turns:
        text = words.strip()
        if role == "user":
            content: Any = [*clip, {"type": "text", "text": text}]
            clip = []
        else:
            content = text if plain else [{"type": "text", "text": text}]
        messages.append({"role": role, "content": content})
    try:
        return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception:  # a template raises whatever it likes
        return None


def _holds(rendered: str, texts: Sequence[str]) -> bool:
    """Whether all texts stand in the prompt, in their order."""
    place = 0
    for text in texts:
        found = rendered.find(text, place)
        if found < 0:
            return False
        place = found + len(text)
    return True
