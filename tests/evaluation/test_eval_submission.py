# SPDX-License-Identifier: Apache-2.0
"""EgoSchema's submission file: written, counted, never posted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from prunevid.errors import PruneVidError
from prunevid.evaluation.egoschema import submission, submit_commands, write_submission
from prunevid.evaluation.runs import Record

READINGS = [
    ("(A) a box", None, 0),
    ("(B) a cup", 1, 1),
    ("(E", None, 4),
    ("(e) low", None, 4),
    ("(B", 3, 1),  # what the published code would read goes first
    ("C", 2, 2),
    ("The answer is D", 3, 3),
    ("ABC", None, -1),  # its second letter is no answer
    ("(F) none", None, -1),
    ("(F) none", 2, 2),
    ("(1) B", 1, 1),
    ("()", None, -1),
    ("(", None, -1),
    ("", None, -1),
    ("?", 7, -1),
]


def record(uid: str, **fields: Any) -> Record:
    return Record(uid, "FullSet", f"videos/{uid}.mp4", "what?", tuple("abcde"), **fields)


@pytest.mark.parametrize(("pred", "choice", "place"), READINGS)
def test_a_place_is_submitted(pred: str, choice: int | None, place: int) -> None:
    assert submission([record("u", pred=pred, choice=choice)]) == {"u": place}


def test_the_file_holds_whole_numbers_by_uid_and_counts_what_is_unreadable(tmp_path: Path) -> None:
    records = [record(f"u{n}", pred=pred, choice=choice) for n, (pred, choice, _) in enumerate(READINGS)]
    records += [record("broken", error="The clip can't be read.", pred="(A", choice=0), record("key", pred="(B")]
    records[-1].facts["q_uid"] = "uid"  # type: ignore[index]
    path = tmp_path / "new" / "a submission.json"
    done = write_submission(iter(records), path)
    wanted = {f"u{n}": place for n, (_, _, place) in enumerate(READINGS)} | {"broken": -1, "uid": 1}
    assert json.loads(path.read_text()) == wanted
    assert (done.path, done.answers, done.unreadable) == (path, 17, list(wanted.values()).count(-1))
    assert [entry.name for entry in path.parent.iterdir()] == ["a submission.json"]


def test_the_commands_are_for_people_to_type() -> None:
    curl, script = (shlex.split(command) for command in submit_commands(Path("my run/s.json")))
    assert curl == [
        *("curl", "-X", "POST", "-H", "Content-Type: application/json"),
        *("--data", "@my run/s.json", "https://validation-server.onrender.com/api/upload/"),
    ]
    assert script == ["python", "validate.py", "--f", "my run/s.json"]


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PruneVidError, match=r"file/s\.json can't be written"):
        write_submission([record("u")], tmp_path / "file" / "s.json")
