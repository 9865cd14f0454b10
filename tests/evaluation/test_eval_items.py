# SPDX-License-Identifier: Apache-2.0
"""The questions of the benchmarks, read from a made-up folder of all four; what is malformed is named."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation import fixtures
from prunevid.errors import InputError
from prunevid.evaluation import mvbench
from prunevid.evaluation.annotations import right_place, without_letters
from prunevid.evaluation.benchmarks import TASKS, load_items, task_names
from prunevid.evaluation.items import BENCHMARKS, VIDEO_KINDS
from prunevid.evaluation.places import ROOTS
from prunevid.evaluation.prepared import NOTE

PAGE = """
Action Sequence | action_sequence | star/Charades_v1_480/ | video, bound
Action Prediction | action_prediction | star/Charades_v1_480/ | video, bound
Action Antonym | action_antonym | ssv2_video/ | video
Fine-grained Action | fine_grained_action | Moments_in_Time_Raw/videos/ | video
Unexpected Action | unexpected_action | FunQA_test/test/ | video
Object Existence | object_existence | clevrer/video_validation/ | video
Object Interaction | object_interaction | star/Charades_v1_480/ | video, bound
Object Shuffle | object_shuffle | perception/videos/ | video
Moving Direction | moving_direction | clevrer/video_validation/ | video
Action Localization | action_localization | sta/sta_video/ | video, bound
Scene Transition | scene_transition | scene_qa/video/ | video
Action Count | action_count | perception/videos/ | video
Moving Count | moving_count | clevrer/video_validation/ | video
Moving Attribute | moving_attribute | clevrer/video_validation/ | video
State Change | state_change | perception/videos/ | video
Fine-grained Pose | fine_grained_pose | nturgbd/ | video
Character Order | character_order | perception/videos/ | video
Egocentric Navigation | egocentric_navigation | vlnqa/ | video
Episodic Reasoning | episodic_reasoning | tvqa/frames_fps3_hq/ | frame, bound
Counterfactual Inference | counterfactual_inference | clevrer/video_validation/ | video
"""
QUESTION_FILES = {
    "mvbench": "MVBench/json/action_sequence.json",
    "videomme": "Video-MME/json/medium.json",
    "egoschema": "ego_schema/json/egoschema_fullset.json",
    "vcgbench": "VCGBench/Zero_Shot_QA/Benchmarking_QA/consistency_qa.json",
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four benchmarks; not to be changed."""
    return fixtures.write_data(tmp_path_factory.mktemp("datas"))


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return fixtures.copy_data(whole, tmp_path / "datas")


def change(path: Path, row: int, **fields: Any) -> None:
    """Sets fields of a row (from 1); `...` removes one."""
    rows = json.loads(path.read_text())
    rows[row - 1].update(fields)
    rows[row - 1] = {name: value for name, value in rows[row - 1].items() if value is not ...}
    path.write_text(json.dumps([{k: (None if v is None else v) for k, v in entry.items()} for entry in rows]))


def test_the_tasks_of_mvbench_are_those_of_the_published_runs() -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in PAGE.strip().splitlines()]
    kinds = {"frame": "frames", "video": "video"}
    wanted = [(n, f, d.rstrip("/"), kinds[k.split(",")[0]], k.endswith("bound")) for n, f, d, k in rows]
    assert [(t.name, t.file, t.folder, t.kind, t.bound) for t in mvbench.TASKS] == wanted
    assert len(wanted) == 20


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_item_is_whole(whole: Path, benchmark: str) -> None:
    items = load_items(benchmark, whole)
    assert len({item.key for item in items}) == len(items) > 0
    assert list(dict.fromkeys(item.task for item in items)) == list(TASKS[benchmark])
    assert items == load_items(benchmark, str(whole))
    for item in items:
        assert item.benchmark == benchmark and item.question and item.video.kind in VIDEO_KINDS
        assert item.video.path.is_relative_to(whole / ROOTS[benchmark]) and item.video.path.exists()
        assert item.video.path.is_dir() == (item.video.kind == "frames")
        json.dumps(dict(item.facts))
        if item.right is not None:
            assert item.candidates[item.right] == item.answer


def test_keys_are_the_same_wherever_the_data_lies_and_whatever_is_asked_for(whole: Path, data: Path) -> None:
    for benchmark in BENCHMARKS:
        keys = [item.key for item in load_items(benchmark, whole)]
        assert [item.key for item in load_items(benchmark, data)] == keys
        last = TASKS[benchmark][-1]
        assert {item.key for item in load_items(benchmark, data, tasks=[last], limit=1)} <= set(keys)


def test_mvbench_has_bounds_frames_and_keys_by_row(whole: Path) -> None:
    items = {item.key: item for item in load_items("mvbench", whole)}
    assert Counter(item.task for item in items.values()) == dict.fromkeys(mvbench.BY_NAME, 2)
    assert items["action_sequence/1"].video.bound == (0.0, 12.0)
    assert items["action_sequence/2"].video.bound == (0.5, 11.5)
    frames = items["episodic_reasoning/1"].video
    assert (frames.kind, frames.bound) == ("frames", (0.0, 12.0))
    assert sorted(path.name for path in frames.path.iterdir())[:2] == ["00001.jpg", "00002.jpg"]
    bounded = {item.task for item in items.values() if item.video.bound is not None}
    assert bounded == {task.name for task in mvbench.TASKS if task.bound}


def test_clips_that_the_archive_leaves_in_data0613_are_found(data: Path) -> None:
    home = data / "MVBench" / "video"
    shutil.move(home / "star", home / "data0613" / "star")
    item = load_items("mvbench", data, tasks=["Action Sequence"])[0]
    assert item.video.path.relative_to(home).as_posix() == "data0613/star/Charades_v1_480/clip_0.mp4"
    shutil.rmtree(home / "data0613")
    item = load_items("mvbench", data, tasks=["Action Sequence"])[0]
    assert item.video.path.relative_to(home).as_posix() == "star/Charades_v1_480/clip_0.mp4"


def test_videomme_keeps_what_results_are_grouped_by(whole: Path) -> None:
    item = load_items("videomme", whole, tasks=["medium video"])[1]
    assert (item.key, item.task, item.video.path.name) == ("medium/2", "Medium Video", "medium1.mp4")
    assert item.facts == {"duration": "medium", **fixtures.videomme_facts(1, 1)}


@pytest.mark.parametrize("benchmark", ["videomme", "egoschema"])
@pytest.mark.parametrize("answered", ["letter and text", "text"])
@pytest.mark.parametrize(("noted", "asked", "bare"), [(None, None, True), (False, None, False), (True, None, True)]
                         + [(False, True, True), (None, False, False)])  # fmt: skip
def test_letters_before_candidates_go_or_stay(
    data: Path, benchmark: str, answered: str, noted: bool | None, asked: bool | None, bare: bool
) -> None:
    path = data / QUESTION_FILES[benchmark]
    row = json.loads(path.read_text())[1]
    plain, place = row["candidates"], 2
    lettered = fixtures.lettered(plain)
    change(path, 2, candidates=lettered, answer=lettered[place] if answered == "letter and text" else plain[place])
    (data / ROOTS[benchmark] / "json" / "subset_answers.json").unlink(missing_ok=True)
    if noted is not None:
        (path.parent / NOTE).write_text(json.dumps({"strip_letters": noted}))
    name = {"videomme": "Medium Video", "egoschema": "FullSet"}[benchmark]
    item = load_items(benchmark, data, tasks=[name], strip_letters=asked)[1]
    assert item.candidates == tuple(plain if bare else lettered)
    known = bare or answered == "letter and text"
    assert item.right == (place if known else None)
    assert item.answer == (item.candidates[place] if known else plain[place])


@pytest.mark.parametrize(
    ("candidates", "bare"),
    [
        (["A. cats", "B. dogs"], ["cats", "dogs"]),
        (["A.cats", "B.   dogs"], ["cats", "dogs"]),
        (["A. Lincoln", "G. Washington"], None),
        (["B. cats", "A. dogs"], None),
        (["A. cats", "dogs"], None),
        (["A cat", "B flat"], None),
        (["A. A. Milne", "B. B. King"], ["A. Milne", "B. King"]),
    ],
)
def test_only_letters_that_number_the_candidates_are_taken_off(candidates: list[str], bare: list[str] | None) -> None:
    assert without_letters(candidates) == tuple(bare or candidates)


def test_the_answer_is_found_by_equality() -> None:
    assert right_place(["a", "b"], "b") == 1
    assert right_place(["a", "b"], "B") is None
    assert right_place(["a", "b", "b"], "b") == 2
    assert right_place(["a", "b"], None) is None


@pytest.mark.parametrize("benchmark", ["mvbench", "videomme", "egoschema"])
def test_an_answer_that_is_no_candidate_is_no_error(data: Path, benchmark: str) -> None:
    (data / "ego_schema/json/subset_answers.json").unlink()
    change(data / QUESTION_FILES[benchmark], 1, answer="something else")
    name = Path(QUESTION_FILES[benchmark]).stem
    task = {"action_sequence": "Action Sequence", "medium": "Medium Video"}.get(name, "FullSet")
    item = load_items(benchmark, data, tasks=[task])[0]
    assert (item.right, item.answer, item.truth) == (None, "something else", "(@) something else")


def test_egoschema_knows_published_answers_where_they_lie_beside(data: Path) -> None:
    answers = json.loads((data / "ego_schema/json/subset_answers.json").read_text())
    items = load_items("egoschema", data)
    assert [item.facts["subset"] for item in items] == [True, True, False]
    assert {item.key: item.right for item in items if item.facts["subset"]} == answers
    assert (items[2].answer, items[2].right, items[2].truth) == (None, None, "(@) None")
    subset = load_items("egoschema", data, tasks=["Subset"])
    assert [item.key for item in subset] == list(answers) and {item.task for item in subset} == {"Subset"}
    (data / "ego_schema/json/subset_answers.json").unlink()
    assert all(item.right is None for item in load_items("egoschema", data))
    with pytest.raises(InputError, match=r"put subset_answers\.json .* at .*ego_schema/json"):
        load_items("egoschema", data, tasks=["Subset"])


def test_vcgbench_pairs_questions_and_takes_either_container(data: Path) -> None:
    items = load_items("vcgbench", data, tasks=["consistency"])
    assert [item.key for item in items[:2]] == ["consistency/1/1", "consistency/1/2"]
    first, second = items[:2]
    assert first.facts["pair"] == second.facts["pair"] == "consistency/1"
    assert [first.facts["part"], second.facts["part"]] == [1, 2]
    assert first.facts["questions"] == [first.question, second.question] == second.facts["questions"]
    matroska = data / "VCGBench/Videos/Benchmarking/v_clip1.mkv"
    item = load_items("vcgbench", data, tasks=["temporal"])[0]
    assert item.video.path == matroska and (item.candidates, item.right) == ((), None)
    fixtures.place_clip(1, matroska.with_suffix(".mp4"))
    assert load_items("vcgbench", data, tasks=["temporal"])[0].video.path == matroska.with_suffix(".mp4")


def test_vcgbench_without_the_inner_folders(data: Path) -> None:
    for folder, inner in (("Zero_Shot_QA", "Benchmarking_QA"), ("Videos", "Benchmarking")):
        for path in sorted((data / "VCGBench" / folder / inner).iterdir()):
            shutil.move(path, path.parents[1] / path.name)
    assert all(item.video.path.is_file() for item in load_items("vcgbench", data))


@pytest.mark.parametrize(("benchmark", "limit", "each"), [("mvbench", 1, 1), ("videomme", 1, 1), ("mvbench", 5, 2)])
def test_a_limit_counts_each_task(whole: Path, benchmark: str, limit: int, each: int) -> None:
    items = load_items(benchmark, whole, limit=limit)
    assert Counter(item.task for item in items) == dict.fromkeys(TASKS[benchmark], each)
    everything = load_items(benchmark, whole)
    assert [item for item in everything if item in items] == items


def test_a_limit_keeps_the_two_questions_of_a_pair_together(whole: Path) -> None:
    count = Counter(item.task for item in load_items("vcgbench", whole, limit=1))
    assert count == {"generic": 1, "temporal": 1, "consistency": 2}


def test_tasks_are_found_by_their_letters_and_files_of_others_are_not_read(data: Path) -> None:
    assert task_names("mvbench", ["state_change", "action antonym"]) == ("Action Antonym", "State Change")
    assert task_names("videomme") == ("Short Video", "Medium Video", "Long Video")
    for path in (data / "MVBench/json").iterdir():
        if path.stem != "state_change":
            path.unlink()
    assert len(load_items("mvbench", data, tasks=["STATE-CHANGE"])) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"benchmark": "mvbranch"}, ["'mvbranch'", *BENCHMARKS]),
        ({"benchmark": "videomme", "tasks": ["Short"]}, ["'Short'", "Short Video", "Long Video"]),
        ({"benchmark": "mvbench", "tasks": ["Action Sequence", "x"]}, ["'x'", "Counterfactual Inference"]),
        ({"benchmark": "egoschema", "tasks": ["FullSet", "Subset"]}, ["ask for one"]),
        ({"benchmark": "egoschema", "limit": 0}, ["limit is 0"]),
    ],
)
def test_wrong_requests_are_refused_with_what_there_is(whole: Path, arguments: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_items(data=whole, **arguments)
    assert all(part in str(caught.value) for part in said)


ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("mvbench", {"video": ...}, "'video' is missing"),
    ("mvbench", {"video": "../secret.mp4"}, "'video'"),
    ("mvbench", {"video": "/etc/clip.mp4"}, "'video'"),
    ("mvbench", {"question": " "}, "'question'"),
    ("mvbench", {"question": 7}, "'question' is 7"),
    ("mvbench", {"candidates": "yes"}, "'candidates'"),
    ("mvbench", {"candidates": ["yes"]}, "'candidates'"),
    ("mvbench", {"candidates": ["yes", None]}, "entry 2 of 'candidates' is null"),
    ("mvbench", {"answer": None}, "'answer' is null"),
    ("mvbench", {"start": ...}, "'start' is missing"),
    ("mvbench", {"end": "8"}, "'end'"),
    ("mvbench", {"end": True}, "'end'"),
    ("mvbench", {"end": float("nan")}, "'end'"),
    ("mvbench", {"start": 13.5}, "'start' is 13.5 s"),
    ("videomme", {"answer": ...}, "'answer' is missing"),
    ("videomme", {"domain": 3}, "'domain' is 3"),
    ("egoschema", {"candidates": ["a", "b", "c"]}, "3 candidates"),
    ("egoschema", {"answer": 2}, "'answer' is 2"),
    ("egoschema", {"answer": "nothing of it"}, "subset_answers.json"),
    ("egoschema", {"video": "00000000-0000-4000-8000-000000000000.mp4"}, "row 1 already"),
    ("vcgbench", {"Q2": ...}, "'Q2' is missing"),
    ("vcgbench", {"A": ""}, "'A'"),
    ("vcgbench", {"video_name": ["v"]}, "'video_name'"),
]


@pytest.mark.parametrize(("benchmark", "fields", "said"), ROWS)
def test_a_malformed_row_is_named_with_its_file_and_field(
    data: Path, benchmark: str, fields: dict[str, Any], said: str
) -> None:
    path = data / QUESTION_FILES[benchmark]
    change(path, 2, **fields)
    with pytest.raises(InputError) as caught:
        load_items(benchmark, data)
    assert str(caught.value).startswith(f"{path}, row 2: ")
    assert said in str(caught.value) and "\n" not in str(caught.value)


CONTENTS = [
    (b"", "is no JSON"),
    (b'[{"video": "a.mp4"},\n {"video": }]', "line 2, column 12"),
    (b"\xff\xfe[]", "UTF-8"),
    (b"[" * 100_000, "nested"),
    (b'{"rows": []}', "an object"),
    (b"null", "null"),
    (b"[]", "no questions"),
    (b"[[1]]", "row 1"),
]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize(("content", "said"), CONTENTS, ids=[said for _, said in CONTENTS])
def test_a_file_that_is_no_list_of_rows_is_named(data: Path, benchmark: str, content: bytes, said: str) -> None:
    path = data / QUESTION_FILES[benchmark]
    path.write_bytes(content)
    with pytest.raises(InputError, match="row 1" if said == "row 1" else None) as caught:
        load_items(benchmark, data)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_byte_order_mark_is_no_error(data: Path) -> None:
    path = data / QUESTION_FILES["videomme"]
    before = load_items("videomme", data)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_items("videomme", data) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [([1], "object"), ({"a": 5}, "row 1: the answer to a is 5"), ({"a": 1, "b": "2"}, "row 2"), ({"a": True}, "row 1")],
)
def test_malformed_published_answers_are_named(data: Path, content: Any, said: str) -> None:
    path = data / "ego_schema/json/subset_answers.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        load_items("egoschema", data)
    assert str(path) in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_missing_annotation_file_is_named_with_where_it_was_looked_for(data: Path, benchmark: str) -> None:
    path = data / QUESTION_FILES[benchmark]
    path.unlink()
    with pytest.raises(InputError) as caught:
        load_items(benchmark, data)
    assert f"no annotation file {path}" in str(caught.value) and "none of that name" in str(caught.value)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("place", ["above", "below", "aside"])
def test_a_misplaced_annotation_file_is_found(data: Path, benchmark: str, place: str) -> None:
    path = data / QUESTION_FILES[benchmark]
    root = data / ROOTS[benchmark]
    away = {"above": root, "below": path.parent / "more", "aside": root / "other"}[place] / path.name
    away.parent.mkdir(exist_ok=True)
    shutil.move(path, away)
    with pytest.raises(InputError) as caught:
        load_items(benchmark, data)
    assert f"no annotation file {path}" in str(caught.value) and f"lies at {away}: move it there" in str(caught.value)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("case", ["itself", "deeper", "higher", "case", "gone", "nothing"])
def test_a_misplaced_folder_is_found(data: Path, benchmark: str, case: str) -> None:
    name = ROOTS[benchmark]
    given, said = data, ""
    if case == "itself":
        given, said = data / name, "give the one above it"
    elif case == "deeper":
        given, said = data.parent, f"one level deeper, in {data}"
    elif case == "higher":
        given, said = data / "more", f"one level higher, in {data.resolve()}"
        given.mkdir()
    elif case == "case":
        wrong = data / name.lower().replace("-", "_").replace("videochat", "video")
        shutil.move(data / name, data / "moved")
        shutil.move(data / "moved", wrong if wrong.name != name else data / name.upper())
        said = f"to {name}"
    elif case == "gone":
        shutil.rmtree(data / name)
        said = f"give the folder that holds {name}/"
    else:
        given, said = data / "no such folder", "no such folder"
    with pytest.raises(InputError) as caught:
        load_items(benchmark, given)
    assert said in str(caught.value) and str(given) in str(caught.value)


def test_the_embedded_model_can_answer_the_made_up_questions(whole: Path) -> None:
    from prunevid.qa import VideoQA

    qa = VideoQA.builtin("none")
    items = load_items("videomme", whole) + load_items("mvbench", whole, tasks=["Episodic Reasoning"])
    right = [qa.ask(item.video.path, item.question).text == item.answer for item in items]
    assert sum(right) > len(right) / 2
