# SPDX-License-Identifier: Apache-2.0
"""Questions: each answer is checked against the plan by a second, separate reading of the question's words."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from prunevid.builtin.clips import make_clip
from prunevid.builtin.model import UNK, build_tokenizer
from prunevid.builtin.packing import encode
from prunevid.builtin.questions import KINDS, NUMBERS, Question, words
from prunevid.builtin.scenes import COLORS, FRAMES, SHAPES, Plan, Thing

CLIPS = [make_clip(seed, split) for split in ("train", "test") for seed in range(150)]
ASKED = [(clip.plan, question) for clip in CLIPS for question in clip.questions]


def named(plan: Plan, name: str) -> Thing:
    """The one thing that "red object" or "circle" names, from words alone."""
    word = name.removesuffix(" object")
    found = [t for t in plan.things if (word == t.shape if word in SHAPES else word in (t.color, t.color_after))]
    assert len(found) == 1, f"{name!r} names {len(found)} things"
    return found[0]


def appears(plan: Plan) -> list[Thing]:
    return sorted((t for t in plan.things if t.born > plan.bounds[t.scene]), key=lambda t: t.born)


def vanishes(plan: Plan) -> list[Thing]:
    return [t for t in plan.things if t.dies < plan.bounds[t.scene + 1] and t.born == plan.bounds[t.scene]]


def single(plan: Plan, phrase: str) -> Thing:
    """The one thing that a description such as "moving object" or "object that appears first" singles out."""
    brief = [t for t in plan.things if t.dies - t.born <= 4 and t.born > 0 and plan.scenes == 1 and t.role == "flash"]
    groups = {
        "small object": [t for t in plan.things if t.radius < 6],
        "moving object": [t for t in plan.things if t.speed > 0],
        "object that appears": appears(plan),
        "object that appears first": appears(plan)[:1],
        "object that appears last": appears(plan)[-1:],
        "object that vanishes": vanishes(plan),
        "object that flashes": brief,
        "object that changes color": [t for t in plan.things if t.color_after],
        "changing object": [t for t in plan.things if t.color_after],
    }
    found = groups[phrase] if phrase in groups else [named(plan, phrase)]
    assert len(found) == 1, f"{phrase!r} singles out {len(found)} things"
    return found[0]


def expected(plan: Plan, text: str) -> str:
    """The answer, from the question's words and the plan."""
    if found := re.fullmatch(r"what (color|shape) is the (.+)\?", text):
        return getattr(single(plan, found[2]), found[1])
    if found := re.fullmatch(r"which way does the (.+) move\?", text):
        thing = single(plan, found[1])
        (ax, ay), (bx, by) = thing.center(0, 0), thing.center(4, 0)
        return "left" if bx < ax else "right" if bx > ax else "up" if by < ay else "down"
    if found := re.fullmatch(r"is the (.+) moving\?", text):
        return "yes" if named(plan, found[1]).speed > 0 else "no"
    if found := re.fullmatch(r"where is the (.+)\?", text):
        thing = named(plan, found[1])
        return f"{'top' if thing.y < 31.5 else 'bottom'}-{'left' if thing.x < 31.5 else 'right'}"
    if found := re.fullmatch(r"what color does the (.+) become\?", text):
        return str(single(plan, found[1]).color_after)
    if found := re.fullmatch(r"when does the (.+) appear\?", text):
        share = named(plan, found[1]).born / FRAMES
        return "early" if share <= 0.25 else "late" if share > 0.65 else "middle"
    if text == "how many objects are there?":
        return NUMBERS[len(plan.things) - 1]
    if text == "how many scenes are there?":
        return NUMBERS[len(plan.bounds) - 2]
    found = re.fullmatch(r"is there a (.+)\?", text)
    assert found, text
    word = found[1].removesuffix(" object")
    every = {t.shape for t in plan.things} | {t.color for t in plan.things} | {t.color_after for t in plan.things}
    return "yes" if word in every else "no"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_follow_from_the_plan(kind: str) -> None:
    mine = [(plan, question) for plan, question in ASKED if question.kind == kind]
    assert len(mine) > 20
    for plan, question in mine:
        assert question.answer == expected(plan, question.text), question


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_of_a_kind_dominates(kind: str) -> None:
    answers = Counter(question.answer for _, question in ASKED if question.kind == kind)
    limit = 0.7 if len(answers) == 2 else 0.6
    assert max(answers.values()) / sum(answers.values()) < limit


def test_a_clip_asks_nothing_twice_and_enough() -> None:
    for clip in CLIPS:
        texts = [question.text for question in clip.questions]
        assert len(set(texts)) == len(texts)
        assert len(texts) <= 12
    assert np.mean([len(clip.questions) for clip in CLIPS]) > 8


def test_tokenizer_knows_every_word_and_training_encodes_like_it() -> None:
    tokenizer = build_tokenizer()
    assert set(words()) >= {*COLORS, *SHAPES, *NUMBERS}
    for _, question in ASKED:
        assert isinstance(question, Question)
        ids = tokenizer(question.text)["input_ids"]
        assert tokenizer.convert_tokens_to_ids(UNK) not in ids
        assert ids == encode(question.text)
        answer = tokenizer(question.answer)["input_ids"]
        assert len(answer) == 1
        assert tokenizer.decode(answer) == question.answer


@pytest.mark.parametrize(
    ("text", "same"),
    [("What COLOUR is the circle?", "what color is the circle?"), ("where is  the ring ?", "where is the ring?")],
)
def test_tokenizer_forgives_case_spelling_and_spaces(text: str, same: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer(text)["input_ids"] == tokenizer(same)["input_ids"]
