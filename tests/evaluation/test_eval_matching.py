# SPDX-License-Identifier: Apache-2.0
"""The matchers against tables of examples, and the published one against a plain loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.matching import (
    Reading,
    lmms_letter,
    paper_answer,
    paper_match,
    read_lmms,
    read_paper,
    strict_choice,
)

BEST = "Best option:("


def item(right: int | None = 1, answer: str | None = "xyz", benchmark: str = "mvbench") -> Item:
    candidates = () if benchmark == "vcgbench" else ("abc", "xyz", "klm")
    return Item(benchmark, "x/0", "x", VideoSource(Path("x.mp4")), "Q?", candidates, answer, right)


@pytest.mark.parametrize(
    ("pred", "right"),
    [
        ("(B", True),
        ("B", True),
        ("b.", True),
        ("(B).", True),
        ("(b)xyz", True),
        ("The answer is B", False),
        ("(A)(B)", True),
        ("(", False),
        ("()", False),
        ("", False),
        ("(A) xyz", False),
        ("(B) abc", True),
        ("( B)", False),
        ("(B)\nfor the box is red", True),
        ("(H)", False),
        ("answer:(b)", True),
        ("-", False),
    ],
)
def test_the_published_table(pred: str, right: bool) -> None:
    assert paper_match(pred, "(B) xyz") is right


@pytest.mark.parametrize(
    ("truth", "pred", "right"), [("(B) ", "(B)", True), ("(B) ", "(A)", False), ("(B)", "b", True)]
)
def test_a_truth_without_text_is_no_error(truth: str, pred: str, right: bool) -> None:
    assert paper_match(pred, truth) is right


def loop(pred: str, truth: str) -> bool:
    """The published comparison, letter by letter."""

    def first(text: str) -> str:
        word = ""
        for character in text.lower():
            if character == " ":
                break
            word += character
        return word

    def holds(whole: str, part: str) -> bool:
        return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))

    said, right = first(pred), first(truth)
    if not set(said) & set("abcdefg"):
        return False
    return holds(right, "".join(character for character in said if character != ".")) or holds(said, right)


@given(st.text("()AbBcd. xX\n", max_size=6), st.sampled_from(["(A) a", "(B) b c", "(@) None", "(D) "]))
def test_the_published_comparison_is_the_plain_loop(pred: str, truth: str) -> None:
    assert paper_match(pred, truth) is loop(pred, truth)


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("B) a box", BEST, "(B) a box"),
        ("B) a box</s>", BEST, "(B) a box"),
        ("  B) a box \n", BEST, "(  B) a box"),
        ("", BEST, "("),
        ("B) a USER: x ASSISTANT: A) b", BEST, "(A) b"),
        ("B) a ASSISTANT:Best option:(C) c", BEST, "(C) c"),
        ("B) a<|im_start|> assistant\nBest option:(C) c", BEST, "(C) c"),
        (" A man walks. ###", "", "A man walks. ###"),
        ("A man walks. USER", "", "A man walks. USER"),
        ("A man walks.</s>", "", "A man walks."),
        ("A man ASSISTANT: A dog", "", "A dog"),
    ],
)
def test_the_answer_is_what_follows_the_last_turn(text: str, prefix: str, expected: str) -> None:
    assert paper_answer(text, prefix) == expected


OPTIONS = ("a red box", "box", "The dog runs.", "no")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("(B) box", 1),
        ("(B", 1),
        ("(B)", 1),
        ("B", 1),
        ("b", 1),
        ("b.", 1),
        ("B. box", 1),
        ("B: box", 1),
        ("(c) the dog runs", 2),
        ("(B box", 1),
        ("(B) box, since it is not a red thing", 1),
        ("The answer is B", 1),
        ("The answer is (D).", 3),
        ("Answer: C", 2),
        ("option D", 3),
        ("I would say B) it is", 1),
        ("**B**", 1),
        # by text
        ("box", 1),
        ("a red box", 0),
        ("It is a red box.", 0),
        ("the DOG runs", 2),
        ("A red box", 0),
        ("The answer is A red box", 0),
        ("(A red box", 0),
        ("(A box", 1),
        # in more than one way, or in none
        ("(A)(B)", None),
        ("(A) or (B)", None),
        ("A or B", None),
        ("A and B", None),
        ("A, B", None),
        ("Options A and B", None),
        ("(E) something", None),
        ("(A) box", None),
        ("(B) no", None),
        ("box, a red box", None),
        ("a cat", None),
        ("", None),
        ("(", None),
        ("()", None),
        ("knot", None),
        ("A cat", None),
        ("(A cat", None),
    ],
)
def test_the_strict_matcher_reads_what_can_be_read_in_one_way(text: str, choice: int | None) -> None:
    assert strict_choice(text, OPTIONS) == choice


@pytest.mark.parametrize(
    ("candidates", "text", "choice"),
    [
        (("B", "A", "C"), "B", None),  # the letter says the second, the text the first
        (("B", "A", "C"), "C", 2),
        (("A", "B"), "(A) A", 0),
        (("same", "same"), "same", None),
        (("same", "same"), "(B) same", 1),
        (("", "x"), "(A)", 0),
        (("1", "2", "3"), "2", 1),
        (("1", "12", "3"), "12", 1),
        (("1", "2"), "There are 2.", 1),
        (("1", "2"), "1 or 2", None),
        (("Vitamin C", "Vitamin D"), "Vitamin C.", 0),
        (("person(s)", "dog(s)"), "person(s)", 0),
        (("yes", "no"), "I can't say.", None),
    ],
)
def test_the_strict_matcher_on_other_candidates(candidates: tuple[str, ...], text: str, choice: int | None) -> None:
    assert strict_choice(text, candidates) == choice


@given(st.text("()ABCD.: abox", max_size=14))
def test_the_strict_matcher_gives_a_candidate_or_none(text: str) -> None:
    assert strict_choice(text, OPTIONS) in (None, 0, 1, 2, 3)


@pytest.mark.parametrize(
    "form", ["({})", "({}) box", "{}.", "{}. it", "{}) it", "{}", "The answer is {}", "Answer: ({})"]
)
@pytest.mark.parametrize("place", range(5))
def test_the_strict_matcher_takes_every_letter(form: str, place: int) -> None:
    assert strict_choice(form.format("ABCDE"[place]), ["u", "v", "w", "x", "y"]) == place


@pytest.mark.parametrize(
    ("benchmark", "text", "letter"),
    [
        ("mvbench", "(B) xyz", "B"),
        ("mvbench", "B", "B"),
        ("mvbench", " B. a box", "B"),
        ("mvbench", "b) it", "B"),
        ("mvbench", "Because", ""),
        ("mvbench", "the answer is B", "B"),
        ("mvbench", "It is a dog: C", "A"),  # an article is a letter, too
        ("mvbench", "(F)", ""),
        ("mvbench", "", ""),
        ("videomme", "B", "B"),
        ("videomme", "C. klm, not (A)", "C"),
        ("videomme", "The best answer is: B", "B"),
        ("videomme", "The answer is (C) as shown", "C"),
        ("videomme", "The answer is B, not A or so", "A"),  # the last behind the phrase
        ("videomme", "It is (B), see A: there", "B"),
        ("videomme", "It is (A) or (B), I think", "B"),
        ("videomme", "I see A: there, and B) here", "A"),
        ("videomme", "it is Cats", "C"),
        ("videomme", "Cats", "C"),
        ("videomme", "nothing", ""),
        ("videomme", " .", ""),
        ("egoschema", "A. abc (C)", "A"),
        ("egoschema", "(C) since A. is wrong", "C"),
        ("egoschema", "It is B.", "B"),
        ("egoschema", "B", "B"),
        ("egoschema", "in DNA or (B)", "A"),  # within a word
        ("egoschema", "the right thing to see is klm then", "C"),
        ("egoschema", "klm", ""),
        ("egoschema", "", ""),
    ],
)
def test_lmms_letters(benchmark: str, text: str, letter: str) -> None:
    assert lmms_letter(benchmark, text, ("abc", "xyz", "klm")) == letter


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("B) xyz", Reading("(B) xyz", 1, True, True)),
        ("A) abc", Reading("(A) abc", 0, False, False)),
        ("A)(B) well", Reading("(A)(B) well", None, True, False)),
        ("xyz", Reading("(xyz", 1, False, True)),  # right by its text, which the published matcher doesn't read
        ("", Reading("(", None, False, False)),
    ],
)
def test_both_matchers_side_by_side(text: str, reading: Reading) -> None:
    assert read_paper(item(), text) == reading


@pytest.mark.parametrize("read", [read_paper, read_lmms])
def test_what_is_not_known_is_neither_right_nor_wrong(read: object) -> None:
    unknown, lost = item(None, None), item(None, "none of them")
    for text in ("B) xyz", "A. abc"):
        said, missed = read(unknown, text), read(lost, text)  # type: ignore[operator]
        assert (said.correct, said.strict) == (None, None) and said.choice is not None
        assert (missed.correct, missed.strict) == (False, False)


def test_open_answers_are_left_to_the_judge() -> None:
    assert read_paper(item(None, "x", "vcgbench"), " It runs. ###") == Reading("It runs. ###")
    assert read_lmms(item(None, "x", "vcgbench"), " It runs. ") == Reading("It runs.")


def test_lmms_reads_its_letter() -> None:
    assert read_lmms(item(), "B. xyz") == Reading("B", 1, True, True)
    assert read_lmms(item(), "xyz") == Reading("", 1, False, True)
