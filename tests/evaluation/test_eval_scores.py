# SPDX-License-Identifier: Apache-2.0
"""Scores against tables that were counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunevid.errors import InputError
from prunevid.evaluation.runs import Record
from prunevid.evaluation.scores import read_all_results, score, write_all_results

OPTIONS = ("abc", "xyz", "klm")


def record(key: str, task: str, correct: bool | None, strict: bool | None, **more: Any) -> Record:
    fields: dict[str, Any] = dict(
        candidates=OPTIONS, answer="xyz", right=1, choice=1 if strict else 0, text="B) xyz", pred="(B) xyz"
    )
    return Record(key, task, f"{key}.mp4", "Q?", correct=correct, strict=strict, **{**fields, **more})


def lost(key: str, task: str, **more: Any) -> Record:
    empty = dict(choice=None, text="", pred="", error=f"There is no file {key}.mp4.")
    return record(key, task, None, None, **{**empty, **more})


# Task One: two of four right (strict one), one of them without its video; Task Two: one of one, one said nothing.
MVBENCH = [
    record("1", "One", True, True),
    record("2", "One", True, False, choice=None, pred="(A)(B)"),
    record("3", "One", False, False),
    lost("4", "One"),
    record("5", "Two", True, True),
    record("6", "Two", False, False, choice=None, text="", pred="("),
]


def test_mvbench_by_hand() -> None:
    found = score("mvbench", iter(MVBENCH))
    assert json.loads(json.dumps(found)) == found
    assert (found["n"], found["answered"], found["with_truth"], found["without_truth"]) == (6, 5, 6, 0)
    assert found["errors"] == {
        "n": 1,
        "videos": 1,
        "examples": [{"key": "4", "video": "4.mp4", "error": "There is no file 4.mp4."}],
    }
    assert found["unreadable"] == 2
    assert found["letters"] == {"predicted": {"A": 1, "B": 2, "none": 2}, "right": {"B": 6}}
    assert found["accuracy"]["correct"] == {
        "micro": 3 / 6,
        "macro": (2 / 4 + 1 / 2) / 2,
        "answered": 3 / 5,
        "not_empty": 3 / 4,
    }
    assert found["accuracy"]["strict"] == {
        "micro": 2 / 6,
        "macro": (1 / 4 + 1 / 2) / 2,
        "answered": 2 / 5,
        "not_empty": 2 / 4,
    }
    assert found["tasks"] == {
        "One": dict(n=4, with_truth=4, answered=3, errors=1, unreadable=1, correct=2 / 4, strict=1 / 4),
        "Two": dict(n=2, with_truth=2, answered=2, errors=0, unreadable=1, correct=1 / 2, strict=1 / 2),
    }


def test_counting_every_item_twice_as_the_original_does_is_the_micro_mean() -> None:
    right = total = 0
    for one in MVBENCH:
        for _ in range(2):
            right, total = right + (one.correct is True), total + 1
    assert score("mvbench", MVBENCH)["accuracy"]["correct"]["micro"] == right / total


def test_micro_and_macro_differ_where_tasks_do() -> None:
    found = score(
        "mvbench", [record(str(n), "One", n == 0, n == 0) for n in range(4)] + [record("x", "Two", True, True)]
    )
    assert found["accuracy"]["correct"]["micro"] == 2 / 5
    assert found["accuracy"]["correct"]["macro"] == (1 / 4 + 1) / 2


def test_video_mme_in_all_its_groups() -> None:
    rows = [
        ("short", "Sports", "Basketball", "Counting", True),
        ("short", "Life", "Food", "Counting", False),
        ("long", "Sports", "Football", "OCR", True),
    ]
    names = ("duration", "domain", "sub_category", "task_type")
    records = [
        record(str(place), f"{row[0].title()} Video", row[4], row[4], facts=dict(zip(names, row)))
        for place, row in enumerate(rows)
    ]
    found = score("videomme", [*records, record("x", "Long Video", False, False)])
    shares = {name: {value: (part["n"], part["correct"]) for value, part in found[name].items()} for name in names}
    assert shares == {
        "duration": {"short": (2, 1 / 2), "long": (1, 1.0), "unknown": (1, 0.0)},
        "domain": {"Sports": (2, 1.0), "Life": (1, 0.0), "unknown": (1, 0.0)},
        "sub_category": {"Basketball": (1, 1.0), "Food": (1, 0.0), "Football": (1, 1.0), "unknown": (1, 0.0)},
        "task_type": {"Counting": (2, 1 / 2), "OCR": (1, 1.0), "unknown": (1, 0.0)},
    }
    assert set(found["tasks"]) == {"Short Video", "Long Video"}


def test_egoschema_is_scored_on_what_is_public() -> None:
    hidden = dict(answer=None, right=None, facts={"subset": False})
    records = [
        record("1", "FullSet", True, True, facts={"subset": True}),
        record("2", "FullSet", False, False, facts={"subset": True}),
        lost("3", "FullSet", facts={"subset": True}),
        record("4", "FullSet", None, None, **hidden),
        lost("5", "FullSet", **hidden),
    ]
    found = score("egoschema", records)
    assert (found["n"], found["answered"], found["with_truth"], found["without_truth"]) == (5, 3, 3, 2)
    assert found["subset"] == dict(n=3, with_truth=3, answered=2, errors=1, unreadable=0, correct=1 / 3, strict=1 / 3)
    assert found["accuracy"]["correct"] == {"micro": 1 / 3, "macro": 1 / 3, "answered": 1 / 2, "not_empty": 1 / 2}
    unknown = score("egoschema", records[3:])
    assert unknown["accuracy"]["correct"] == dict.fromkeys(("micro", "macro", "answered", "not_empty"))
    assert unknown["letters"]["predicted"] == {"A": 1} and unknown["letters"]["right"] == {}


def test_open_answers_are_only_counted() -> None:
    open_one: dict[str, Any] = dict(candidates=(), right=None, choice=None)
    records = [
        record("1", "generic", None, None, **open_one),
        record("2", "generic", None, None, **{**open_one, "text": " "}),
        lost("3", "temporal", **open_one),
    ]
    found = score("vcgbench", records)
    assert found["tasks"] == {
        "generic": {"n": 2, "answered": 2, "errors": 0},
        "temporal": {"n": 1, "answered": 0, "errors": 1},
    }
    assert (found["n"], found["answered"], found["empty"], found["errors"]["n"]) == (3, 2, 1, 1)
    assert "accuracy" not in found


@pytest.mark.parametrize("benchmark", ["mvbench", "videomme", "egoschema", "vcgbench"])
def test_nothing_answered_is_no_error(benchmark: str) -> None:
    found = score(benchmark, [])
    assert found["n"] == found["answered"] == 0 and json.dumps(found)


def test_many_errors_are_counted_in_full_and_named_in_part() -> None:
    found = score("mvbench", [lost(str(number), "One", right=None) for number in range(50)])
    assert found["errors"]["n"] == found["errors"]["videos"] == 50
    assert 0 < len(found["errors"]["examples"]) < 50


def test_the_originals_files(tmp_path: Path) -> None:
    write_all_results(tmp_path, MVBENCH)
    board = json.loads((tmp_path / "upload_leaderboard.json").read_text())
    assert board == {"One": 50.0, "Two": 50.0, "Avg": 50.0}
    found = json.loads((tmp_path / "all_results.json").read_text())
    assert found["acc_dict"] == {"One": [2, 4], "Two": [1, 2]}
    assert found["result_list"][1] == {
        "pred": "(A)(B)",
        "gt": "(B) xyz",
        "task_type": "One",
        "video_path": "2.mp4",
        "question": "Question: Q?\nOptions:\n(A) abc\n(B) xyz\n(C) klm",
    }
    again = read_all_results(tmp_path / "all_results.json")
    assert [(one.task, one.question, one.candidates, one.right, one.answer) for one in again] == [
        (one.task, one.question, one.candidates, one.right, one.answer) for one in MVBENCH
    ]
    assert score("mvbench", again)["tasks"]["One"]["correct"] == 3 / 4  # "(B) xyz" of row 3 is matched anew
    assert [one.strict for one in again] == [True, False, True, False, True, False]


def test_an_original_file_without_options_and_without_truths(tmp_path: Path) -> None:
    rows = [
        {"pred": "(B) x", "gt": "(B) xyz", "task_type": "T", "video_path": "a", "question": "Q"},
        {"pred": "(B) x", "gt": "(@) None", "task_type": "T", "video_path": "a", "question": "Q"},
        {"pred": "(B) x", "gt": "(@) lost", "task_type": "T", "video_path": "a", "question": "Q"},
    ]
    path = tmp_path / "all_results.json"
    path.write_text(json.dumps({"acc_dict": {}, "result_list": rows}))
    assert [one.correct for one in read_all_results(path)] == [True, None, False]
    assert [one.strict for one in read_all_results(path)] == [None, None, None]
    accuracy = score("mvbench", read_all_results(path))["accuracy"]
    assert accuracy["correct"]["micro"] == 1 / 2 and accuracy["strict"]["micro"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("[", "no all_results"), ("[]", "no all_results"), ('{"result_list": [3]}', "entry 0"), (None, "can't be read")],
)
def test_files_that_are_none(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "all_results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_all_results(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be written"):
        write_all_results(tmp_path / "none", MVBENCH)
