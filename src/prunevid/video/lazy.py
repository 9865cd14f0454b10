# SPDX-License-Identifier: Apache-2.0
"""Frames that are read when they are asked for, so that a long clip need not be in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunevid.errors import InputError

Fetch = Callable[[Sequence[int]], Iterator[NDArray[np.uint8]]]
"""From ascending places among the sampled frames to these frames, (H, W, 3) each."""


class FramesChanged(InputError):
    """Frames that were promised can't be decoded; `clip` is what the file gives instead, read as a whole."""

    def __init__(self, message: str, clip: Any) -> None:
        super().__init__(message)
        self.clip = clip


class LazyFrames:
    """T frames in place of a (T, H, W, 3) uint8 array, of which they have the shape and can be taken from.

    `frames[3]`, `frames[8:16]`, `frames[[1, 5]]` and `numpy.asarray(frames)` read what they name, each time anew.

    Args:
        shape: (T, H, W, 3).
        fetch: reads frames; may be called from another thread, but not from two at a time.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shape: tuple[int, int, int, int], fetch: Fetch) -> None:
        self.shape = shape
        self._fetch = fetch

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        places = np.arange(len(self))[key]
        if places.ndim == 0:
            return self._read([int(places)])[0]
        wanted, back = np.unique(places, return_inverse=True)
        return self._read(wanted.tolist())[back]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("Frames that are read when they are asked for can't be had without a copy.")
        frames = self.read()
        return frames if dtype is None else frames.astype(dtype)

    def read(self) -> NDArray[np.uint8]:
        """All frames, (T, H, W, 3)."""
        return self._read(range(len(self)))

    def chunks(self, sizes: Sequence[int]) -> Generator[NDArray[np.uint8], None, None]:
        """The frames in order in parts of so many, read in one go: nothing is opened or decoded twice.

        Args:
            sizes: frames of each part; they sum to T.
        """
        frames = self._fetch(range(len(self)))
        for size in sizes:
            yield self._gather(frames, size)
        next(frames, None)  # what is read comes to its end, and says what was wrong with it

    def _read(self, places: Sequence[int]) -> NDArray[np.uint8]:
        frames = self._fetch(places)
        gathered = self._gather(frames, len(places))
        next(frames, None)
        return gathered

    def _gather(self, frames: Iterator[NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
        """The next frames as one array; no other copy of them is made."""
        gathered = np.empty((count, *self.shape[1:]), np.uint8)
        for place in gathered:
            frame = next(frames)
            if frame.shape != place.shape:
                raise InputError(
                    f"A frame is {frame.shape[1]} x {frame.shape[0]}, but the first one was {self.shape[2]} x "
                    f"{self.shape[1]}; bring all frames to one size."
                )
            place[:] = frame
        return gathered


def in_chunks(frames: Any, sizes: Sequence[int]) -> Generator[NDArray[np.uint8], None, None]:
    """The frames of a clip, in memory or not, in parts of so many; the parts of an array are views."""
    if isinstance(frames, LazyFrames):
        yield from frames.chunks(sizes)
        return
    start = 0
    for size in sizes:
        yield frames[start : start + size]
        start += size
