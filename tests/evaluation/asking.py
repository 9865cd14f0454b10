# SPDX-License-Identifier: Apache-2.0
"""A small protocol and small sets of items, for tests of the runner alone."""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.fixtures import place_clip
from prunevid import builtin
from prunevid.builtin.model import load
from prunevid.errors import InputError
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.runner import Runner
from prunevid.evaluation.runs import Record
from prunevid.qa import VideoQA
from prunevid.video import Clip, load_clip


@dataclass(frozen=True)
class Read:
    """What was read from an answer."""

    pred: str
    choice: int | None
    correct: bool | None
    strict: bool | None


@dataclass
class Plain:
    """Asks in the model's chat format; the answer is right when it is the annotated word.

    Attributes:
        loaded, asked: keys of the items whose clip was loaded, and that were asked, in this order.
        wait_at: an item's key, at which a process waits for ever before it answers.
    """

    wait_at: str | None = None
    loaded: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def load(self, item: Item, frames: int) -> Clip:
        self.loaded.append(item.key)
        return load_clip(item.video.path, max_frames=frames, start=item.video.bound and item.video.bound[0])

    def prompt(self, item: Item, clip: Clip, processor: Any, family: str) -> str:
        if item.question == "unaskable":
            raise InputError("The question can't be put.")
        content = [{"type": "video"}, {"type": "text", "text": item.question}]
        turns = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def generation(self, processor: Any, family: str) -> dict[str, Any]:
        return {}

    def read(self, item: Item, text: str, family: str) -> Read:
        while item.key == self.wait_at:
            time.sleep(0.01)
        self.asked.append(item.key)
        pred = text.strip()
        right = None if item.answer is None else pred == item.answer
        return Read(pred, None, right, right)


@cache
def embedded() -> tuple[Any, Any]:
    """The embedded model and its processor, once for all tests of a process."""
    return load()


def runner(root: Path, protocol: Any | None = None) -> Runner:
    """The embedded model, pruned, under the small protocol."""
    qa = VideoQA(*embedded(), method="prunevid", method_options=builtin.DEFAULTS)
    return Runner(qa, protocol or Plain(), frames=builtin.FRAMES, max_new_tokens=1, root=root)


def items_about(root: Path, seeds: Sequence[int] = (0, 1, 2), each: int = 2) -> list[Item]:
    """So many questions about the clip of each seed, in turns: no two neighbours are about the same clip."""
    made = []
    for number in range(each):
        for seed in seeds:
            question = builtin.make_clip(seed).questions[number]
            path = place_clip(seed, root / "clips" / f"{seed}.mp4")
            made.append(
                Item(
                    "mvbench",
                    f"{seed}/{number}",
                    f"task {number}",
                    VideoSource(path),
                    question.text,
                    (),
                    question.answer,
                )
            )
    return made


def timeless(record: Record) -> Record:
    """A record without the times that it took."""
    return dataclasses.replace(record, stats={name: v for name, v in record.stats.items() if name != "milliseconds"})


def lines(path: Path) -> int:
    """Whole lines of a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(condition: Any, seconds: float = 240.0) -> None:
    """Returns when the condition holds.

    Raises:
        TimeoutError: it does not, for so long.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def forked(work: Any) -> int:
    """Starts a process that does something and exits with 0, or with 3 where that raises; returns its id.

    A fork has what the test process had loaded, without seconds of imports. It collects no garbage: that could belong
    to threads of native libraries which a fork does not take along.
    """
    child = os.fork()
    if child:
        return child
    gc.disable()
    status = 3
    try:
        work()
        status = 0
    finally:
        os._exit(status)
