# SPDX-License-Identifier: Apache-2.0
"""Video-MME: multiple choice about short, medium and long videos.

`Video-MME/json/{short,medium,long}.json`, each a list of {video, question, candidates, answer (text)}, and the clips in
`Video-MME/data`. Nobody publishes these files: `prunevid eval prepare videomme` makes them from the hub's table, and
keeps its other fields, which become the items' facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunevid.evaluation.annotations import Row, read_rows, right_place, without_letters
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.places import annotation_file

BENCHMARK = "videomme"
TASKS = {"Short Video": "short", "Medium Video": "medium", "Long Video": "long"}
FACTS = ("domain", "sub_category", "task_type", "question_id", "video_id")
VIDEO_FOLDERS = ("data",)


def read_task(root: Path, name: str, strip_letters: bool = True) -> list[Item]:
    """The items of one duration.

    Args:
        root: the folder Video-MME.
        name: "Short Video", "Medium Video" or "Long Video".
        strip_letters: take "A. " off the candidates.

    Raises:
        InputError: the annotation file is missing or malformed.
    """
    advice = "`prunevid eval prepare videomme` makes it from the table of lmms-lab/Video-MME"
    path = annotation_file(root, [f"json/{TASKS[name]}.json"], advice)
    return items_of(read_rows(path), name, root, strip_letters)


def items_of(rows: Sequence[Row], name: str, root: Path, strip_letters: bool = True) -> list[Item]:
    """The items that rows of a duration's file describe; their clips may be missing.

    Raises:
        InputError: a row is malformed.
    """
    return [_item(row, name, root, strip_letters) for row in rows]


def _item(row: Row, name: str, root: Path, strip_letters: bool) -> Item:
    candidates, answer = row.texts("candidates"), row.text("answer")
    right = right_place(candidates, answer)
    if strip_letters:
        candidates = without_letters(candidates)
        right = right_place(candidates, answer) if right is None else right
        answer = answer if right is None else candidates[right]
    facts: dict[str, Any] = {"duration": TASKS[name]}
    facts |= {fact: value for fact in FACTS if (value := row.optional_text(fact)) is not None}
    return Item(
        benchmark=BENCHMARK,
        key=f"{TASKS[name]}/{row.number}",
        task=name,
        video=VideoSource(root / VIDEO_FOLDERS[0] / row.file_name("video")),
        question=row.text("question"),
        candidates=candidates,
        answer=answer,
        right=right,
        facts=facts,
    )
