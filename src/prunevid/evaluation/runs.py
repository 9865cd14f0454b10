# SPDX-License-Identifier: Apache-2.0
"""What a model answered, and the folder in which that is kept.

A run's folder holds

    settings.json              what was asked for (`Settings`); a run with other settings refuses to go on in it
    answers.jsonl              a line for each question (`Record`): in the order of answering, and in that of the
                               benchmark once several processes have put theirs together
    answers-00001-of-00004.jsonl   the same of one process of several, until they are merged
    results.json               the scores, written anew from the answers whenever asked

A question may have several lines, where one of a broken clip was asked again: the last one that was answered counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid.errors import InputError

SETTINGS, ANSWERS, RESULTS = "settings.json", "answers.jsonl", "results.json"
PARTS = "answers-*-of-*.jsonl"


@dataclass(frozen=True)
class Record:
    """One answered question: a line of answers.jsonl.

    Attributes:
        key, task, question, candidates, answer, right, facts: of the item (`prunevid.evaluation.items.Item`).
        video: the clip's path below the benchmark's folder.
        text: what the model said, whole, with the space around it; "" where it could not be asked.
        pred: the part of it that the protocol takes for the answer.
        choice: place of the candidate that the strict matcher read; None where it read none, or the question is open.
        correct: by the protocol's own matcher; None where the right answer is not known here, or a judge decides.
        strict: by the strict matcher; None likewise.
        error: why the question could not be asked, in one sentence; None where it was.
        stats: what was kept and what it cost: original_tokens, kept_tokens, retained_ratio, flops_ratio, cache_ratio,
            and milliseconds by stage.
    """

    key: str
    task: str
    video: str
    question: str
    candidates: tuple[str, ...] = ()
    answer: str | None = None
    right: int | None = None
    text: str = ""
    pred: str = ""
    choice: int | None = None
    correct: bool | None = None
    strict: bool | None = None
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The record as one line of JSON, with its line end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def of_line(cls, line: str | bytes) -> Record:
        """The record that `line` wrote.

        Raises:
            ValueError: the line is no record.
        """
        found = json.loads(line)
        names = {entry.name for entry in dataclasses.fields(cls)}
        if not isinstance(found, dict) or set(found) - names or not {"key", "task", "video", "question"} <= set(found):
            raise ValueError("not an answered question")
        return cls(**{**found, "candidates": tuple(found.get("candidates", ()))})


@dataclass(frozen=True)
class Settings:
    """What makes a run what it is: two runs with equal settings give the same answers.

    Attributes:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        protocol: "paper" or "lmms".
        model: what was given with --model; "builtin" for the embedded one.
        family: the model's type in transformers.
        method: the method's name as `prunevid.methods.get` takes it.
        options: the method's options, as JSON types.
        frames: frames of a clip.
        max_new_tokens: length of an answer.
        options_of_benchmark: what else changes the questions (subtitles, task names, a limit), as JSON types.
        versions: of prunevid, torch, transformers and Python. They are recorded, but do not keep a run from going on.
    """

    benchmark: str
    protocol: str
    model: str
    family: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 16
    max_new_tokens: int = 100
    options_of_benchmark: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    attention: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run's folder, read: its settings and its records by key, the one that counts of each key."""

    folder: Path
    settings: Settings
    records: Mapping[str, Record]


def read_run(folder: str | Path) -> Run:
    """Reads what was answered so far: the merged file, and those of several processes that were not merged yet.

    A last line that was cut off while it was written is passed over: its question counts as not answered.

    Raises:
        InputError: there is no run in the folder, or a file of it is damaged (which line).
    """
    folder = Path(folder)
    return Run(folder, read_settings(folder), read_answers(folder))


def parts_of(folder: Path) -> list[Path]:
    """The files with answers of processes of several, which wait to be merged."""
    return sorted(folder.glob(PARTS))


def read_answers(folder: Path) -> dict[str, Record]:
    """The records of all files of a folder by key; none where nothing was answered yet.

    Raises:
        InputError: a file is damaged (which line).
    """
    merged = folder / ANSWERS
    records: dict[str, Record] = {}
    for path in [*([merged] if merged.is_file() else []), *parts_of(folder)]:
        for record in read_records(path).values():
            _keep(records, record)
    return records


def _keep(records: dict[str, Record], record: Record) -> None:
    """Puts a later record in, unless it is an error where an answer is: files of several processes have no order."""
    known = records.get(record.key)
    if known is None or known.error is not None or record.error is None:
        records[record.key] = record


def answers_digest(records: Mapping[str, Record]) -> str:
    """Hex digits that are the same for the same answers to the same questions, in whatever order."""
    found = hashlib.sha256()
    for key in sorted(records):
        record = records[key]
        found.update(json.dumps([key, record.text, record.error]).encode())
    return found.hexdigest()


def read_settings(folder: Path) -> Settings:
    """The settings of a run's folder.

    Raises:
        InputError: there are none, or they can't be read.
    """
    path = folder / SETTINGS
    try:
        return Settings(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{folder} holds no run: {SETTINGS} can't be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not hold the settings of a run ({error}); use another folder.") from error


def read_records(path: Path) -> dict[str, Record]:
    """The records of one file by key.

    Raises:
        InputError: the file can't be read, or a line that is not the last is no record.
    """
    records: dict[str, Record] = {}
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # what comes behind the last line end was cut off
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    for number, line in enumerate(lines, start=1):
        try:
            _keep(records, Record.of_line(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}, is damaged ({error}); remove the line to ask it again."
            ) from error
    return records
