# SPDX-License-Identifier: Apache-2.0
"""Made-up run folders, written as the runner writes them: what was answered is given letter by letter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from prunevid.evaluation.items import LETTERS
from prunevid.evaluation.runs import ANSWERS, RESULTS, SETTINGS, Record, Settings

RIGHT = "ABCDABCDAB"
VIDEOS = "aabbbccddd"
TASKS = ["Action Count"] * 6 + ["Moving Count"] * 4
VERSIONS = {"prunevid": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0", "python": "3.11.7"}


def record(
    place: int, said: str, right: str, *, kept: float, flops: float, words: str = "", strict: bool = True
) -> Record:
    """The answer to question `place`: a letter, "-" where none could be read, "!" where the clip could not be."""
    truth = LETTERS.index(right) if right != "?" else None
    made = Record(
        key=f"made/{place}",
        task=TASKS[place % 10],
        video=f"video/{VIDEOS[place % 10]}{place // 10 or ''}.mp4",
        question=f"Question {place}?",
        candidates=("red", "green", "blue", "grey"),
        answer=None if truth is None else ("red", "green", "blue", "grey")[truth],
        right=truth,
    )
    if said == "!":
        return dataclasses.replace(made, error="The clip can't be read.")
    choice = LETTERS.index(said) if said in LETTERS else None
    correct = None if truth is None else choice == truth
    text = f"({said}) {words}".rstrip() if choice is not None else f"hm {words}".rstrip()
    return dataclasses.replace(
        made,
        text=text,
        pred=text,
        choice=choice,
        correct=correct,
        strict=None if truth is None else correct and strict,
        stats={"original_tokens": 100, "kept_tokens": round(100 * kept), "retained_ratio": kept, "flops_ratio": flops},
    )


def write_run(
    folder: Path,
    said: str,
    *,
    right: str = RIGHT,
    kept: float = 1.0,
    flops: float = 1.0,
    words: str = "",
    finished: bool = True,
    results: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A folder with the answers `said`, a letter for each question."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "benchmark": "mvbench",
        "protocol": "paper",
        "model": "models/tiny",
        "family": "qwen2_5_vl",
        "method": "none",
        "versions": VERSIONS,
        **settings,
    }
    (folder / SETTINGS).write_text(json.dumps(dataclasses.asdict(Settings(**given))), encoding="utf-8")
    lines = [
        record(place, letter, right[place % len(right)], kept=kept, flops=flops, words=words).line()
        for place, letter in enumerate(said)
    ]
    (folder / ANSWERS).write_text("".join(lines), encoding="utf-8")
    if finished:
        (folder / RESULTS).write_text(json.dumps(results or {}), encoding="utf-8")
    return folder


def change_settings(folder: Path, **changes: Any) -> None:
    """Rewrites settings.json with some entries changed."""
    path = folder / SETTINGS
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
