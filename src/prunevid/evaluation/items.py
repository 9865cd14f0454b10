# SPDX-License-Identifier: Apache-2.0
"""What a benchmark asks: one item for each question, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCHMARKS = ("mvbench", "videomme", "egoschema", "vcgbench")
VIDEO_KINDS = ("video", "frames", "gif")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class VideoSource:
    """The clip that an item is about.

    Attributes:
        path: a video file ("video", "gif"), or a folder of pictures named 00001.jpg, 00002.jpg, ... ("frames"). It may
            be missing on this machine: `prunevid.evaluation.check` finds out.
        kind: one of `VIDEO_KINDS`.
        bound: (start, end) in seconds of the part that is asked about; None: the whole clip.
    """

    path: Path
    kind: str = "video"
    bound: tuple[float, float] | None = None


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        benchmark: one of `BENCHMARKS`.
        key: names the item within its benchmark, and is the same on every machine: "action_sequence/17".
        task: the group that accuracy is reported for: "Action Sequence", "Short Video", "FullSet", "generic".
        video: what is shown.
        question: as it stands in the annotations.
        candidates: the options in their official order, without letters; empty for open questions.
        answer: the text of the right candidate, or the reference of an open question; None where it is not published.
        right: place of the answer among the candidates; None where it is unknown or is not among them.
        facts: whatever else results are grouped by or a protocol needs, as JSON types (duration, domain, ids).
    """

    benchmark: str
    key: str
    task: str
    video: VideoSource
    question: str
    candidates: tuple[str, ...] = ()
    answer: str | None = None
    right: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def truth(self) -> str:
        """The right answer as the published protocol writes it: "(B) a box"; "(@) ..." where it is no candidate."""
        letter = "@" if self.right is None else LETTERS[self.right]
        return f"({letter}) {self.answer}"
