# SPDX-License-Identifier: Apache-2.0
"""A made-up folder of benchmarks: every annotation format with a few rows, and real small clips.

The clips are the embedded model's own, and most questions are its own questions about them, with one-word candidates,
so that it can really answer them. Everything is the same each time.

    data = write_data(tmp_path)                              # all four
    data = write_data(tmp_path, ["mvbench"], per_task=1)     # one
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from PIL import Image

from prunevid.builtin import FPS, FRAMES, Question, SyntheticClip, make_clip, write_clip
from prunevid.builtin.questions import CORNERS, NUMBERS, TIMES
from prunevid.builtin.scenes import COLORS, DIRECTIONS, SHAPES
from prunevid.evaluation.items import BENCHMARKS, LETTERS
from prunevid.evaluation.mvbench import TASKS

SEEDS = (0, 1, 2, 3)
SECONDS = FRAMES / FPS
FRAME_RATE = 3  # of MVBench's folders of pictures
WORDS = (tuple(COLORS), SHAPES, tuple(DIRECTIONS), CORNERS, TIMES, NUMBERS, ("yes", "no"))
FONT = '<font color="white" size=".72c">{}</font>'  # as Video-MME's subtitles have it


def write_data(root: Path, benchmarks: Iterable[str] = BENCHMARKS, *, per_task: int = 2) -> Path:
    """Writes benchmarks into `root` in the layout of the published runs.

    Args:
        per_task: rows of each task's file. Two rows that follow each other share a clip, except in EgoSchema.

    Returns:
        `root`, to be given as --data.
    """
    for name in benchmarks:
        WRITERS[name](root, per_task)
    return root


def copy_data(data: Path, root: Path) -> Path:
    """A copy in the new folder `root` that a test may spoil; clips are linked, and must be removed, not written to."""

    def copy(source: str, target: str) -> str:
        if source.endswith((".json", ".srt")):
            return shutil.copyfile(source, target)
        os.link(source, target)
        return target

    return Path(shutil.copytree(data, root, copy_function=copy))


def write_mvbench(root: Path, per_task: int = 2) -> None:
    """All 20 tasks; those with a bound ask about the whole clip in odd rows, about nearly all of it in even ones."""
    for number, task in enumerate(TASKS):
        rows = []
        for row in range(per_task):
            seed, question = questioned(number, row)
            folder = root / "MVBench" / "video" / task.folder
            video = f"clip_{seed}" if task.kind == "frames" else f"clip_{seed}.mp4"
            place_frames(seed, folder / video) if task.kind == "frames" else place_clip(seed, folder / video)
            fields = {"video": video, **choice_fields(question, row), "question_id": f"{task.file}_{row}"}
            if task.bound:
                fields |= {"start": 0.0, "end": SECONDS} if row % 2 == 0 else {"start": 0.5, "end": SECONDS - 0.5}
            rows.append(fields)
        write_json(root / "MVBench" / "json" / f"{task.file}.json", rows)


def write_videomme(root: Path, per_task: int = 2) -> None:
    """Three durations; the first two have subtitles, the long ones have none."""
    home = root / "Video-MME"
    for number, duration in enumerate(("short", "medium", "long")):
        rows = []
        for row in range(per_task):
            seed, question = questioned(number, row)
            video = f"{duration}{seed}"
            place_clip(seed, home / "data" / f"{video}.mp4")
            if duration != "long":
                write_subtitles(home / "subtitle" / f"{video}.srt")
            rows.append({"video": f"{video}.mp4", **choice_fields(question, row), **videomme_facts(number, row)})
        write_json(home / "json" / f"{duration}.json", rows)


def write_egoschema(root: Path, per_task: int = 2) -> None:
    """So many questions and one more, each about a clip of its own; the first answers are published."""
    home = root / "ego_schema"
    rows, answers = [], {}
    for row in range(per_task + 1):
        seed, question = SEEDS[row % len(SEEDS)], make_clip(SEEDS[row % len(SEEDS)]).learnt[row // len(SEEDS)]
        uid = f"{row:08d}-0000-4000-8000-{seed:012d}"
        fields = choice_fields(question, row, options=5)
        place_clip(seed, home / "videos" / f"{uid}.mp4")
        if row < per_task:
            answers[uid] = fields["candidates"].index(fields["answer"])
        rows.append({"video": f"{uid}.mp4", **fields, "answer": None})
    write_json(home / "json" / "egoschema_fullset.json", rows)
    write_json(home / "json" / "subset_answers.json", answers)


def write_vcgbench(root: Path, per_task: int = 2) -> None:
    """Generic, temporal and consistency questions; clip 1 is a Matroska file, the others are mp4."""
    home = root / "VCGBench"
    parts: dict[str, list[dict[str, Any]]] = {"generic": [], "temporal": [], "consistency": []}
    for number, (part, rows) in enumerate(parts.items()):
        for row in range(per_task):
            seed, question = questioned(number, row)
            name = f"v_clip{seed}"
            place_clip(seed, home / "Videos" / "Benchmarking" / f"{name}{'.mkv' if seed == 1 else '.mp4'}")
            asked = {"Q1": question.text, "Q2": other_wording(seed, question)}
            fields = asked if part == "consistency" else {"Q": question.text}
            rows.append({"video_name": name, **fields, "A": question.answer})
        write_json(home / "Zero_Shot_QA" / "Benchmarking_QA" / f"{part}_qa.json", rows)


WRITERS = {
    "mvbench": write_mvbench,
    "videomme": write_videomme,
    "egoschema": write_egoschema,
    "vcgbench": write_vcgbench,
}


def questioned(task: int, row: int) -> tuple[int, Question]:
    """A clip's seed and a question about it: two rows of a task share a clip, tasks begin with different clips."""
    seed = SEEDS[(task + row // 2) % len(SEEDS)]
    questions = make_clip(seed).learnt
    return seed, questions[(2 * (task // len(SEEDS)) + row) % len(questions)]


def other_wording(seed: int, question: Question) -> str:
    """Another question about the clip with the same answer; the same one where there is none."""
    others = [other.text for other in make_clip(seed).learnt if other.answer == question.answer]
    return next((text for text in others if text != question.text), question.text)


def choice_fields(question: Question, shift: int = 0, options: int = 4) -> dict[str, Any]:
    """A question with candidates (text, without letters) of which one is right; its place moves with `shift`."""
    candidates = distractors(question.answer, options - 1)
    candidates.insert((shift + len(question.text)) % (len(candidates) + 1), question.answer)
    return {"question": question.text, "candidates": candidates, "answer": question.answer}


def distractors(answer: str, count: int) -> list[str]:
    """Wrong words, of the answer's own sort as far as there are so many."""
    own = next(words for words in WORDS if answer in words)
    rest = [word for words in (own, *WORDS) for word in words if word != answer]
    return list(dict.fromkeys(rest))[:count]


def videomme_facts(number: int, row: int) -> dict[str, str]:
    """The further fields that `prunevid eval prepare videomme` keeps."""
    return {
        "domain": ("Knowledge", "Sports Competition")[row % 2],
        "sub_category": ("Geometry", "Track & Field")[row % 2],
        "task_type": ("Attribute Perception", "Action Recognition")[row % 2],
        "question_id": f"{number + 1:03d}-{row + 1}",
        "video_id": f"{number + 1:03d}",
    }


@cache
def store() -> TemporaryDirectory[str]:
    """A folder for what is written once a session; removed at its end."""
    return TemporaryDirectory(prefix="prunevid-tests-")


@cache
def clip_file(seed: int, ending: str = ".mp4") -> Path:
    """The clip of a seed as a file that is written once a session: .mp4, .mkv or .gif; 160 x 160, 24 frames, 12 s."""
    path = Path(store().name) / f"clip{seed}{ending}"
    if ending == ".mp4":
        return write_clip(make_clip(seed), path, scale=2)
    if ending == ".gif":
        pictures = [Image.fromarray(frame) for frame in make_clip(seed).frames]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / FPS), loop=0)
        return path
    with av.open(str(clip_file(seed))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def place_clip(seed: int, path: Path) -> Path:
    """The clip of a seed at `path`, whose ending gives the format; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        shutil.copyfile(clip_file(seed, path.suffix), path)
    return path


@cache
def frames_folder(seed: int) -> Path:
    """The clip of a seed as pictures 00001.jpg, 00002.jpg, ... at 3 a second, written once a session."""
    folder = Path(store().name) / f"frames{seed}"
    folder.mkdir()
    for number, frame in enumerate(shown(make_clip(seed)), start=1):
        Image.fromarray(frame).resize((128, 128), Image.Resampling.NEAREST).save(folder / f"{number:05d}.jpg")
    return folder


def shown(clip: SyntheticClip) -> list[np.ndarray]:
    """What is on screen at 0, 1/3, 2/3, ... seconds."""
    return [clip.frames[int(step / FRAME_RATE * clip.fps)] for step in range(int(SECONDS * FRAME_RATE))]


def place_frames(seed: int, folder: Path) -> Path:
    """The clip of a seed as a folder of pictures."""
    if not folder.exists():
        shutil.copytree(frames_folder(seed), folder)
    return folder


def write_subtitles(path: Path, texts: Sequence[str] = ("look here", "it moves", "that was it")) -> Path:
    """Subtitles as Video-MME's files have them, each shown for two seconds, a second apart, from 0.5 s on."""
    blocks = []
    for number, text in enumerate(texts, start=1):
        start = 0.5 + 3 * (number - 1)
        blocks.append(f"{number}\n{stamp(start)} --> {stamp(start + 2)}\n{FONT.format(text)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def stamp(seconds: float) -> str:
    """Seconds as SRT has them: 00:00:01,500."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"


def write_json(path: Path, value: Any) -> Path:
    """A JSON file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def lettered(candidates: Sequence[str]) -> list[str]:
    """Candidates as the hub's tables have them: "A. a box", "B. a cup", ..."""
    return [f"{LETTERS[place]}. {text}" for place, text in enumerate(candidates)]
