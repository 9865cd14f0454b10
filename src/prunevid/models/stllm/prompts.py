# SPDX-License-Identifier: Apache-2.0
"""What ST-LLM is asked in its two evaluations, which frames it sees, and how its answers are read.

From the description of the original's evaluation of multiple choice (MVBench) and of free questions (VideoChatGPT). The
video has no tags: its tokens come first, then `</s>`, then the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, StoppingCriteria, StoppingCriteriaList

from prunevid.errors import InputError

SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
OPTIONS_TAIL = "\nOnly give the best option.\n"
PREFIX = "Best option:("
HUMAN, ASSISTANT = "###Human: ", "###Assistant: "
STOP_IDS = ((835,), (2277, 29937))  # "###" of Vicuna's tokenizer, in one token and in two
_FIRST, _LAST = -100000.0, 100000.0  # seconds: a part of a clip without bounds


def mvbench(question: str) -> str:
    """The prompt of a multiple-choice question, without the video.

    Args:
        question: "Question: ...\\nOptions:\\n(A) ...\\n(B) ...".
    """
    return f"{HUMAN}{SYSTEM}{question}{OPTIONS_TAIL}{ASSISTANT}{PREFIX}"


def conversation(question: str, system: str = "") -> str:
    """The prompt of a free question, without the video."""
    return f"{system}{HUMAN}{question} {ASSISTANT}"


def question_of(prompt: str) -> str:
    """What the Q-Former reads: the last question of a prompt, without what its format put around it.

    For a multiple-choice prompt the question with its options, for a free one the question; a text without turns is
    the question itself.
    """
    last = prompt.rpartition(HUMAN)[2].partition(ASSISTANT.rstrip())[0]
    return last.removeprefix(SYSTEM).removesuffix(OPTIONS_TAIL).strip()


def chat_template(video_token: str) -> str:
    """The two prompts as a Jinja template; a question with options gets the one for multiple choice.

    Args:
        video_token: stands in the text for a video, always in front.
    """
    system, tail, prefix, human, assistant, token = (
        "{{ " + json.dumps(text) + " }}" for text in (SYSTEM, OPTIONS_TAIL, PREFIX, HUMAN, ASSISTANT, video_token)
    )
    return (
        "{% macro text_of(content) %}{% if content is string %}{{ content }}{% else %}"
        "{% for part in content if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}{% endmacro %}"
        "{% for message in messages if message['content'] is not string %}"
        f"{{% for part in message['content'] if part['type'] == 'video' %}}{token}{{% endfor %}}{{% endfor %}}"
        "{% set last = namespace(options=false) %}"
        "{% for message in messages %}{% set text = text_of(message['content']) %}"
        "{% set last.options = text.startswith('Question: ') and '\\nOptions:\\n' in text %}"
        "{% if message['role'] == 'system' %}{{ text }}"
        f"{{% elif message['role'] == 'assistant' %}}{assistant}{{{{ text }}}}"
        f"{{% elif last.options %}}{human}{system}{{{{ text }}}}{tail}"
        f"{{% else %}}{human}{{{{ text }}}}{{{{ ' ' }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant}{{% if last.options %}}{prefix}{{% endif %}}{{% endif %}}"
    )


def mvbench_frames(frames: int, fps: float, bound: tuple[float, float] | None = None) -> list[int]:
    """The frames that a multiple-choice question is asked about: one a second, but 4 to 16 of them.

    Args:
        frames: of the file, >= 1; fps: of the file; bound: seconds (start, end) of the part that is asked about.

    Returns:
        Ascending indices; of a clip with few frames some occur several times.

    Raises:
        InputError: the file has no frames or no rate.
    """
    if frames < 1 or not fps > 0:
        raise InputError(f"The clip has {frames} frames at {fps} a second; both must be above 0.")
    last = frames - 1
    seconds = bound[1] - bound[0] if bound else last / fps
    parts = 4 if seconds < 4 else 16 if seconds > 16 else int(seconds)
    begin, end = bound or (_FIRST, _LAST)
    first, stop = max(0, round(begin * fps)), min(round(end * fps), last)
    part = (stop - first) / parts
    return [min(max(int(first + part / 2 + round(part * index)), 0), last) for index in range(parts)]


def conversation_frames(frames: int, most: int = 64) -> list[int]:
    """The frames that a free question is asked about: the middles of up to `most` equal parts.

    Raises:
        InputError: the file has no frames.
    """
    if frames < 1:
        raise InputError(f"The clip has {frames} frames; there must be some.")
    parts = min(frames, most)
    part = (frames - 1) / parts
    return [(round(part * index) + round(part * (index + 1))) // 2 for index in range(parts)]


class StopAt(StoppingCriteria):
    """Stops a row once one of the sequences of ids has come after its prompt.

    Args:
        prompt_tokens: length of the prompts, padding included; 0 where no prompt ends with such a sequence.
        sequences: of ids.
    """

    def __init__(self, prompt_tokens: int = 0, sequences: Sequence[Sequence[int]] = STOP_IDS) -> None:
        self.prompt_tokens, self.sequences = prompt_tokens, sequences

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,) boolean: which rows of (B, L) ids end now."""
        new = input_ids[:, self.prompt_tokens :]
        done = torch.zeros(len(new), dtype=torch.bool, device=new.device)
        for sequence in self.sequences:
            if new.shape[1] >= len(sequence):
                done |= (new[:, -len(sequence) :] == new.new_tensor(sequence)).all(1)
        return done


def mvbench_options(prompt_tokens: int) -> dict[str, Any]:
    """Arguments of `generate` for multiple choice: greedy, at most 100 tokens.

    Args:
        prompt_tokens: length of `input_ids`.
    """
    stop = StoppingCriteriaList([StopAt(prompt_tokens)])
    return {"do_sample": False, "max_new_tokens": 100, "stopping_criteria": stop}


def conversation_options(prompt_tokens: int) -> dict[str, Any]:
    """Arguments of `generate` for free questions: 5 beams, at most 300 tokens, repetition penalty 1.5.

    The original hands embeddings to `generate`, so its penalty never sees the prompt; neither does this one.

    Args:
        prompt_tokens: length of `input_ids`.
    """
    penalty = RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=prompt_tokens)
    stop = StoppingCriteriaList([StopAt(prompt_tokens)])
    options: dict[str, Any] = {"do_sample": False, "num_beams": 5, "max_new_tokens": 300}
    return options | {"logits_processor": [penalty], "stopping_criteria": stop}


def mvbench_answer(text: str) -> str:
    """The answer to a multiple-choice question, such as "(A) a dog.", from the text after its prompt."""
    return "(" + (text.partition("###")[0].rpartition("Assistant:")[2].strip().splitlines() or [""])[0]


def conversation_answer(text: str) -> str:
    """The answer to a free question from the text after its prompt."""
    return text.partition("###")[0].rpartition("Assistant:")[2].strip()
