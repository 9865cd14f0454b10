# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval check`: what is there, what is missing, and what lies elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from evaluation import fixtures
from prunevid.cli import run
from prunevid.errors import InputError
from prunevid.evaluation.check import BenchmarkCheck, TaskCheck, check_data
from prunevid.evaluation.items import BENCHMARKS
from prunevid.evaluation.places import walk


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four benchmarks; not to be changed."""
    return fixtures.write_data(tmp_path_factory.mktemp("datas"))


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return fixtures.copy_data(whole, tmp_path / "datas")


def one(data: Path, benchmark: str) -> BenchmarkCheck:
    (found,) = check_data(data, [benchmark])
    return found


def task(data: Path, benchmark: str, name: str) -> TaskCheck:
    return next(entry for entry in one(data, benchmark).tasks if entry.task == name)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run(["eval", "check", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_whole_folder_is_complete(whole: Path) -> None:
    found = check_data(whole)
    assert [entry.benchmark for entry in found] == list(BENCHMARKS)
    assert all(entry.complete and entry.problem is None for entry in found)
    counts = {entry.benchmark: [(t.items, t.videos, t.present) for t in entry.tasks] for entry in found}
    assert counts == {
        "mvbench": [(2, 1, 1)] * 20,
        "videomme": [(2, 1, 1)] * 3,
        "egoschema": [(3, 3, 3)],
        "vcgbench": [(2, 1, 1), (2, 1, 1), (4, 1, 1)],
    }
    notes = [note for entry in found for note in entry.notes]
    assert notes == ["2 of 3 clips have subtitles.", "2 of 3 answers are known here."]


def test_missing_clips_are_counted_and_named(data: Path) -> None:
    shutil.rmtree(data / "MVBench/video/nturgbd")
    found = one(data, "mvbench")
    pose = task(data, "mvbench", "Fine-grained Pose")
    assert (pose.items, pose.videos, pose.present, pose.unasked) == (2, 1, 0, 2)
    assert pose.missing == ("video/nturgbd/clip_3.mp4",)
    assert pose.elsewhere == {}  # other tasks' clips of that name are not lost
    assert not found.complete and [entry.task for entry in found.tasks if entry.missing] == ["Fine-grained Pose"]
    assert len(found.notes) == 1 and "NTU RGB+D" in found.notes[0]


@pytest.mark.parametrize(
    ("benchmark", "name", "path", "away"),
    [
        ("mvbench", "Scene Transition", "video/scene_qa/video/clip_2.mp4", "video/scene_qa/clip_2.mp4"),
        ("mvbench", "Episodic Reasoning", "video/tvqa/frames_fps3_hq/clip_2", "video/tvqa/clip_2"),
        ("mvbench", "Action Antonym", "video/ssv2_video/clip_2.mp4", "video/ssv2_video/clip_2.webm"),
        ("videomme", "Long Video", "data/long2.mp4", "data/chunk/deep/er/still/long2.mp4"),
        ("egoschema", "FullSet", "videos/00000001-0000-4000-8000-000000000001.mp4", "good_clips/x/{}"),
        ("vcgbench", "temporal", "Videos/Benchmarking/v_clip1.mkv", "Videos/Test_Videos/v_clip1.mkv"),
    ],
)
def test_a_misplaced_clip_is_found(data: Path, benchmark: str, name: str, path: str, away: str) -> None:
    root = (
        data
        / {"mvbench": "MVBench", "videomme": "Video-MME", "egoschema": "ego_schema", "vcgbench": "VCGBench"}[benchmark]
    )
    away = away.format(Path(path).name)
    (root / away).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / path, root / away)
    found = task(data, benchmark, name)
    expected = path.replace(".mkv", ".mp4")  # what is looked for first
    assert (found.missing, dict(found.elsewhere)) == ((expected,), {expected: away})


def test_empty_files_and_folders_are_missing(data: Path) -> None:
    clip = data / "Video-MME/data/short0.mp4"
    clip.unlink()
    clip.touch()
    assert task(data, "videomme", "Short Video").missing == ("data/short0.mp4",)
    frames = data / "MVBench/video/tvqa/frames_fps3_hq/clip_2"
    shutil.rmtree(frames)
    frames.mkdir()
    assert task(data, "mvbench", "Episodic Reasoning").missing == ("video/tvqa/frames_fps3_hq/clip_2",)


def test_a_task_that_can_not_be_read_does_not_hide_the_others(data: Path) -> None:
    (data / "MVBench/json/action_count.json").write_text("[{}]")
    (data / "MVBench/json/moving_count.json").unlink()
    found = one(data, "mvbench")
    problems = {entry.task: entry.problem for entry in found.tasks if entry.problem}
    assert set(problems) == {"Action Count", "Moving Count"} and not found.complete
    assert "action_count.json, row 1: " in str(problems["Action Count"])
    assert sum(entry.items for entry in found.tasks) == 36


def test_answers_that_are_no_candidates_are_counted(data: Path) -> None:
    path = data / "MVBench/json/state_change.json"
    rows = json.loads(path.read_text())
    rows[1]["answer"] = "something else"
    path.write_text(json.dumps(rows))
    found = one(data, "mvbench")
    assert [entry.task for entry in found.tasks if entry.strange == 1] == ["State Change"]
    assert found.complete


def test_folders_that_link_to_themselves_are_gone_through_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").touch()
    os.symlink(tmp_path, tmp_path / "a" / "again")
    assert [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path)] == ["a/x.mp4"]
    assert list(walk(tmp_path, 0)) == []


def test_wrong_use_is_refused(whole: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        check_data(whole / "none")
    with pytest.raises(InputError, match=r"'mvbranch'.*videomme"):
        check_data(whole, ["mvbranch"])


def test_the_command_lists_tasks_and_says_what_is_missing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "--data", data)
    assert (status, err) == (0, "") and "Counterfactual Inference" in out and out.endswith("Everything is there.\n")
    rows = json.loads((data / "ego_schema/json/egoschema_fullset.json").read_text())
    more = [{**rows[0], "video": f"lost{n}.mp4"} for n in range(9)]
    (data / "ego_schema/json/egoschema_fullset.json").write_text(json.dumps(rows + more))
    (data / "ego_schema/lost0.mp4").write_bytes(b"x")
    shutil.rmtree(data / "VCGBench")
    status, out, err = call(capsys, "--data", data, "--benchmark", "egoschema", "--benchmark", "vcgbench")
    assert (status, err) == (1, "")
    assert "9 clips missing for 9 questions, the first 5:" in out
    assert "videos/lost0.mp4 (one of that name: lost0.mp4)" in out and "lost4" in out and "lost5" not in out
    assert f"There is no folder {data / 'VCGBench'}" in out and "mvbench" not in out
    status, out, _ = call(capsys, "--data", data, "--benchmark", "videomme")
    assert status == 0 and "egoschema" not in out


def test_the_command_names_everything_in_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data / "ego_schema/videos").iterdir():
        path.unlink()
    status, out, _ = call(capsys, "--data", data, "--json")
    found: dict[str, Any] = json.loads(out)
    assert status == 1 and found["complete"] is False
    by_name = {entry["benchmark"]: entry for entry in found["benchmarks"]}
    assert [name for name, entry in by_name.items() if not entry["complete"]] == ["egoschema"]
    assert len(by_name["egoschema"]["tasks"][0]["missing"]) == 3


@pytest.mark.parametrize("arguments", [[], ["--data", "none"], ["--data", ".", "--benchmark", "x"]])
def test_the_command_ends_with_2_on_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "") and err.startswith("prunevid: ") and err.count("\n") == 1
