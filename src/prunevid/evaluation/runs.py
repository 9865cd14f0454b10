# SPDX-License-Identifier: Apache-2.0
"""What a model answered, and the folder in which that is kept.

A run's folder holds

    settings.json              what was asked for (`Settings`); a run with other settings refuses to go on in it
    answers.jsonl              a line for each question, in the order of answering (`Record`)
    answers-00001-of-00004.jsonl   the same of one process of several, until they are merged
    results.json               the scores, written anew from the answers whenever asked
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid.errors import InputError

SETTINGS, ANSWERS, RESULTS = "settings.json", "answers.jsonl", "results.json"


@dataclass(frozen=True)
class Record:
    """One answered question: a line of answers.jsonl.

    Attributes:
        key, task, question, candidates, answer, right, facts: of the item (`prunevid.evaluation.items.Item`).
        video: the clip's path below the benchmark's folder.
        text: what the model said, whole; "" where it could not be asked.
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
    def of_line(cls, line: str) -> Record:
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
    """A run's folder, read: its settings and its records by key, the latest of each key."""

    folder: Path
    settings: Settings
    records: Mapping[str, Record]


def read_run(folder: str | Path) -> Run:
    """Reads what was answered so far, from the merged file or from those of several processes.

    A last line that was cut off while it was written is passed over: its question counts as not answered.

    Raises:
        InputError: there is no run in the folder, or a file of it is damaged (which line).
    """
    folder = Path(folder)
    settings = read_settings(folder)
    parts = [folder / ANSWERS] if (folder / ANSWERS).is_file() else sorted(folder.glob("answers-*-of-*.jsonl"))
    records: dict[str, Record] = {}
    for part in parts:
        records |= read_records(part)
    return Run(folder, settings, records)


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
        InputError: a line that is not the last is no record.
    """
    records: dict[str, Record] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = Record.of_line(line)
        except (ValueError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise InputError(
                f"{path}, line {number}, is damaged ({error}); remove the line to ask it again."
            ) from error
        records[record.key] = record
    return records
