# SPDX-License-Identifier: Apache-2.0
"""Prompts byte for byte against what the published evaluations ask, in every family's format."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app import tiny_qwen
from app.test_families_qa import PROCESSORS
from prunevid import builtin
from prunevid.errors import InputError, UnsupportedModelError
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.prompts import Parts, lmms_parts, paper_parts, render
from prunevid.models.pllava.prompts import chat_template
from prunevid.prompting import Prompter
from prunevid.video import load_clip

MVBENCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
VIDEOMME = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, or D) of the correct option."
)
VCG = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content that the "
    "user provides, and assist the user with a variety of tasks using natural language.Follow the instructions "
    "carefully and explain your answers in detail based on the provided video."
)
QUERY = "Question: Q?\nOptions:\n(A) a\n(B) b \nOnly give the best option."
SUBTITLED = "This video's subtitles are listed below:\nHello.\nBye.\n"
LMMS_MME = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option.\nQ?\nA. a\nB. b\nThe best answer is:"
)
LMMS = {
    "mvbench": "Question:Q?\nOption:\n(A) a\n(B) b\nOnly give the best option.\n",
    "videomme": LMMS_MME,
    "egoschema": "Q?\nA. a\nB. b\nAnswer with the option's letter from the given choices directly.",
    "vcgbench": "Q?",
}
CHOICES = ("mvbench", "videomme", "egoschema")


def item(benchmark: str, question: str = "Q?", candidates: tuple[str, ...] = ("a", "b")) -> Item:
    candidates = () if benchmark == "vcgbench" else candidates
    return Item(benchmark, "x/0", "x", VideoSource(Path("x.mp4")), question, candidates)


def pllava(style: str) -> Any:
    return SimpleNamespace(chat_template=chat_template(style), video_token="<image>", image_token="<image>")


VICUNA = {
    "mvbench": f"{MVBENCH}\n USER: <image>\n USER: {QUERY} ASSISTANT:Best option:(",
    "egoschema": f"{MVBENCH}\n USER: <image>\n USER: {QUERY} ASSISTANT:Best option:(",
    "videomme": f"{VIDEOMME}\n USER: <image>\n USER: {QUERY} ASSISTANT:Best option:(",
    "vcgbench": f"{VCG} USER: <image>\n USER: Q? ASSISTANT:",
}
CHATML = (
    f"{VCG}<|im_end|>\n<|im_start|>user\n<image>\n<|im_end|>\n<|im_start|>user\n{QUERY}<|im_end|>\n"
    "<|im_start|>assistant\nBest option:("
)
CHATML_VCG = (
    f"{VCG}<|im_end|>\n<|im_start|>user\n<image>\n<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("benchmark", VICUNA)
def test_pllava_is_asked_as_published(benchmark: str) -> None:
    parts = paper_parts(item(benchmark))
    assert render(parts, pllava("vicuna"), "pllava") == VICUNA[benchmark]
    assert render(parts, pllava("chatml"), "pllava") == (CHATML_VCG if benchmark == "vcgbench" else CHATML)


def test_the_last_candidate_loses_space_behind_it() -> None:
    parts = paper_parts(item("mvbench", candidates=("a ", "b \n")))
    assert parts.query == "Question: Q?\nOptions:\n(A) a \n(B) b \nOnly give the best option."


STLLM = (
    f"<video>###Human: {MVBENCH}\nQuestion: Q?\nOptions:\n(A) a\n(B) b\nOnly give the best option.\n###Assistant: "
    "Best option:("
)


@pytest.mark.parametrize("benchmark", [*CHOICES, "vcgbench"])
def test_stllm_is_asked_in_its_own_formats(benchmark: str) -> None:
    processor = SimpleNamespace(video_token="<video>", chat_template="x")
    expected = "<video>###Human: Q? ###Assistant: " if benchmark == "vcgbench" else STLLM
    assert render(paper_parts(item(benchmark)), processor, "stllm") == expected
    asked = f"<video>###Human: {LMMS[benchmark]} ###Assistant: "
    assert render(lmms_parts(item(benchmark)), processor, "stllm") == asked


def templated(template: str, token: str = "<video>") -> Any:
    """A processor that has nothing but a chat template."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(template)

    def apply_chat_template(messages: Any, tokenize: bool, add_generation_prompt: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt)

    return SimpleNamespace(chat_template=template, video_token=token, apply_chat_template=apply_chat_template)


PART = "{% if c['type'] == 'video' %}<video>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
EACH = "{% for c in m['content'] %}" + PART + "{% endfor %}"
VIDEOS_FIRST = (
    "{% for c in m['content'] if c['type'] == 'video' %}<video>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ '\\n' + c['text'] }}{% endfor %}"
)
START = "{% if add_generation_prompt %}"
TAGGED = "{% endfor %}" + START + "<s>assistant\n{% endif %}"
# How the templates of the families treat a system's turn, and what then comes of "S", the query and the prefix.
SHAPES = {
    "a turn of its own": (  # Qwen, InternVL, VideoLLaMA3
        "{% for m in messages %}<s>{{ m['role'] }}\n" + EACH + "<e>\n" + TAGGED,
        "<s>system\nS<e>\n<s>user\n<video>Q<e>\n<s>assistant\nP",
    ),
    "videos before texts": (  # LLaVA-OneVision
        "{% for m in messages %}<s>{{ m['role'] }} " + VIDEOS_FIRST + "<e>" + TAGGED,
        "<s>system \nS<e><s>user <video>\nQ<e><s>assistant\nP",
    ),
    "no tag": (  # LLaVA-NeXT-Video, Video-LLaVA
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] }} {% else %}"
        "{{ m['role'].upper() }}: " + VIDEOS_FIRST + " {% endif %}{% endfor %}" + START + "ASSISTANT:{% endif %}",
        "S USER: <video>\nQ ASSISTANT:P",
    ),
    "a string": (
        "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'system' %}{{ m['content'] }}<e>{% else %}"
        + EACH + "<e>{% endif %}{% endfor %}" + START + "assistant: {% endif %}",
        "system: S<e>user: <video>Q<e>assistant: P",
    ),
    "refused": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['role'] }}: " + EACH + "<e>{% endfor %}" + START + "assistant: {% endif %}",
        "user: S<video>Q<e>assistant: P",
    ),
    "passed over": (
        "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: " + EACH + "<e>{% endfor %}"
        + START + "assistant: {% endif %}",
        "user: S<video>Q<e>assistant: P",
    ),
    "refused, and videos before texts": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['role'] }}: " + VIDEOS_FIRST + "<e>{% endfor %}" + START + "assistant: {% endif %}",
        "user: <video>\nS\nQ<e>assistant: P",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("benchmark", [*CHOICES, "vcgbench"])
def test_chat_templates_get_the_system_text_as_far_in_front_as_they_show_it(shape: str, benchmark: str) -> None:
    template, pattern = SHAPES[shape]
    system = {"videomme": VIDEOMME, "vcgbench": VCG}.get(benchmark, MVBENCH)
    query, prefix = ("Q?", "") if benchmark == "vcgbench" else (QUERY, "Best option:(")
    fill = {"S": system, "Q": query, "P": prefix}
    expected = "".join(fill.get(mark, mark) for mark in _marks(pattern))
    assert render(paper_parts(item(benchmark)), templated(template), "some_family") == expected


def _marks(pattern: str) -> list[str]:
    """Cuts out the letters that stand for texts: those that are no part of a longer word."""
    return re.split(r"(?<![A-Za-z])([SQP])(?![A-Za-z])", pattern)


@pytest.mark.parametrize("benchmark", LMMS)
def test_lmms_asks_in_the_models_own_format(benchmark: str) -> None:
    template = SHAPES["a turn of its own"][0]
    text = render(lmms_parts(item(benchmark)), templated(template), "qwen2_5_vl")
    assert text == f"<s>user\n<video>{LMMS[benchmark]}<e>\n<s>assistant\n"
    asked = f"{VCG} USER: <image>\n USER: {LMMS[benchmark]} ASSISTANT:"
    assert render(lmms_parts(item(benchmark)), pllava("vicuna"), "pllava") == asked


def test_lmms_letters_come_once() -> None:
    assert lmms_parts(item("videomme", candidates=("A. a", "B. b"))).query == LMMS_MME


@pytest.mark.parametrize(
    ("subtitles", "expected"),
    [
        (None, LMMS_MME),
        ("Hello.\nBye.", "This video's subtitles are listed below: \nHello.\nBye.\n" + LMMS_MME),
        ("No subtitles available", "This video's subtitles are listed below: \nNo subtitles available\n" + LMMS_MME),
    ],
)
def test_lmms_subtitles(subtitles: str | None, expected: str) -> None:
    assert lmms_parts(item("videomme"), subtitles).query == expected


@pytest.mark.parametrize("subtitles", [None, ""])
def test_no_subtitles_change_nothing(subtitles: str | None) -> None:
    assert paper_parts(item("videomme"), subtitles) == paper_parts(item("videomme"))


def test_subtitles_come_before_the_question_or_before_the_video() -> None:
    asked = paper_parts(item("videomme"), "Hello.\nBye.")
    before = paper_parts(item("videomme"), "Hello.\nBye.", before_video=True)
    start, end = f"{VIDEOMME}\n", f"{QUERY} ASSISTANT:Best option:("
    assert render(asked, pllava("vicuna"), "pllava") == f"{start} USER: <image>\n USER: {SUBTITLED}{end}"
    assert render(before, pllava("vicuna"), "pllava") == f"{start}{SUBTITLED} USER: <image>\n USER: {end}"
    assert render(before, pllava("chatml"), "pllava").startswith(f"{VCG}\n{SUBTITLED}<|im_end|>\n")
    qwen = templated(SHAPES["a turn of its own"][0])
    assert render(before, qwen, "x").startswith(f"<s>system\n{VIDEOMME}\n{SUBTITLED.strip()}<e>\n<s>user\n<video>Quest")


@pytest.mark.parametrize("family", ["pllava", "stllm", "qwen2_5_vl"])
@pytest.mark.parametrize("question", ["What <image> is", "", " \n"])
def test_questions_that_are_none(family: str, question: str) -> None:
    processor = templated(SHAPES["a turn of its own"][0], "<image>")
    with pytest.raises(InputError, match=r"stands for frames|question is empty"):
        render(paper_parts(item("vcgbench", question)), processor, family)


@pytest.mark.parametrize("template", ["{{ messages[0]['content'][0]['text'] }}", "<video>", "Q? <video>", None])
def test_templates_that_show_no_question_behind_the_video(template: str | None) -> None:
    processor = templated(template or "")
    with pytest.raises(UnsupportedModelError, match="chat template"):
        render(Parts("Q?"), processor, "x")


def test_a_question_needs_options() -> None:
    for make in (paper_parts, lmms_parts):
        with pytest.raises(InputError, match="0 candidates"):
            make(item("mvbench", candidates=()))


def _numbers_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM2's processor writes the number of frames in words, by an optional package."""
    module = importlib.import_module("transformers.models.smolvlm.processing_smolvlm")
    if module.num2words is None:
        monkeypatch.setattr(module, "num2words", lambda number: "eight")


@pytest.mark.parametrize("family", [*PROCESSORS, "builtin"])
@pytest.mark.parametrize("make", [paper_parts, lmms_parts])
def test_every_familys_processor_takes_its_prompts(family: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same visual tokens as with a plain question, and behind them the tokens of the prompt's end."""
    _numbers_in_words(monkeypatch)
    processor = builtin.load()[1] if family == "builtin" else PROCESSORS[family][0]()
    model_type = "qwen2_5_vl" if family == "builtin" else family
    clip = load_clip(tiny_qwen.frames(8))
    texts = [render(make(item(benchmark)), processor, model_type) for benchmark in LMMS]
    prompter = Prompter(processor, "cpu")
    plain = prompter.encode([clip], ["what moves ?"])
    visual = processor.tokenizer.convert_tokens_to_ids(
        {"pllava": "<image>", "internvl": tiny_qwen.SPECIAL[6], "smolvlm": tiny_qwen.SPECIAL[6]}.get(
            family, tiny_qwen.SPECIAL[7]
        )
    )
    for text in texts:
        monkeypatch.setattr(prompter, "text", lambda question, text=text: text)
        inputs = prompter.encode([clip], ["x"])
        count = int((inputs["input_ids"] == visual).sum())
        assert count == int((plain["input_ids"] == visual).sum()) > 0
        ending = processor.tokenizer(text[-30:], add_special_tokens=False)["input_ids"][-2:]
        assert inputs["input_ids"][0, -2:].tolist() == torch.tensor(ending).tolist()
        assert all(torch.isfinite(inputs[name]).all() for name in inputs if name.startswith("pixel_values"))
