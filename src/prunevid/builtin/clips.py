# SPDX-License-Identifier: Apache-2.0
"""Synthetic clips by seed, with their questions, and how to write one as a real video file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from prunevid.builtin.questions import LEARNT, Question, ask
from prunevid.builtin.render import draw
from prunevid.builtin.scenes import FPS, Plan, make_plan
from prunevid.errors import ConfigError, InputError

SPLITS = {"train": 0, "test": 1, "dev": 2}


@dataclass(frozen=True)
class SyntheticClip:
    """A clip made from a seed: frames (T, 80, 80, 3) uint8 RGB at `fps` frames a second, questions with answers, the
    plan it was drawn from, and owner (T, 80, 80) int8, which thing covers each pixel (0: background)."""

    frames: np.ndarray
    fps: float
    questions: list[Question]
    plan: Plan
    owner: np.ndarray

    @property
    def learnt(self) -> list[Question]:
        """The questions of kinds that the embedded model has learnt."""
        return [question for question in self.questions if question.kind in LEARNT]


def make_clip(seed: int, split: str = "test", *, questions: int = 12) -> SyntheticClip:
    """Makes the clip of that seed, the same one every time.

    Args:
        seed: 0 or more.
        split: "train", "test" or "dev" (looked at while training). Its number is part of the random stream's
            entropy, so no clip of one split comes from the stream of any clip of another.
        questions: at most so many questions.

    Raises:
        ConfigError: another split, or a negative seed.
    """
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}, but must be one of {', '.join(map(repr, SPLITS))}.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, but must be at least 0.")
    rng = np.random.default_rng([SPLITS[split], seed])
    plan = make_plan(rng)
    frames, owner = draw(plan, rng)
    return SyntheticClip(frames, FPS, ask(plan, rng, questions), plan, owner)


def write_clip(clip: SyntheticClip, path: str | Path, *, scale: int = 4) -> Path:
    """Writes a clip as an mp4 file, each pixel as a square of `scale` pixels so that people can see it.

    H.264 where this build of FFmpeg's libraries has it, MPEG-4 part 2 otherwise; one video frame for each clip frame.

    Raises:
        ConfigError: scale is no positive even number of at most 16.
        InputError: the folder of `path` does not exist.
    """
    if scale < 2 or scale > 16 or scale % 2:
        raise ConfigError(f"scale is {scale}, but must be an even number from 2 to 16.")
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"The folder {str(path.parent)!r} does not exist; make it first.")
    codec, options = _codec()
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream(codec, rate=Fraction(clip.fps).limit_denominator(1000), options=options)
        stream.height, stream.width = (side * scale for side in clip.frames.shape[1:3])
        stream.pix_fmt = "yuv420p"
        for picture in clip.frames:
            large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def _codec() -> tuple[str, dict[str, str]]:
    if "libx264" in av.codecs_available:
        return "libx264", {"crf": "18", "preset": "veryfast", "threads": "1"}
    return "mpeg4", {"qscale": "2"}
