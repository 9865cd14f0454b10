# SPDX-License-Identifier: Apache-2.0
"""EgoSchema: multiple choice among five about three minutes of daily life, most answers unpublished.

`ego_schema/json/egoschema_fullset.json`, a list of {video ("<uid>.mp4"), question, candidates, answer (null where it is
not published)}, the clips in `ego_schema/videos`, and, where it is there, `ego_schema/json/subset_answers.json`, which
gives the places of 500 published answers by uid. The options keep their official order, for what is submitted is an
index into it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prunevid.errors import InputError
from prunevid.evaluation.annotations import Row, read_json, read_rows, right_place, without_letters
from prunevid.evaluation.items import LETTERS, Item, VideoSource
from prunevid.evaluation.places import annotation_file
from prunevid.evaluation.runs import Record
from prunevid.files import write_files

BENCHMARK = "egoschema"
FULL, SUBSET = "FullSet", "Subset"
TASKS = (FULL, SUBSET)
QUESTIONS, ANSWERS = "egoschema_fullset.json", "subset_answers.json"
OPTIONS = 5
VIDEO_FOLDERS = ("videos",)
UNREADABLE = -1
SERVER = "https://validation-server.onrender.com/api/upload/"


def read_task(root: Path, name: str = FULL, strip_letters: bool = True) -> list[Item]:
    """The items of the full set, or those of them whose answers are known here.

    Args:
        root: the folder ego_schema.
        name: "FullSet" or "Subset"; becomes the items' task.
        strip_letters: take "A. " off the candidates.

    Raises:
        InputError: an annotation file is missing or malformed; "Subset" where no answer is known.
    """
    advice = "`prunevid eval prepare egoschema` makes it from the tables of lmms-lab/egoschema or from questions.json"
    rows = read_rows(annotation_file(root, [f"json/{QUESTIONS}"], advice))
    path = root / "json" / ANSWERS
    items = items_of(rows, root, read_answers(path) if path.is_file() else {}, strip_letters, path)
    if name == FULL:
        return items
    known = [item for item in items if item.facts["subset"]]
    if not known:
        raise InputError(f"No answer to EgoSchema is known here; put {ANSWERS} (q_uid -> 0 to 4) at {path}.")
    return [dataclasses.replace(item, task=SUBSET) for item in known]


def read_answers(path: Path) -> dict[str, int]:
    """The published answers by uid.

    Raises:
        InputError: the file is no JSON object of whole numbers from 0 to 4.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold an object, q_uid -> 0 to {OPTIONS - 1}.")
    for row, (uid, place) in enumerate(found.items(), start=1):
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < OPTIONS:
            raise InputError(
                f"{path}, row {row}: the answer to {uid} is {place!r}, but must be a whole number from 0 to "
                f"{OPTIONS - 1}."
            )
    return found


def items_of(
    rows: Sequence[Row], root: Path, answers: Mapping[str, int], strip_letters: bool = True, source: Path | None = None
) -> list[Item]:
    """The items that rows of the full set describe; their clips may be missing.

    Args:
        answers: places of published answers by uid.
        source: where `answers` were read, for errors.

    Raises:
        InputError: a row is malformed, a uid comes twice, or a row and `answers` contradict each other.
    """
    items, seen = [], dict[str, int]()
    for row in rows:
        item = _item(row, root, strip_letters)
        uid = item.key
        if uid in seen:
            raise row.wrong(f"the video of {uid} was asked about in row {seen[uid]} already")
        seen[uid] = row.number
        place = answers.get(uid)
        if place is not None:
            if item.answer is not None and item.right != place:
                raise row.wrong(f"the answer to {uid} is {item.right}, but {place} in {source}")
            item = _answered(item, place)
        items.append(item)
    return items


def _answered(item: Item, place: int) -> Item:
    return dataclasses.replace(item, answer=item.candidates[place], right=place, facts={**item.facts, "subset": True})


def _item(row: Row, root: Path, strip_letters: bool) -> Item:
    video, candidates = row.file_name("video"), row.texts("candidates")
    if len(candidates) != OPTIONS:
        raise row.wrong(f"there are {len(candidates)} candidates, but EgoSchema has {OPTIONS}")
    answer = row.optional_text("answer")
    right = right_place(candidates, answer)
    if strip_letters:
        candidates = without_letters(candidates)
        right = right_place(candidates, answer) if right is None else right
        answer = answer if right is None else candidates[right]
    uid = Path(video).stem
    return Item(
        benchmark=BENCHMARK,
        key=uid,
        task=FULL,
        video=VideoSource(root / VIDEO_FOLDERS[0] / video),
        question=row.text("question"),
        candidates=candidates,
        answer=answer,
        right=right,
        facts={"q_uid": uid, "subset": right is not None},
    )


def submission(records: Iterable[Record]) -> dict[str, int]:
    """What the official server takes: the place of the chosen option, 0 to 4, by uid.

    The letter is the second character of an answer that begins with "(", as the published code reads it; of other
    answers, what the strict matcher read. An answer in which neither finds one of the five is `UNREADABLE`, as is a
    question that could not be asked. (The published code stops with an error there.)

    Args:
        records: of a run of EgoSchema.
    """
    return {str(record.facts.get("q_uid", record.key)): _place(record) for record in records}


def _place(record: Record) -> int:
    letter = record.pred[1:2].upper() if record.pred.startswith("(") else ""
    places = (LETTERS[:OPTIONS].find(letter) if letter else UNREADABLE, record.choice)
    readable = (place for place in places if place is not None and 0 <= place < OPTIONS)
    return UNREADABLE if record.error is not None else next(readable, UNREADABLE)


@dataclasses.dataclass(frozen=True)
class Submission:
    """A submission file: where it is, how many answers it holds, how many of them could not be read, and what to type
    in a shell to hand it in."""

    path: Path
    answers: int
    unreadable: int
    commands: tuple[str, ...]


def write_submission(records: Iterable[Record], path: str | Path) -> Submission:
    """Writes the submission file; posting it is left to people.

    Args:
        records: of a run of EgoSchema.
        path: of the file; one that is there is replaced.

    Raises:
        PruneVidError: the file can't be written.
    """
    path, answers = Path(path), submission(records)
    write_files({path: json.dumps(answers, indent=1).encode() + b"\n"})
    unreadable = sum(place == UNREADABLE for place in answers.values())
    return Submission(path, len(answers), unreadable, submit_commands(path))


def submit_commands(path: Path) -> tuple[str, ...]:
    """What to type to hand a submission in: with curl, or with the script of EgoSchema's own repository.

    The main route is the competition egoschema-public on Kaggle, which takes a file of its own.
    """
    name = shlex.quote(str(path))
    at = shlex.quote(f"@{path}")
    return (
        f"curl -X POST -H 'Content-Type: application/json' --data {at} {SERVER}",
        f"python validate.py --f {name}",
    )
