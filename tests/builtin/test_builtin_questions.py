# SPDX-License-Identifier: Apache-2.0
"""Questions: each answer is checked against the plan by a second, separate reading of the question's words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from prunevid.builtin.clips import make_clip
from prunevid.builtin.model import UNK, build_tokenizer
from prunevid.builtin.packing import encode
from prunevid.builtin.questions import KINDS, NUMBERS, Question, words
from prunevid.builtin.scenes import COLORS, FRAMES, SHAPES, SIZE, Plan, Thing

CLIPS = [make_clip(seed, split) for split in ("train", "test") for seed in range(150)]
ASKED = [(clip.plan, question) for clip in CLIPS for question in clip.questions]


def is_small(thing: Thing) -> bool:
    return thing.radius < 5.5


def flashing(plan: Plan) -> list[Thing]:
    """Things that come after their scene has begun and are gone within two seconds, in the order of coming."""
    found = [t for t in plan.things if t.born > plan.bounds[t.scene] and t.dies - t.born <= 4]
    return sorted(found, key=lambda t: t.born)


def called(plan: Plan, name: str) -> list[Thing]:
    """The things that "objects", "red object", "small circle" or "small red object" fits, from words alone."""
    found = list(plan.things)
    for word in name.split():
        if word == "small":
            found = [t for t in found if is_small(t)]
        elif word in SHAPES:
            found = [t for t in found if t.shape == word]
        elif word in COLORS:
            found = [t for t in found if word in (t.color, t.color_after)]
        else:
            assert word in ("object", "objects"), name
    return found


def single(plan: Plan, phrase: str) -> Thing:
    """The one thing that a description such as "moving object" or "object that flashes first" singles out."""
    if after := re.fullmatch(r"object that flashes after the (.+)", phrase):
        sooner, order = single(plan, after[1]), flashing(plan)
        return order[[t is sooner for t in order].index(True) + 1]
    groups = {
        "moving object": [t for t in plan.things if t.speed > 0],
        "object that flashes": flashing(plan),
        "object that flashes first": flashing(plan)[:1],
        "object that flashes last": flashing(plan)[-1:],
        "object that changes color": [t for t in plan.things if t.color_after],
        "changing object": [t for t in plan.things if t.color_after],
    }
    found = groups[phrase] if phrase in groups else called(plan, phrase)
    assert len(found) == 1, f"{phrase!r} singles out {len(found)} things"
    return found[0]


def corner(plan: Plan, thing: Thing) -> str:
    """Where a thing is in every frame that shows it."""
    seen = {
        f"{'top' if y < SIZE / 2 else 'bottom'}-{'left' if x < SIZE / 2 else 'right'}"
        for x, y in (plan.seen_at(thing, frame) for frame in range(thing.born, thing.dies))
    }
    assert len(seen) == 1, f"it is in {seen}"
    return seen.pop()


def way(thing: Thing) -> str:
    (ax, ay), (bx, by) = thing.center(0, 0), thing.center(4, 0)
    return "left" if bx < ax else "right" if bx > ax else "up" if by < ay else "down"


def third(frame: int) -> str:
    return "early" if frame < FRAMES / 3 else "middle" if frame < FRAMES * 2 / 3 else "late"


READINGS: dict[str, Callable[..., object]] = {
    r"what (color|shape) is the (.+)\?": lambda plan, what, name: getattr(single(plan, name), what),
    r"which way does the (.+) move\?": lambda plan, name: way(single(plan, name)),
    r"where is the (.+)\?": lambda plan, name: corner(plan, single(plan, name)),
    r"what color does the (.+) become\?": lambda plan, name: single(plan, name).color_after,
    r"when does the (.+) flash\?": lambda plan, name: third(single(plan, name).born),
    r"how many objects flash\?": lambda plan: NUMBERS[len(flashing(plan)) - 1],
    r"how many scenes are there\?": lambda plan: NUMBERS[len(plan.bounds) - 2],
    r"how many (.+) are there\?": lambda plan, name: NUMBERS[len(called(plan, name)) - 1],
    r"is there a (.+)\?": lambda plan, name: "yes" if called(plan, name) else "no",
}


def expected(plan: Plan, text: str) -> object:
    """The answer, from the question's words and the plan."""
    for pattern, read in READINGS.items():
        if found := re.fullmatch(pattern, text):
            return read(plan, *found.groups())
    raise AssertionError(f"nothing reads {text!r}")


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
        for question in clip.questions:
            assert question.answer in question.choices and len(set(question.choices)) == len(question.choices) > 1
            assert all(0 <= place < len(clip.plan.things) for place in question.about)
    assert np.mean([len(clip.questions) for clip in CLIPS]) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_rests_on_the_things_that_settle_it(kind: str) -> None:
    """What an oracle keeps: the thing that a wording singles out is among them, and all that are counted."""
    for plan, question in ASKED:
        if question.kind != kind:
            continue
        about = [plan.things[place] for place in question.about]
        if found := re.fullmatch(
            r"(?:what|where|which|when) .*?(?:is|does) the (.+?)(?: move| flash| become)?\?", question.text
        ):
            assert any(single(plan, found[1]) is thing for thing in about), question
        elif question.text == "how many scenes are there?":
            assert about == []
        elif found := re.fullmatch(r"how many (.+) (?:are there|flash)\?", question.text):
            counted = flashing(plan) if "flash" in question.text else called(plan, found[1])
            assert {id(thing) for thing in about} == {id(thing) for thing in counted}
        else:
            assert kind == "exist"


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
