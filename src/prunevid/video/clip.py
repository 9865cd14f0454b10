# SPDX-License-Identifier: Apache-2.0
"""A sampled clip: its frames, when they are shown, and the metadata that a video processor wants."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunevid.video.lazy import LazyFrames

_FINE_CLOCK = 1000.0  # ticks a second of the metadata of clips without a constant rate
_ROUNDING = 1e-3  # seconds; Matroska keeps times in milliseconds


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames sampled from a clip, in the order in which they are shown, each once; or as a function chose them.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB, upright (rotation metadata applied); or `LazyFrames` of that shape, which are
            read when they are asked for (`load_clip(lazy=True)`).
        times: T presentation times in seconds, counted from the first frame of the source.
        fps: frames a second of the source: its mean rate where the rate varies.
        duration: seconds of the whole source.
        indices: T positions in the source, counted from 0 in the order of presentation.
        total_frames: frames of the whole source.
        source: the path of the file or folder; "array" or "images" for frames handed over in memory.
        sampled_fps: effective rate of `frames`, in frames a second of the clip's own time.
        backend: what read the frames: "pyav", "images" or "array".
    """

    frames: NDArray[np.uint8]
    times: tuple[float, ...]
    fps: float
    duration: float
    indices: tuple[int, ...]
    total_frames: int
    source: str
    sampled_fps: float
    backend: str = "pyav"

    @property
    def width(self) -> int:
        """Width of the frames in pixels."""
        return int(self.frames.shape[2])

    @property
    def height(self) -> int:
        """Height of the frames in pixels."""
        return int(self.frames.shape[1])

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def in_memory(self) -> Clip:
        """The same clip with frames that have been read."""
        frames: Any = self.frames
        return dataclasses.replace(self, frames=frames.read()) if isinstance(frames, LazyFrames) else self

    def metadata(self) -> dict[str, Any]:
        """The fields of transformers' `VideoMetadata`, for `processor(..., video_metadata=[clip.metadata()])`.

        Pass it with `do_sample_frames=False`: the frames are sampled already. Without metadata a processor assumes 24
        frames a second, and the temporal positions of the tokens collapse. Processors derive two things from it,
        and both come out true here whatever was sampled: `frames_indices / fps` are the frames' presentation times,
        and `len(frames_indices) / total_num_frames * fps` is `sampled_fps`. Hence `total_num_frames` counts the
        frames of the part that was sampled (all of the clip, without `start` and `end`), and a clip whose rate
        varies is described on a clock of 1,000 ticks a second in place of its frame numbers.

        Returns:
            total_num_frames, fps, width, height, duration (seconds of the source), frames_indices, video_backend.
        """
        drift = (abs(time - index / self.fps) for time, index in zip(self.times, self.indices, strict=True))
        constant = max(drift) <= _ROUNDING
        clock = self.fps if constant else _FINE_CLOCK
        marks = list(self.indices) if constant else [round(time * clock) for time in self.times]
        return {
            "total_num_frames": max(1, round(len(self) * clock / self.sampled_fps)),
            "fps": clock,
            "width": self.width,
            "height": self.height,
            "duration": self.duration,
            "frames_indices": marks,
            "video_backend": self.backend,
        }
