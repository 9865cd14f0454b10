# SPDX-License-Identifier: Apache-2.0
"""Families without a video input: which pictures of a prompt are frames, and of which video."""

from __future__ import annotations

from collections.abc import Sequence

from prunevid.errors import InputError
from prunevid.models.base import VideoLayout


def picture_layouts(pictures: int, height: int, width: int, frames: int | Sequence[int] | None) -> list[VideoLayout]:
    """Layouts of pictures of height x width tokens, as `frames_per_video` of `prunevid.attach` groups them.

    A picture that is no frame is an image.

    Raises:
        InputError: `frames` does not describe that many pictures.
    """
    layouts: list[VideoLayout] = []
    for run in _split(pictures, frames):
        if run > 0:
            layouts.append(VideoLayout(run, height, width))
        else:
            layouts += [VideoLayout(1, height, width, image=True)] * -run
    return layouts


def _split(pictures: int, frames: int | Sequence[int] | None) -> list[int]:
    """Runs of pictures in order: n > 0 the frames of one video, n < 0 that many pictures that stay whole."""
    if isinstance(frames, int) and frames > 0:
        if pictures % frames:
            raise InputError(
                f"{pictures} pictures can't be videos of {frames} frames each (frames_per_video); give a list with "
                "the number of frames of every video."
            )
        return [frames] * (pictures // frames)
    if not frames or isinstance(frames, int):
        return [-pictures]
    if sum(map(abs, frames)) != pictures:
        raise InputError(
            f"frames_per_video {list(frames)} describes {sum(map(abs, frames))} pictures, but the prompt has "
            f"{pictures}; give the number of frames of every video in the order of the prompt, and of pictures that "
            "are no frames as a negative number."
        )
    return list(frames)
