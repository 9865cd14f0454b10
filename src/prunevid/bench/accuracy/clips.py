# SPDX-License-Identifier: Apache-2.0
"""All entries of a plan on one clip: what was said to every question, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid.bench.accuracy.asking import Asked, Sheet
from prunevid.bench.accuracy.entries import NO_VIDEO, UNPRUNED, Context, Entry, method_of, registered
from prunevid.builtin.clips import make_clip
from prunevid.builtin.questions import KINDS, LEARNT, Question
from prunevid.errors import ConfigError, InputError, PruneVidError

GREY = 128
"""The pixels of the clip that nothing can be seen in."""


@dataclass(frozen=True)
class Choice:
    """Which clips and questions are asked.

    Attributes:
        split: "test" or "dev".
        first: seed of the first clip.
        kinds: of questions.
        per_clip: at most so many questions are made for a clip, of which those of the kinds are asked.
    """

    split: str = "dev"
    first: int = 0
    kinds: tuple[str, ...] = LEARNT
    per_clip: int = 12

    def __post_init__(self) -> None:
        if self.split not in ("test", "dev"):
            raise ConfigError(
                f"split is {self.split!r}, but must be 'test' or 'dev'; a model knows its training clips."
            )
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ConfigError(f"{(unknown or [''])[0]!r} is no kind of question; choose some of {', '.join(KINDS)}.")
        if self.per_clip < 2 or self.first < 0:
            raise ConfigError(
                f"per_clip is {self.per_clip} and first {self.first}, but must be at least 2 (a question is swapped "
                "with another one of its clip) and 0."
            )


class Examiner:
    """Asks one model about clips, all entries of a plan after one another.

    Args:
        model, processor: the embedded model, or another one that answers in one of its tokenizer's words.
        entries: in an order in which those come first that others need.
        choice: which questions.
    """

    def __init__(self, model: Any, processor: Any, entries: Sequence[Entry], choice: Choice) -> None:
        self.model, self.processor = model, processor
        self.entries, self.choice = list(entries), choice
        keys = [entry.key for entry in self.entries]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ConfigError(f"The plan has {twice[0]!r} twice; give entries different names.")
        self._words: dict[str, int] = {}
        self._blind: dict[str, Tensor] = {}

    def record(self, seed: int, *, check: bool = False) -> dict[str, Any]:
        """What came of one clip, as JSON types.

        Args:
            seed: of the clip.
            check: also put every entry's method with a share of 1, which must change nothing.

        Returns:
            "clip"; "questions": kind, text, answer, choices of each; "entries": by key "said" (the word of the
            likeliest token), "chosen" (the likeliest of the choices) and "sure" (the share of the right answer in the
            likelihood of all choices) of each question, "kept", "flops" and "same" (in how many questions the logits
            are those of the unpruned model, bit for bit). No entries where the clip has no question of the kinds.

        Raises:
            PruneVidError: keeping all visual tokens gave other logits than the unpruned model.
        """
        clip = make_clip(seed, self.choice.split, questions=self.choice.per_clip)
        rows = self._rows(clip.questions)
        record: dict[str, Any] = {"clip": seed, "questions": [], "entries": {}}
        if not rows:
            return record
        questions = [clip.questions[place] for place in rows]
        wanted = [question.kind in self.choice.kinds for question in questions]
        sheet = Sheet(self.model, self.processor, clip.frames, clip.fps, [question.text for question in questions])
        context = Context(seed, clip, questions, sheet.grid, sheet.features(), sheet.depth)
        asked = self._asked(sheet, context, check)
        record["questions"] = [_as_json(one) for one, is_wanted in zip(questions, wanted) if is_wanted]
        record["entries"] = {key: self._read(one, questions, wanted, asked[UNPRUNED]) for key, one in asked.items()}
        return record

    def _rows(self, questions: Sequence[Question]) -> list[int]:
        """Places of the questions to be put: those of the kinds, and where a swap needs it another one."""
        rows = [place for place, question in enumerate(questions) if question.kind in self.choice.kinds]
        if len({questions[place].text for place in rows}) == 1 and len(questions) > 1:
            text = questions[rows[0]].text
            rows += [place for place, question in enumerate(questions) if question.text != text][:1]
        return rows

    def _asked(self, sheet: Sheet, context: Context, check: bool) -> dict[str, Asked]:
        """The outcome of every entry by its key; the unpruned model's first, whether it is in the plan or not."""
        plain = Asked(sheet.unpruned(), 1.0, 1.0, [], [context.cells] * sheet.rows)
        asked = {UNPRUNED: plain}
        for entry in self.entries:
            if entry.control == UNPRUNED:
                continue
            if entry.control == NO_VIDEO:
                asked[entry.key] = self._without_video(context)
                continue
            asked[entry.key] = found = _put(entry, sheet, context)
            context.scores[entry.key], context.tokens[entry.key] = found.scores, found.tokens[0]
            if entry.control == "keep all":
                _must_equal(entry.key, context.seed, found.logits, plain.logits)
            if check and entry.control == "method" and entry.retention is not None:
                method = registered(entry, 1.0)
                if method.revision_layer is None:  # that one hides tokens from the answer whatever the budget is
                    _must_equal(f"{entry.key} with a share of 1", context.seed, sheet.ask(method).logits, plain.logits)
        return asked

    def _without_video(self, context: Context) -> Asked:
        """Every question about a clip in which everything is grey, by itself, so that its wording alone counts."""
        for question in context.questions:
            if question.text not in self._blind:
                grey = np.full_like(context.clip.frames, GREY)
                sheet = Sheet(self.model, self.processor, grey, context.clip.fps, [question.text])
                self._blind[question.text] = sheet.unpruned()
        logits = torch.cat([self._blind[question.text] for question in context.questions])
        return Asked(logits, 1.0, 1.0, [], [context.cells] * len(logits))

    def _read(
        self, asked: Asked, questions: Sequence[Question], wanted: Sequence[bool], plain: Asked
    ) -> dict[str, Any]:
        """What is kept of an entry's outcome."""
        rows = [row for row, is_wanted in enumerate(wanted) if is_wanted]
        likeliest = asked.logits.argmax(1).tolist()
        said = [self.processor.tokenizer.decode([likeliest[row]], skip_special_tokens=True).strip() for row in rows]
        chosen, sure = zip(*(self._choose(asked.logits[row], questions[row]) for row in rows))
        same = sum(torch.equal(asked.logits[row], plain.logits[row]) for row in rows)
        return {
            "said": said,
            "chosen": list(chosen),
            "sure": list(sure),
            "kept": asked.kept,
            "flops": asked.flops,
            "same": same,
        }

    def _choose(self, logits: Tensor, question: Question) -> tuple[str, float]:
        """The likeliest of a question's choices, and the share of the right one among them."""
        shares = logits[[self._token(word) for word in question.choices]].double().softmax(0).tolist()
        best = max(range(len(shares)), key=lambda place: shares[place])
        return question.choices[best], round(shares[question.choices.index(question.answer)], 6)

    def _token(self, word: str) -> int:
        """The one token of a word.

        Raises:
            InputError: the tokenizer cuts it up.
        """
        if word not in self._words:
            ids = self.processor.tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise InputError(f"The answer {word!r} is {len(ids)} tokens of this model, but must be one.")
            self._words[word] = int(ids[0])
        return self._words[word]


def _put(entry: Entry, sheet: Sheet, context: Context) -> Asked:
    """All questions of the sheet, pruned as the entry says."""
    if not entry.by_question:
        return sheet.ask(method_of(entry, context))
    each = [sheet.row(row).ask(method_of(entry, context.of_row(row))) for row in range(sheet.rows)]
    return Asked(
        torch.cat([one.logits for one in each]),
        sum(one.kept for one in each) / len(each),
        sum(one.flops for one in each) / len(each),
        [],
        [one.tokens[0] for one in each],
    )


def _must_equal(name: str, seed: int, logits: Tensor, plain: Tensor) -> None:
    if not torch.equal(logits, plain):
        most = float((logits - plain).abs().max())
        raise PruneVidError(
            f"On clip {seed} {name!r} keeps every visual token, but its logits differ from the unpruned model's by up "
            f"to {most:.3g}; the comparison would be wrong."
        )


def _as_json(question: Question) -> dict[str, Any]:
    return {
        "kind": question.kind,
        "text": question.text,
        "answer": question.answer,
        "choices": list(question.choices),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """In its block torch computes with one thread, so that sums are the same however many processors there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def records(examiner: Examiner, seeds: Iterable[int], checked: int) -> Iterator[Mapping[str, Any]]:
    """The records of some clips; that of seed `checked` with the check of every method at a share of 1."""
    with one_thread():
        for seed in seeds:
            yield examiner.record(seed, check=seed == checked)
