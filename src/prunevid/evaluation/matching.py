# SPDX-License-Identifier: Apache-2.0
"""From what a model said to whether it is right: the published matcher, quirks included, lmms-eval's, a strict one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prunevid.evaluation.items import LETTERS, Item
from prunevid.models.pllava.prompts import BEST_OPTION

_TURNS = ("ASSISTANT:", "<|im_start|> assistant\n")  # behind the last of these the published answer starts
_GUARD = "abcdefg"  # a first word without one of these letters is no answer


@dataclass(frozen=True)
class Reading:
    """What was made of an answer; the fields of `prunevid.evaluation.runs.Record` with these names."""

    pred: str
    choice: int | None = None
    correct: bool | None = None
    strict: bool | None = None


def paper_answer(text: str, prefix: str = "") -> str:
    """The answer as the published evaluation cuts it out of everything that was decoded.

    It takes what follows the last turn of the assistant, without "</s>" and space around it, and of that what follows
    the start of the answer that the prompt gave. Only new tokens come here, so that start is put back first. Where a
    model goes on with a turn of its own, the description leaves open what is taken: here, all of that turn.

    Args:
        text: the new tokens' text.
        prefix: the start of the answer in the prompt: "Best option:(", or "" for open questions.

    Returns:
        "(B) a box" after "Best option:("; an open answer as it is, with the stop word at its end if there is one.
    """
    whole = prefix + text
    for turn in _TURNS:
        whole = whole.rpartition(turn)[2]
    said = whole.removesuffix("</s>").strip()
    return f"({said.rpartition(prefix)[2]}" if prefix else said


def paper_match(pred: str, truth: str) -> bool:
    """The published comparison, which looks at first words only.

    Both are lower-cased and cut at the first space. A prediction without any of the letters a to g in its first word
    is wrong; else it is right when that word without full stops lies in the truth's first word, or the other way round:
    "(A)(B)" is right for "(B) ...", "The answer is B" is wrong. The original fails with an IndexError where the truth
    has no text behind its letter; here that is compared like any other.

    Args:
        pred: "(B) a box".
        truth: "(B) a box" (`Item.truth`).
    """
    said, right = (text.lower().split(" ")[0] for text in (pred, truth))
    if not any(letter in said for letter in _GUARD):
        return False
    return said.replace(".", "") in right or right in said


# A letter counts where a person would take it for an option: at the start, in parentheses, or called so.
_ALONE = re.compile(r"[^\w(]*\(?\s*([A-Za-z])\s*(?:[).:,;*]|$)")
_HALF_OPEN = re.compile(r"\s*\((?!A [a-z])([A-Z])\s")
_IN_PARENTHESES = re.compile(r"(?<!\w)\(\s*([A-Za-z])\s*\)")
_BEFORE_PARENTHESIS = re.compile(r"(?<![\w'(])([A-Z])\)")
_JOINED = r"\(?([A-Z])\b\)?(?:\s*(?:,|/|&|and|or)\s*\(?([A-Z])\b)?"
_CALLED = re.compile(r"\b(?:[Aa]nswers?|[Oo]ptions?|[Cc]hoices?)(?:\s+(?:is|are))?\s*:?\s*" + _JOINED)
_SEVERAL = re.compile(r"\s*\(?([A-Z])\)?\s*(?:,|/|&|\band\b|\bor\b)\s*\(?([A-Z])\b(?!')")
_ARTICLE = re.compile(r"A [a-z]")


def strict_choice(text: str, candidates: Sequence[str]) -> int | None:
    """Reads an answer only where it can be read in one way.

    One letter of a candidate, at the start, in parentheses or called the answer; or, without any, the text of one
    candidate. Two letters, a letter without a candidate, a letter with exactly the text of another candidate and the
    texts of two candidates are all read as nothing.

    Args:
        text: what was said.
        candidates: without letters.

    Returns:
        The place of a candidate, or None.
    """
    letters = _letters(text)
    named = _exact(text, candidates)
    if not letters:
        return named if named is not None else _contained(text, candidates)
    if len(letters) > 1:
        return None
    place = LETTERS.index(letters.pop())
    if place >= len(candidates):
        return None
    behind = _exact(re.sub(r"^[\s(]*[A-Za-z][\s).:,;]*", "", text), candidates)
    contradicted = any(other is not None and not _same(candidates, other, place) for other in (named, behind))
    return None if contradicted else place


def _letters(text: str) -> set[str]:
    """The letters that an answer gives for options, as capitals."""
    found: list[str] = []
    for pattern in (_ALONE, _HALF_OPEN, _SEVERAL):
        match = pattern.match(text)
        found += [] if match is None else match.groups()
    for pattern in (_IN_PARENTHESES, _BEFORE_PARENTHESIS):
        found += pattern.findall(text)
    for match in _CALLED.finditer(text):
        if not _ARTICLE.match(text, match.start(1)):
            found += [letter for letter in match.groups() if letter]
    return {letter.upper() for letter in found}


def _plain(text: str) -> str:
    """A text without its case, its outer punctuation and its spacing."""
    return " ".join(re.sub(r"^\W+|\W+$", "", text.casefold()).split())


def _exact(text: str, candidates: Sequence[str]) -> int | None:
    """The one candidate that says just this."""
    said = _plain(text)
    equal = [place for place, candidate in enumerate(candidates) if said and _plain(candidate) == said]
    return equal[0] if len(equal) == 1 else None


def _contained(text: str, candidates: Sequence[str]) -> int | None:
    """The one candidate whose words occur; what belongs to a longer candidate is not looked for again."""
    rest, found = _plain(text), []
    for place in sorted(range(len(candidates)), key=lambda place: -len(_plain(candidates[place]))):
        words = _plain(candidates[place])
        pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
        if words and re.search(pattern, rest):
            found.append(place)
            rest = re.sub(pattern, "\0", rest)
    alone = len(found) == 1 and sum(_same(candidates, found[0], other) for other in range(len(candidates))) == 1
    return found[0] if alone else None


def _same(candidates: Sequence[str], one: int, other: int) -> bool:
    return _plain(candidates[one]) == _plain(candidates[other])


_PHRASES = ("answer is", "correct option is", "best option is", "choice is", "i choose", "i select", "i pick")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_FORMS = ("({})", "{}.", "{}:", "{})", "{} ")


def lmms_letter(benchmark: str, text: str, candidates: Sequence[str]) -> str:
    """The letter that the task of lmms-eval 0.7.3 takes for the answer, by its rules; "" where it takes none.

    MVBench: a letter with a full stop at the start, else the first of A to E that stands alone, also a small one.
    EgoSchema: of all "(A)", "A " and "A." the one whose last occurrence comes first, also within words; without any,
    in more than five words, the same with the candidates' texts. lmms-eval then draws a letter at random; here it is no
    answer. Video-MME: the first of these that is there: a letter at the start; at the end; behind "the answer is" and
    the like; "(A)"; "A."; "A:"; "A)"; "A "; any capital; of several of one kind the last.

    Args:
        benchmark: "mvbench", "videomme" or "egoschema".
        text: what was said.
        candidates: in their order.
    """
    letters = LETTERS[: len(candidates)]
    if benchmark == "mvbench":
        found = re.match(r"\s*([A-Ea-e])\.\s*.", text) or re.search(r"\b([A-Ea-e])\b", _unmarked(text))
        return found[1].upper() if found else ""
    bare = _stripped(text)
    return _egoschema(bare, letters, candidates) if benchmark == "egoschema" else _videomme(bare, letters)


def _unmarked(text: str) -> str:
    """A text without marks: those of a kind that stands beside a space somewhere vanish, others become spaces."""
    plain = " ".join(re.split(r"[\n\t]", text)).strip()
    said, numbers = plain, re.search(r"\d,\d", plain) is not None
    for mark in _MARKS:
        beside = f"{mark} " in plain or f" {mark}" in plain
        said = said.replace(mark, "" if beside or numbers else " ")
    return re.sub(r"\.(?!\d)", "", said)


def _stripped(text: str) -> str:
    """A text without marks at its ends, each kind taken off once, in this order."""
    bare = text.strip()
    for mark in ",.!?;:'\"":
        bare = bare.strip(mark)
    return bare.strip()


def _egoschema(bare: str, letters: str, candidates: Sequence[str]) -> str:
    padded = f" {bare} "
    places = {padded.rfind(form.format(letter)): letter for form in ("({})", "{} ", "{}.") for letter in letters}
    if set(places) <= {-1} and len(bare.split()) > 5:
        places = {padded.lower().rfind(text.lower()): letter for letter, text in zip(letters, candidates) if text}
    places.pop(-1, None)
    return places[min(places)] if places else ""


def _videomme(bare: str, letters: str) -> str:
    if not bare:
        return ""
    for letter, beside in ((bare[0], bare[1:2]), (bare[-1], bare[-2:-1])):
        if letter in letters and not beside.isalpha():
            return letter
    padded = f" {bare} "
    behind = [at + len(phrase) for phrase in _PHRASES if (at := padded.lower().find(phrase)) >= 0]
    places = {padded.find(letter, start): letter for start in behind for letter in letters}
    for form in (None, *_FORMS, "{}"):
        if form is not None:
            places = {padded.rfind(form.format(letter)): letter for letter in letters}
        if max(places, default=-1) >= 0:
            return places[max(places)]
    return ""


def read_paper(item: Item, text: str) -> Reading:
    """What the published protocol makes of an answer, and the strict matcher beside it.

    Args:
        item: what was asked.
        text: the new tokens' text.
    """
    if not item.candidates:
        return Reading(paper_answer(text))
    pred = paper_answer(text, BEST_OPTION)
    choice = strict_choice(pred, item.candidates)
    return _judged(item, pred, choice, item.right is not None and paper_match(pred, item.truth))


def read_lmms(item: Item, text: str) -> Reading:
    """What lmms-eval's task makes of an answer (its letter), and the strict matcher beside it."""
    if not item.candidates:
        return Reading(text.strip())
    letter = lmms_letter(item.benchmark, text, item.candidates)
    choice = strict_choice(text, item.candidates)
    return _judged(item, letter, choice, letter != "" and LETTERS.index(letter) == item.right)


def _judged(item: Item, pred: str, choice: int | None, correct: bool) -> Reading:
    """An answer whose truth is not published is neither right nor wrong; one that no candidate holds is never given."""
    if item.right is None and item.answer is None:
        return Reading(pred, choice)
    return Reading(pred, choice, correct, choice is not None and choice == item.right)
