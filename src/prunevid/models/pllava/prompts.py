# SPDX-License-Identifier: Apache-2.0
"""The prompts with which PLLaVA was evaluated, to the letter; `<image>` stands where the video goes.

Two styles: "vicuna" (7B, 13B) and "chatml" (34B). A prompt ends where the answer starts, often within it.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunevid.errors import InputError

IMAGE_TOKEN = "<image>"
STYLES = ("vicuna", "chatml")
MVBENCH_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
VIDEOMME_SYSTEM = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n"
)
CHAT_SYSTEM = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content that the "
    "user provides, and assist the user with a variety of tasks using natural language.Follow the instructions "
    "carefully and explain your answers in detail based on the provided video."
)
BEST_OPTION = "Best option:("
ONLY_THE_BEST = "\nOnly give the best option."


def mvbench(question: str, candidates: Sequence[str], style: str = "vicuna") -> str:
    """The prompt of MVBench and EgoSchema; the answer goes on behind "Best option:("."""
    return _choice(MVBENCH_SYSTEM, question, candidates, style)


def videomme(question: str, candidates: Sequence[str], style: str = "vicuna") -> str:
    """The prompt of Video-MME."""
    return _choice(VIDEOMME_SYSTEM, question, candidates, style)


def chat(question: str, style: str = "vicuna") -> str:
    """The prompt of VideoChatGPT-Bench, for questions that are answered in free words."""
    return assemble(CHAT_SYSTEM, question, "", style)


def options(question: str, candidates: Sequence[str]) -> str:
    """A question and its lettered candidates as one block.

    Raises:
        InputError: there are no candidates, or more than letters.
    """
    if not 1 <= len(candidates) <= 26:
        raise InputError(f"A question has {len(candidates)} candidates, but must have 1 to 26.")
    lines = [f"({chr(ord('A') + place)}) {text}" for place, text in enumerate(candidates)]
    return f"Question: {question}\nOptions:\n" + "\n".join(lines).rstrip()


def assemble(system: str, query: str, prefix: str, style: str) -> str:
    """A whole prompt.

    Args:
        system: what stands before the video; it is no question to the choice of tokens.
        query: the user's turn behind the video.
        prefix: the start of the answer.
        style: one of `STYLES`.

    Raises:
        InputError: there is no such style, or the texts hold the placeholder.
    """
    if any(IMAGE_TOKEN in part for part in (system, query, prefix)):
        raise InputError(f"The texts of a prompt can't hold {IMAGE_TOKEN!r}, which stands for the video; leave it out.")
    if style == "vicuna":
        return f"{system} USER: {IMAGE_TOKEN}\n USER: {query} ASSISTANT:{prefix}"
    if style == "chatml":
        turns = f"<|im_start|>user\n{IMAGE_TOKEN}\n<|im_end|>\n<|im_start|>user\n{query}<|im_end|>\n"
        return f"{system}<|im_end|>\n{turns}<|im_start|>assistant\n{prefix}"
    raise InputError(f"style is {style!r}, but must be one of {', '.join(STYLES)}.")


def chat_template(style: str) -> str:
    """`chat` as a chat template: the texts of all messages are the question, and the video comes before them."""
    before, after = (f"{{{{ {part!r} }}}}" for part in assemble(CHAT_SYSTEM, "\0", "", style).split("\0"))
    texts = (
        "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}"
    )
    return before + texts + after


def _choice(system: str, question: str, candidates: Sequence[str], style: str) -> str:
    if style == "chatml":  # the 34B model was given the same system text in MVBench too
        system = CHAT_SYSTEM
    return assemble(system, f"{options(question, candidates)} {ONLY_THE_BEST}", BEST_OPTION, style)
