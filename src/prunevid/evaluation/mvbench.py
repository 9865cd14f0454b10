# SPDX-License-Identifier: Apache-2.0
"""MVBench: 20 tasks of multiple choice, one annotation file each, some about a part of a clip.

Files and folders as the published PruneVid runs have them: `MVBench/json/NAME.json`, each a list of {video, question,
candidates, answer (text), start?, end?}, and `MVBench/video/FOLDER/...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunevid.evaluation.annotations import Row, read_rows, right_place
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.places import annotation_file

BENCHMARK = "mvbench"


@dataclass(frozen=True)
class Task:
    """Where a task's files lie.

    Attributes:
        name: what accuracy is reported for.
        file: its annotation file, without ".json".
        folder: of its clips, below MVBench/video.
        kind: one of `prunevid.evaluation.items.VIDEO_KINDS`.
        bound: whether its questions are about a part of the clip.
    """

    name: str
    file: str
    folder: str
    kind: str = "video"
    bound: bool = False


TASKS = (
    Task("Action Sequence", "action_sequence", "star/Charades_v1_480", bound=True),
    Task("Action Prediction", "action_prediction", "star/Charades_v1_480", bound=True),
    Task("Action Antonym", "action_antonym", "ssv2_video"),
    Task("Fine-grained Action", "fine_grained_action", "Moments_in_Time_Raw/videos"),
    Task("Unexpected Action", "unexpected_action", "FunQA_test/test"),
    Task("Object Existence", "object_existence", "clevrer/video_validation"),
    Task("Object Interaction", "object_interaction", "star/Charades_v1_480", bound=True),
    Task("Object Shuffle", "object_shuffle", "perception/videos"),
    Task("Moving Direction", "moving_direction", "clevrer/video_validation"),
    Task("Action Localization", "action_localization", "sta/sta_video", bound=True),
    Task("Scene Transition", "scene_transition", "scene_qa/video"),
    Task("Action Count", "action_count", "perception/videos"),
    Task("Moving Count", "moving_count", "clevrer/video_validation"),
    Task("Moving Attribute", "moving_attribute", "clevrer/video_validation"),
    Task("State Change", "state_change", "perception/videos"),
    Task("Fine-grained Pose", "fine_grained_pose", "nturgbd"),
    Task("Character Order", "character_order", "perception/videos"),
    Task("Egocentric Navigation", "egocentric_navigation", "vlnqa"),
    Task("Episodic Reasoning", "episodic_reasoning", "tvqa/frames_fps3_hq", kind="frames", bound=True),
    Task("Counterfactual Inference", "counterfactual_inference", "clevrer/video_validation"),
)
BY_NAME = {task.name: task for task in TASKS}
VIDEO_FOLDERS = ("video", "video/data0613")  # the hub's archive unpacks some clips into the second


def read_task(root: Path, name: str) -> list[Item]:
    """The items of one task.

    Args:
        root: the folder MVBench.
        name: of the task.

    Raises:
        InputError: the annotation file is missing or malformed.
    """
    task = BY_NAME[name]
    advice = "OpenGVLab/MVBench on the model hub has it"
    return items_of(read_rows(annotation_file(root, [f"json/{task.file}.json"], advice)), task, root)


def items_of(rows: Sequence[Row], task: Task, root: Path) -> list[Item]:
    """The items that rows of a task's file describe; their clips may be missing.

    Raises:
        InputError: a row is malformed.
    """
    return [_item(row, task, root) for row in rows]


def _item(row: Row, task: Task, root: Path) -> Item:
    candidates, answer = row.texts("candidates"), row.text("answer")
    places = [root / folder / task.folder / row.file_name("video") for folder in VIDEO_FOLDERS]
    path = next((place for place in places if place.exists()), places[0])
    return Item(
        benchmark=BENCHMARK,
        key=f"{task.file}/{row.number}",
        task=task.name,
        video=VideoSource(path, task.kind, _bound(row) if task.bound else None),
        question=row.text("question"),
        candidates=candidates,
        answer=answer,
        right=right_place(candidates, answer),
    )


def _bound(row: Row) -> tuple[float, float]:
    start, end = row.number_of("start"), row.number_of("end")
    if start > end:
        raise row.wrong(f"'start' is {start:g} s, but 'end' is {end:g} s, which is before it")
    return start, end
