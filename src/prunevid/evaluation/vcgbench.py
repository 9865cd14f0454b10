# SPDX-License-Identifier: Apache-2.0
"""VideoChatGPT-Bench: open questions, scored by a judge.

`VCGBench/Zero_Shot_QA/Benchmarking_QA/{generic,temporal,consistency}_qa.json`, lists of {video_name, Q, A}, with Q1 and
Q2 in place of Q for consistency, and the clips `VCGBench/Videos/Benchmarking/<video_name>.{mp4,mkv}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunevid.evaluation.annotations import Row, read_rows
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.places import annotation_file

BENCHMARK = "vcgbench"
GENERIC, TEMPORAL, CONSISTENCY = "generic", "temporal", "consistency"
TASKS = (GENERIC, TEMPORAL, CONSISTENCY)
ANNOTATION_FOLDERS = ("Zero_Shot_QA/Benchmarking_QA", "Zero_Shot_QA")
VIDEO_FOLDERS = ("Videos/Benchmarking", "Videos")
ENDINGS = (".mp4", ".mkv")


def read_task(root: Path, name: str) -> list[Item]:
    """The items of one part; a row of the consistency part makes two, one for each of its questions.

    Args:
        root: the folder VCGBench.
        name: "generic", "temporal" or "consistency".

    Raises:
        InputError: the annotation file is missing or malformed.
    """
    advice = "it is in Benchmarking_QA of Video-ChatGPT's archive, and `prunevid eval prepare vcgbench` makes it"
    path = annotation_file(root, [f"{folder}/{name}_qa.json" for folder in ANNOTATION_FOLDERS], advice)
    return items_of(read_rows(path), name, root)


def items_of(rows: Sequence[Row], name: str, root: Path) -> list[Item]:
    """The items that rows of a part's file describe; their clips may be missing.

    The two items of a consistency row share `facts["pair"]`; `facts["part"]` is 1 or 2, and `facts["questions"]` holds
    both questions.

    Raises:
        InputError: a row is malformed.
    """
    items: list[Item] = []
    for row in rows:
        video, answer, key = VideoSource(_clip(row, root)), row.text("A"), f"{name}/{row.number}"
        if name != CONSISTENCY:
            items.append(Item(BENCHMARK, key, name, video, row.text("Q"), answer=answer))
            continue
        questions = [row.text("Q1"), row.text("Q2")]
        for part, question in enumerate(questions, start=1):
            facts = {"pair": key, "part": part, "questions": questions}
            items.append(Item(BENCHMARK, f"{key}/{part}", name, video, question, answer=answer, facts=facts))
    return items


def _clip(row: Row, root: Path) -> Path:
    """The first of the clip's possible files that exists; the first of all where none does."""
    name = row.file_name("video_name")
    endings = ("",) if name.endswith(ENDINGS) else ENDINGS
    places = [root / folder / f"{name}{ending}" for folder in VIDEO_FOLDERS for ending in endings]
    return next((place for place in places if place.is_file()), places[0])
