# SPDX-License-Identifier: Apache-2.0
"""Scores from answers: by the protocol's matcher and the strict one, micro and macro, in all groups that are reported.

Every share is a fraction in [0, 1]; None where nothing could be scored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunevid.errors import InputError
from prunevid.evaluation.items import LETTERS
from prunevid.evaluation.matching import paper_match, strict_choice
from prunevid.evaluation.runs import Record

ALL_RESULTS, LEADERBOARD = "all_results.json", "upload_leaderboard.json"
GROUPS: Mapping[str, tuple[str, ...]] = {"videomme": ("duration", "domain", "sub_category", "task_type")}
_NAMED = 20  # records with errors that are named in full
_MATCHERS = ("correct", "strict")


def score(benchmark: str, records: Iterable[Record]) -> dict[str, Any]:
    """The scores of a benchmark's answers.

    A question that could not be asked (no video, a broken one) and an answer that can't be read count as wrong where
    the truth is known; `answered` leaves the first out of the denominator, `not_empty` also what lmms-eval leaves out.

    Args:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        records: one for each question.

    Returns:
        JSON types: n (questions), answered, errors {n, videos, examples}, and for multiple choice
            with_truth, without_truth, unreadable (the strict matcher reads no candidate), letters {predicted, right},
            accuracy {correct, strict}: each {micro, macro, answered, not_empty}; micro is the mean over questions,
                macro the mean over tasks;
            tasks, and for Video-MME duration, domain, sub_category, task_type: {name: {n, with_truth, answered, errors,
                unreadable, correct, strict}};
            for EgoSchema subset: the same over the questions whose answers are public.
        For open questions, which a judge scores: n, answered and errors in all and by task.
    """
    records = list(records)
    found: dict[str, Any] = {"benchmark": benchmark, "n": len(records), "answered": _answered(records)}
    found["errors"] = _errors(records)
    if benchmark == "vcgbench":
        found["empty"] = sum(record.error is None and not record.text.strip() for record in records)
        found["tasks"] = {
            name: {"n": len(part), "answered": _answered(part), "errors": len(part) - _answered(part)}
            for name, part in _split(records, [record.task for record in records]).items()
        }
        return found
    tasks = _split(records, [record.task for record in records])
    known = _known(records)
    found["with_truth"], found["without_truth"] = len(known), len(records) - len(known)
    found["unreadable"] = _unreadable(records)
    found["letters"] = {
        "predicted": _letters(record.choice for record in records if record.error is None),
        "right": _letters(record.right for record in known),
    }
    found["accuracy"] = {matcher: _accuracy(known, tasks, matcher) for matcher in _MATCHERS}
    found["tasks"] = {name: _group(part) for name, part in tasks.items()}
    for name in GROUPS.get(benchmark, ()):
        values = [str(record.facts.get(name, "unknown")) for record in records]
        found[name] = {value: _group(part) for value, part in _split(records, values).items()}
    if benchmark == "egoschema":
        found["subset"] = _group([record for record in records if record.facts.get("subset")])
    return found


def _lost(record: Record) -> bool:
    """Whether a question with a known truth could not be asked: it has no verdict, and counts as wrong."""
    return record.error is not None and (record.right is not None or record.answer is not None)


def _answered(records: Sequence[Record]) -> int:
    return sum(record.error is None for record in records)


def _errors(records: Sequence[Record]) -> dict[str, Any]:
    """How many questions could not be asked, about how many videos, and the first of them by name."""
    failed = [record for record in records if record.error is not None]
    examples = [{"key": record.key, "video": record.video, "error": record.error} for record in failed[:_NAMED]]
    return {"n": len(failed), "videos": len({record.video for record in failed}), "examples": examples}


def _unreadable(records: Sequence[Record]) -> int:
    return sum(record.error is None and record.choice is None for record in records)


def _letters(places: Iterable[int | None]) -> dict[str, int]:
    """How often each letter came; "none" where there was none."""
    counts = Counter("none" if place is None else LETTERS[place] for place in places)
    return {letter: counts[letter] for letter in sorted(counts, key=lambda letter: (letter == "none", letter))}


def _split(records: Sequence[Record], names: Sequence[str]) -> dict[str, list[Record]]:
    """The records by name, in the order in which names first come."""
    parts: dict[str, list[Record]] = {}
    for record, name in zip(records, names):
        parts.setdefault(name, []).append(record)
    return parts


def _share(records: Sequence[Record], matcher: str) -> float | None:
    """The part that is right of those with a verdict and those that could not be asked."""
    counted = [record for record in records if getattr(record, matcher) is not None or _lost(record)]
    return sum(getattr(record, matcher) is True for record in counted) / len(counted) if counted else None


def _known(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.correct is not None or _lost(record)]


def _accuracy(known: Sequence[Record], tasks: Mapping[str, Sequence[Record]], matcher: str) -> dict[str, float | None]:
    """The means over questions with a truth, over tasks, and over those that lmms-eval and others leave in."""
    shares = [share for part in tasks.values() if (share := _share(_known(part), matcher)) is not None]
    asked = [record for record in known if record.error is None]
    return {
        "micro": _share(known, matcher),
        "macro": sum(shares) / len(shares) if shares else None,
        "answered": _share(asked, matcher),
        "not_empty": _share([record for record in asked if record.text.strip()], matcher),
    }


def _group(records: Sequence[Record]) -> dict[str, Any]:
    """The numbers of a task or another group."""
    known, answered = _known(records), _answered(records)
    counts = {"n": len(records), "with_truth": len(known), "answered": answered, "errors": len(records) - answered}
    shares = {matcher: _share(known, matcher) for matcher in _MATCHERS}
    return {**counts, "unreadable": _unreadable(records), **shares}


def write_all_results(folder: str | Path, records: Iterable[Record]) -> None:
    """Writes answers as the published evaluation does: all_results.json and upload_leaderboard.json.

    all_results.json holds {"acc_dict": {task: [right, questions]}, "result_list": [{pred, gt, task_type, video_path,
    question}]}, upload_leaderboard.json {task: percent, "Avg": percent} by the published matcher. Questions that could
    not be asked stand in both with the prediction "".

    Raises:
        InputError: the folder can't be written.
    """
    folder, counts, results = Path(folder), dict[str, list[int]](), []
    for record in records:
        count = counts.setdefault(record.task, [0, 0])
        count[0] += record.correct is True
        count[1] += 1
        results.append(
            {
                "pred": record.pred,
                "gt": truth_of(record),
                "task_type": record.task,
                "video_path": record.video,
                "question": _block(record),
            }
        )
    shares = {task: 100.0 * right / total for task, (right, total) in counts.items()}
    right, total = (sum(count[place] for count in counts.values()) for place in (0, 1))
    board = {**shares, "Avg": 100.0 * right / total if total else 0.0}
    try:
        for name, content in ((ALL_RESULTS, {"acc_dict": counts, "result_list": results}), (LEADERBOARD, board)):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(f"The results can't be written to {folder} ({error.strerror}).") from error


def truth_of(record: Record) -> str:
    """The right answer as the published evaluation writes it: "(B) a box"; of an open question the reference."""
    if not record.candidates:
        return record.answer or ""
    return f"({'@' if record.right is None else LETTERS[record.right]}) {record.answer}"


def _block(record: Record) -> str:
    """The question with its options, as it was asked."""
    lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, record.candidates)]
    return "\n".join([f"Question: {record.question}", "Options:", *lines]) if lines else record.question


def read_all_results(path: str | Path) -> list[Record]:
    """The answers of an all_results.json, this package's or the original's, matched anew.

    Args:
        path: the file.

    Returns:
        Records with keys "task/number", with both matchers' verdicts; the strict one knows the candidates where the
        question shows them.

    Raises:
        InputError: the file can't be read, or an entry is malformed (which).
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["result_list"]
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must hold an object with result_list; it is no all_results.json.") from error
    return [_record(entry, number, path) for number, entry in enumerate(found)]


def _record(entry: Any, number: int, path: str | Path) -> Record:
    names = ("pred", "gt", "task_type", "video_path", "question")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name, ""), str) for name in names):
        raise InputError(f"{path}, entry {number} of result_list, must hold text for {', '.join(names)}.")
    pred, truth, task, video, question = (entry.get(name, "") for name in names)
    asked, _, options = question.partition("\nOptions:\n")
    candidates = tuple(line[4:] for line in options.splitlines() if line[:1] == "(" and line[2:4] == ") ")
    known = truth[:1] == "(" and truth[2:3] == ")"
    letter, answer = (truth[1], truth[4:]) if known else ("@", truth)
    right = LETTERS.index(letter) if letter in LETTERS else None
    place = strict_choice(pred, candidates) if candidates else None
    hidden = right is None and answer in ("", "None")
    return Record(
        key=f"{task}/{number}",
        task=task,
        video=video,
        question=asked.removeprefix("Question: "),
        candidates=candidates,
        answer=None if hidden else answer,
        right=right,
        text=pred,
        pred=pred,
        choice=place,
        correct=None if hidden or not known else right is not None and paper_match(pred, truth),
        strict=None if hidden or not candidates else place is not None and place == right,
    )
