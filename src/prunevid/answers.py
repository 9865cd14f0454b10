# SPDX-License-Identifier: Apache-2.0
"""What an answered question gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunevid.errors import InputError
from prunevid.region import WHOLE, Region
from prunevid.video import Clip, Limits, load_clip

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ClipInfo:
    """What was seen of a clip.

    Attributes:
        source: where it came from: a path, or "array" or "images".
        times: of the sampled frames, in seconds.
        width, height: of the picture, in pixels.
        fps, duration: the file's own frame rate, and its length in seconds.
        indices: places of the sampled frames among all frames of the source.
        region: the part of the frames that the model is shown: left, top, right, bottom as shares of the frame.
    """

    source: str
    times: tuple[float, ...]
    width: int
    height: int
    fps: float
    duration: float
    indices: tuple[int, ...] = ()
    region: Region = WHOLE

    @classmethod
    def of(cls, clip: Clip, region: Region = WHOLE) -> ClipInfo:
        """The description of a loaded clip, of which the model is shown a region."""
        height, width = clip.frames.shape[1:3]
        times = tuple(float(moment) for moment in clip.times)
        facts = (str(clip.source), times, int(width), int(height), float(clip.fps), float(clip.duration))
        return cls(*facts, tuple(map(int, clip.indices)), region)


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
        seen: the frames that were asked about, where they came from memory; those of a file are read again when
            they are drawn (`frames`), so that answers that are kept don't hold the pictures of many clips.
    """

    text: str
    stats: dict[str, Any]
    question: str
    clip: ClipInfo
    texts: tuple[str, ...] = ()
    continuation: str = ""
    maps: list[Any] = field(default_factory=list, repr=False)
    seen: Clip | None = field(default=None, repr=False, compare=False)

    def frames(self) -> NDArray[np.uint8]:
        """The frames that were asked about, (T, H, W, 3) uint8: those in memory, or the same ones of the file again.

        Raises:
            InputError: the file is gone, or other frames stand in it now.
        """
        if self.seen is not None:
            return self.seen.in_memory().frames
        return _read_again(self.clip)

    def show(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Image | Path:
        """A picture of what became of the clip's tokens (`prunevid.view`).

        Args:
            path: where to write it, by its ending: .png, .mp4 or .gif; None: it is returned.
            options: of `prunevid.view.sheet` for a picture, of `prunevid.view.overlay` for a video.

        Returns:
            A Pillow image, which notebooks show; or the path that was written.

        Raises:
            InputError: there is nothing to draw, or the frames can't be read again.
            ConfigError: an ending that is none of these.
            PruneVidError: the file can't be written.
        """
        from prunevid import view

        return view.sheet(self, **options) if path is None else view.save(self, path, **options)

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, or the words alone where it can't be drawn."""
        from prunevid import view

        return view.as_html(self)


def in_memory(clip: Clip) -> Clip | None:
    """The clip itself where its frames can't be read again, because they came from memory."""
    return None if os.path.exists(clip.source) else clip


def _read_again(info: ClipInfo) -> NDArray[np.uint8]:
    """See `Answer.frames`."""
    if not os.path.exists(info.source):
        raise InputError(
            f"The frames of {info.source} can't be read again, because it is gone; pass frames=, (T, H, W, 3) uint8."
        )
    wanted = info.indices or tuple(range(len(info.times)))
    limits = Limits(max_pixels=info.width * info.height, max_seconds=2 * info.duration + 60)  # what was read before
    clip = load_clip(info.source, sampling=lambda frames, rate: wanted, limits=limits, progress=False)
    if (clip.width, clip.height, len(clip)) != (info.width, info.height, len(info.times)):
        raise InputError(
            f"{info.source} has other frames than when it was asked about; pass frames=, (T, H, W, 3) uint8."
        )
    return clip.frames
