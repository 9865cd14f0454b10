# SPDX-License-Identifier: Apache-2.0
"""What an answered question gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prunevid.video import Clip


@dataclass(frozen=True)
class ClipInfo:
    """What was seen of a clip: where it came from, times of the sampled frames in seconds, picture size in
    pixels, the file's own frame rate and length in seconds."""

    source: str
    times: tuple[float, ...]
    width: int
    height: int
    fps: float
    duration: float

    @classmethod
    def of(cls, clip: Clip) -> ClipInfo:
        """The description of a loaded clip."""
        height, width = clip.frames.shape[1:3]
        times = tuple(float(moment) for moment in clip.times)
        return cls(str(clip.source), times, int(width), int(height), float(clip.fps), float(clip.duration))


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: what the model said (the first sequence, where several were asked for).
        stats: what was kept and what it cost, with the keys of `prunevid.stats.row_stats`; empty where the
            config says `collect_stats=False` and the method reports nothing.
        question: what was asked.
        clip: which frames were seen.
        texts: all sequences (`num_return_sequences`).
        continuation: what the model said as it follows the prompt, with the space around it.
        maps: for each video the record of what became of every cell of its token grid, for pictures.
    """

    text: str
    stats: dict[str, Any]
    question: str
    clip: ClipInfo
    texts: tuple[str, ...] = ()
    continuation: str = ""
    maps: list[Any] = field(default_factory=list, repr=False)
