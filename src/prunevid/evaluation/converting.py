# SPDX-License-Identifier: Apache-2.0
"""From what the hub and the data sets' authors publish to the JSON files of the published runs, one function each.

Every function takes a file or folder and gives what the files of the benchmark's annotation folder must hold, by name:
lists of rows for `prunevid.evaluation.annotations`, or the answers of EgoSchema's subset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunevid.errors import InputError
from prunevid.evaluation import egoschema, mvbench, vcgbench, videomme
from prunevid.evaluation.annotations import Row, read_rows, without_letters
from prunevid.evaluation.items import LETTERS
from prunevid.evaluation.sources import find_files, is_table, read_source

Contents = dict[str, Any]
"""File name -> JSON value."""


def convert_videomme(source: Path, strip_letters: bool) -> Contents:
    """Video-MME from the table of lmms-lab/Video-MME: a file for each duration.

    Raises:
        InputError: no table, or a row is malformed or comes twice.
    """
    files = find_files(source, is_table)
    if not files:
        raise InputError(f"There is no .parquet in {source}; give videomme/test-00000-of-00001.parquet of the hub.")
    contents: Contents = {}
    seen: dict[str, Row] = {}
    for row in (row for path in files for row in read_source(path)):
        name = row.text("question_id")
        if name in seen:
            first = seen[name]
            raise row.wrong(f"question_id {name!r} came already in {first.path}, row {first.number}")
        seen[name] = row
        duration = row.text("duration").strip().lower()
        if duration not in videomme.TASKS.values():
            raise row.wrong(f"'duration' is {duration!r}, but must be short, medium or long")
        contents.setdefault(f"{duration}.json", []).append(_videomme_row(row, strip_letters))
    return contents


def _videomme_row(row: Row, strip_letters: bool) -> dict[str, Any]:
    candidates = row.texts("options")
    letter = row.text("answer").strip().rstrip(".").upper()
    letters = LETTERS[: len(candidates)]
    if letter not in list(letters):
        raise row.wrong(f"'answer' is {row.text('answer')!r}, but must be a letter from A to {letters[-1]}")
    if strip_letters:
        candidates = without_letters(candidates)
    facts = {name: value for name in videomme.FACTS if (value := row.optional_text(name)) is not None}
    return {
        "video": f"{row.file_name('videoID')}.mp4",
        "question": row.text("question"),
        "candidates": list(candidates),
        "answer": candidates[LETTERS.index(letter)],
        **facts,
    }


def convert_egoschema(source: Path, strip_letters: bool) -> Contents:
    """EgoSchema from the tables MC and Subset of lmms-lab/egoschema, or from questions.json of its authors.

    Raises:
        InputError: none of these or both, a row is malformed, or two files contradict each other.
    """
    tables = find_files(source, is_table)
    by_part = {part: [path for path in tables if part in _folders_of(path)] for part in ("mc", "subset")}
    if source.is_file():
        by_part = {"mc": tables, "subset": []}
    lists = find_files(source, lambda path: path.suffix == ".json" and path.name != egoschema.ANSWERS)
    lists = lists if source.is_file() else [path for path in lists if path.name == "questions.json"]
    questions = by_part["mc"] or by_part["subset"]
    if bool(questions) == bool(lists):
        what = "both a table and questions.json" if questions else "neither a table MC/*.parquet nor questions.json"
        raise InputError(f"There is {what} in {source}; give the file or folder of one of them.")
    rows = [row for path in questions or lists for row in read_source(path)]
    asked = {uid: fields for uid, fields in (_egoschema_row(row, strip_letters) for row in rows)}
    if len(asked) != len(rows):
        raise InputError(f"{source} asks {len(rows)} questions about {len(asked)} videos; give one copy of the table.")
    answers = _published(rows, asked, strip_letters)
    extra = [row for path in by_part["subset"] if path not in questions for row in read_source(path)]
    answers |= _published(extra, asked, strip_letters)
    for path in find_files(source, lambda path: path.name == egoschema.ANSWERS):
        _agree(answers, egoschema.read_answers(path), path)
    contents: Contents = {egoschema.QUESTIONS: list(asked.values())}
    return {**contents, egoschema.ANSWERS: answers} if answers else contents


def _egoschema_row(row: Row, strip_letters: bool) -> tuple[str, dict[str, Any]]:
    """The uid, and the row of the full set: official order of the options, no answer."""
    if "q_uid" in row.fields:
        uid = row.file_name("q_uid")
        candidates = tuple(row.text(f"option {place}") for place in range(egoschema.OPTIONS))
    else:
        uid, candidates = row.file_name("video_idx"), row.texts("option")
        if len(candidates) != egoschema.OPTIONS:
            raise row.wrong(f"there are {len(candidates)} options, but EgoSchema has {egoschema.OPTIONS}")
    candidates = without_letters(candidates) if strip_letters else candidates
    fields = {"video": f"{uid}.mp4", "question": row.text("question"), "candidates": list(candidates), "answer": None}
    return uid, fields


def _published(rows: Sequence[Row], asked: Mapping[str, Mapping[str, Any]], strip_letters: bool) -> dict[str, int]:
    """The answers that rows of a table hold, by uid; their options must be those that are asked."""
    answers = {}
    for row in rows:
        answer = row.fields.get("answer")
        if answer is None:
            continue
        if not str(answer).isdecimal() or int(answer) >= egoschema.OPTIONS:
            raise row.wrong(f"'answer' is {answer!r}, but must be a number from 0 to {egoschema.OPTIONS - 1}")
        uid, fields = _egoschema_row(row, strip_letters)
        if uid not in asked or _words(fields["candidates"]) != _words(asked[uid]["candidates"]):
            raise row.wrong(f"the options of {uid} are not those of the full set, so the answer may mean another one")
        answers[uid] = int(answer)
    return answers


def _words(texts: Sequence[str]) -> list[list[str]]:
    """Texts without regard to space."""
    return [text.split() for text in texts]


def _agree(answers: dict[str, int], more: Mapping[str, int], path: Path) -> None:
    """Adds answers of another file to those that are known."""
    for uid, place in more.items():
        if answers.setdefault(uid, place) != place:
            raise InputError(f"{path} says that {uid} is answered by {place}, but a table by {answers[uid]}.")


def convert_vcgbench(source: Path) -> Contents:
    """VideoChatGPT-Bench from the tables of lmms-lab/VideoChatGPT, or from the authors' own JSON files.

    The part is told by the name of a table or of its folder.

    Raises:
        InputError: none of these, a table whose part can't be told, or a row is malformed.
    """
    names = [f"{part}_qa.json" for part in vcgbench.TASKS]
    lists = find_files(source, lambda path: path.name in names)
    tables = find_files(source, is_table)
    if (lists and tables) or (not lists and not tables):
        what = "both .parquet and .json files" if lists else f"neither a .parquet nor {', '.join(names)}"
        raise InputError(f"There is {what} in {source}; give the file or folder of one of them.")
    if lists:
        return _copied(lists, lambda name, rows: vcgbench.items_of(rows, name.removesuffix("_qa.json"), Path()))
    rows: dict[str, list[Row]] = {}
    for path in tables:
        rows.setdefault(_part(path), []).extend(read_source(path))
    return {
        f"{part}_qa.json": _pairs(found) if part == vcgbench.CONSISTENCY else [_plain(row) for row in found]
        for part, found in rows.items()
    }


def _part(path: Path) -> str:
    for name in (path.stem.lower(), *_folders_of(path)):
        for part in vcgbench.TASKS:
            if part in name:
                return part
    raise InputError(f"It can't be told what {path} holds; put it in a folder Generic, Temporal or Consistency.")


def _folders_of(path: Path) -> tuple[str, ...]:
    """The names of the two folders that a table lies in: MC/test-0.parquet, or MC/test/0000.parquet on the hub."""
    return path.parent.name.lower(), path.parent.parent.name.lower()


def _plain(row: Row) -> dict[str, Any]:
    return {"video_name": row.file_name("video_name"), "Q": row.text("question"), "A": row.text("answer")}


def _pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The hub has a row for each of two questions with the same answer, the other one being the text "None"; a row with
    both is a pair by itself."""
    pairs: list[dict[str, Any]] = []
    waiting: dict[tuple[str, str, str], list[tuple[Row, dict[str, Any]]]] = {}
    for row in rows:
        video, answer = row.file_name("video_name"), row.text("answer")
        asked = {short: row.text(name) for short, name in (("Q1", "question_1"), ("Q2", "question_2"))}
        asked = {short: question for short, question in asked.items() if question != "None"}
        if not asked:
            raise row.wrong("'question_1' and 'question_2' are both \"None\"")
        alone = next(iter(asked)) if len(asked) == 1 else ""
        if waiting.get((video, answer, alone)):
            waiting[video, answer, alone].pop(0)[1].update(asked)
            continue
        pairs.append({"video_name": video, "Q1": None, "Q2": None, "A": answer, **asked})
        if alone:
            other = "Q2" if alone == "Q1" else "Q1"
            waiting.setdefault((video, answer, other), []).append((row, pairs[-1]))
    for row, _ in (entry for entries in waiting.values() for entry in entries):
        raise row.wrong("there is no other question about this video with this answer, but these come in twos")
    return pairs


def convert_mvbench(source: Path) -> Contents:
    """MVBench from the JSON files of OpenGVLab/MVBench, which have the right form already: all that are there.

    Raises:
        InputError: there is none, one is malformed, or two of one name differ.
    """
    tasks = {f"{task.file}.json": task for task in mvbench.TASKS}
    files = find_files(source, lambda path: path.name in tasks)
    if not files:
        raise InputError(f"There is no annotation file of MVBench in {source}, such as action_sequence.json.")
    return _copied(files, lambda name, rows: mvbench.items_of(rows, tasks[name], Path()))


def _copied(files: Sequence[Path], check: Callable[[str, list[Row]], object]) -> Contents:
    """The contents of JSON files by name, read as the benchmark will read them."""
    contents, places = Contents(), dict[str, Path]()
    for path in files:
        rows, name = read_rows(path), path.name
        check(name, rows)
        content = [dict(row.fields) for row in rows]
        if contents.setdefault(name, content) != content:
            raise InputError(
                f"{name} lies at {places[name]} and, different, at {path}; give the folder of one of them."
            )
        places.setdefault(name, path)
    return contents
