# SPDX-License-Identifier: Apache-2.0
"""What a model is asked: a protocol's texts for an item, and their place in the format of each model family.

The texts are those of the published evaluations, to the byte. What each family makes of them:

    PLLaVA      its own two formats (`prunevid.models.pllava.prompts`); 34B takes one system text for everything.
    ST-LLM      its own format for multiple choice, with its one system text, and the one for free questions.
    others      the chat template of their processor: the system text as the system's turn, the video and the query as
                the user's, the start of the answer behind the generation prompt. Where the template shows no system's
                turn, the text goes into the user's turn before the video, and where it puts texts behind the video
                whatever their order, in front of the query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prunevid.errors import InputError, UnsupportedModelError
from prunevid.evaluation.items import LETTERS, Item
from prunevid.models.pllava import prompts as pllava
from prunevid.models.stllm import prompts as stllm

_SUBTITLES = "This video's subtitles are listed below:"
_LETTER_ONLY = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)
_SYSTEMS = {"mvbench": pllava.MVBENCH_SYSTEM, "egoschema": pllava.MVBENCH_SYSTEM, "videomme": pllava.VIDEOMME_SYSTEM}


@dataclass(frozen=True)
class Parts:
    """The texts of a prompt, without any model's format.

    Attributes:
        question: what is asked, with its options.
        system: comes before the video; it is no question to the choice of tokens. "": none, the model's own format.
        tail: the instruction behind the question.
        prefix: the start of the answer.
        context: what else comes before the video.
    """

    question: str
    system: str = ""
    tail: str = ""
    prefix: str = ""
    context: str = ""

    @property
    def opening(self) -> str:
        """All that comes before the video."""
        return _joined(self.system, self.context)

    @property
    def query(self) -> str:
        """The user's text behind the video."""
        return self.question + self.tail


def paper_parts(item: Item, subtitles: str | None = None, before_video: bool = False) -> Parts:
    """The texts of the published PruneVid evaluation (its settings per benchmark; docs/evaluation.md).

    Args:
        item: what is asked.
        subtitles: of the video, which the published runs had not: they come in front of "Question:", so that they
            are part of what the choice of tokens looks for. None or "": nothing is said of them.
        before_video: put them behind the system text instead, where the choice doesn't see them.

    Raises:
        InputError: a question with options has none, or more than letters.
    """
    if item.benchmark == "vcgbench":
        return Parts(item.question, pllava.CHAT_SYSTEM)
    system = _SYSTEMS[item.benchmark]
    question = pllava.options(item.question, item.candidates)
    block = f"{_SUBTITLES}\n{subtitles}\n" if subtitles else ""
    context, asked = (block, "") if before_video else ("", block)
    return Parts(asked + question, system, f" {pllava.ONLY_THE_BEST}", pllava.BEST_OPTION, context)


def lmms_parts(item: Item, subtitles: str | None = None) -> Parts:
    """The texts of lmms-eval's tasks: no system text and no start of an answer.

    Args:
        item: what is asked.
        subtitles: of a video of Video-MME (`prunevid.evaluation.subtitles.lmms_text`); None: asked without. Its
            instruction speaks of subtitles in both cases.

    Raises:
        InputError: a question with options has none, or more than letters.
    """
    if item.benchmark == "vcgbench":
        return Parts(item.question)
    pllava.options(item.question, item.candidates)  # refuses what has no letters
    if item.benchmark == "mvbench":
        lines = "".join(f"({letter}) {text}\n" for letter, text in zip(LETTERS, item.candidates))
        return Parts(f"Question:{item.question}\nOption:\n{lines}", tail="Only give the best option.\n")
    lines = "\n".join(_lettered(letter, text) for letter, text in zip(LETTERS, item.candidates))
    if item.benchmark == "egoschema":
        tail = "\nAnswer with the option's letter from the given choices directly."
        return Parts(f"{item.question}\n{lines}", tail=tail)
    shown = "" if subtitles is None else f"{_SUBTITLES} \n{subtitles}\n"
    return Parts(f"{shown}{_LETTER_ONLY}\n{item.question}\n{lines}", tail="\nThe best answer is:")


def _joined(system: str, context: str) -> str:
    """Two texts, on lines of their own."""
    return system + ("\n" if system and context and not system.endswith("\n") else "") + context


def _lettered(letter: str, text: str) -> str:
    """ "A. a box", also where the annotations have the letter in the text."""
    return text if text.startswith(f"{letter}. ") else f"{letter}. {text}"


def render(parts: Parts, processor: Any, family: str) -> str:
    """A whole prompt in a model's own format, with one placeholder for the video.

    Args:
        parts: the texts.
        processor: the model's.
        family: its `config.model_type`.

    Raises:
        InputError: a text holds the model's placeholder for videos.
        UnsupportedModelError: the processor has no chat template, or one that does not show the query behind the
            video.
    """
    _check(parts, processor)
    if family == "pllava":
        return _pllava(parts, "chatml" if "<|im_start|>" in (processor.chat_template or "") else "vicuna")
    if family == "stllm":
        asked = parts.context + parts.question  # its video comes before any text
        return processor.video_token + (
            stllm.mvbench(asked) if parts.prefix else stllm.conversation(asked + parts.tail)
        )
    return _chat(parts, processor) + parts.prefix


def _check(parts: Parts, processor: Any) -> None:
    """Refuses texts that would be taken for pictures, and none."""
    if not parts.query.strip():
        raise InputError("The question is empty; correct the annotation.")
    for name in ("video_token", "image_token"):
        token = getattr(processor, name, None)
        if isinstance(token, str) and any(token in text for text in (parts.opening, parts.query)):
            raise InputError(f"The text contains {token!r}, which stands for frames; take it out of the annotation.")


def _pllava(parts: Parts, style: str) -> str:
    """Without a system text it is the format of a free question."""
    system = parts.system if parts.system and style == "vicuna" else pllava.CHAT_SYSTEM
    return pllava.assemble(_joined(system, parts.context), parts.query, parts.prefix, style)


def _chat(parts: Parts, processor: Any) -> str:
    """A chat template's text up to where the answer starts, with the system text as far in front as it shows it.

    Which of the ways a template takes is found out by looking at what it wrote.
    """
    if not getattr(processor, "chat_template", None):
        raise UnsupportedModelError(
            f"The processor {type(processor).__name__} has no chat template, so no benchmark can be run; use an "
            "instruction-tuned model."
        )
    system, query = parts.opening.strip(), parts.query
    token = getattr(processor, "video_token", None)
    for messages in _arrangements(system, query):
        text = _templated(processor, messages)
        if text is not None and _in_order(text, token if isinstance(token, str) else None, system, query.strip()):
            return text
    raise UnsupportedModelError(
        f"The chat template of {type(processor).__name__} does not show a question behind its video; use the template "
        "that the model was published with."
    )


def _arrangements(system: str, query: str) -> Iterator[list[dict[str, Any]]]:
    """The messages to try, best first."""
    video, asked = {"type": "video"}, {"type": "text", "text": query}
    if not system:
        yield [{"role": "user", "content": [video, asked]}]
        return
    said = {"type": "text", "text": system}
    yield [{"role": "system", "content": [said]}, {"role": "user", "content": [video, asked]}]
    yield [{"role": "system", "content": system}, {"role": "user", "content": [video, asked]}]
    yield [{"role": "user", "content": [said, video, asked]}]
    yield [{"role": "user", "content": [video, {"type": "text", "text": f"{system}\n{query}"}]}]


def _templated(processor: Any, messages: list[dict[str, Any]]) -> str | None:
    """What the template makes of the messages; None where it can't."""
    from jinja2 import TemplateError

    try:
        return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, KeyError, ValueError):  # a role or a kind of content that it does not know
        return None


def _in_order(text: str, token: str | None, system: str, query: str) -> bool:
    """Whether a text holds the system text and one video, and the query behind both."""
    head = text.rpartition(query)[0]
    if "{'type':" in head:  # a template that takes only strings has written down the list that it was given
        return False
    return system in head and (head.count(token) == 1 if token is not None else query in text)
