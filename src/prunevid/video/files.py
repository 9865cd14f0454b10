# SPDX-License-Identifier: Apache-2.0
"""Sampling a clip file: read its table of frames, choose, decode what was chosen.

Three ways, each the fallback of the one before:

1. by time, seeking over what isn't wanted;
2. by time, decoding from the beginning (containers that can't seek, streams that don't decode after a seek);
3. by order, decoding everything twice: first for the times of the frames that decode, then for the frames chosen
   among them (streams without times, damaged files).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunevid.errors import InputError
from prunevid.video.clip import Clip
from prunevid.video.decoding import FrameMissed, Work, decode_all, fetch_by_time
from prunevid.video.frame_index import FrameIndex, read_index, steady_gap
from prunevid.video.lazy import FramesChanged, LazyFrames
from prunevid.video.limits import Limits
from prunevid.video.opening import Opened, open_clip, require_av
from prunevid.video.orientation import to_rgb
from prunevid.video.progress import Reporter
from prunevid.video.sampling import Request, Selection, select

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_log = logging.getLogger(__name__)
_FALLBACK_RATE = 25.0  # frames a second of streams that tell neither times nor rate, as FFmpeg assumes


class FileReader:
    """Samples one clip file; `work` counts what that took."""

    def __init__(self, path: Path, request: Request, limits: Limits, reporter: Reporter) -> None:
        self._path = path
        self._request = request
        self._limits = limits
        self._reporter = reporter
        self._damage: list[str] = []
        self.work = Work()

    def read(self) -> Clip:
        """Sample the file as the request says.

        Raises:
            InputError: see `prunevid.video.load_clip`.
        """
        with self._decoding():
            clip = self._read()
        _log.debug("%s: %s", self._path, self.work)
        return clip

    def stream(self) -> Clip:
        """As `read`, but with `LazyFrames`, which are decoded when they are asked for.

        What can only be had by decoding everything (streams without usable times, damaged files, frames in an order of
        their own) is read now.

        Raises:
            InputError: see `prunevid.video.load_clip`.
        """
        with self._decoding():
            with self._open() as opened:
                self._check_length(opened)
                index = read_index(opened, self._reporter.tick)
                rate = _rate(opened, index)
            if index.timed and not self._damage:
                times, duration = _times(index, rate)
                selection = self._select(times, duration, rate)
                wanted = sorted(set(selection.indices))
                if wanted == list(selection.indices):
                    frames = _Stream(self, index, [index.pts[number] for number in wanted])
                    try:
                        first = next(frames.by_time([0], True))
                        lazy: Any = LazyFrames((len(wanted), *first.shape), frames.fetch)
                        frames.expected = self._describe(lazy, selection, times, duration, rate)
                        return frames.expected
                    except FrameMissed:
                        pass
        return self.read()

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """What FFmpeg says of a file that it can't decode, in one sentence."""
        try:
            yield
        except require_av().error.FFmpegError as error:
            raise InputError(
                f"{self._path} can't be decoded ({error.strerror}); check the file or convert it to mp4."
            ) from error

    def _read(self) -> Clip:
        with self._open() as opened:
            self._check_length(opened)
            index = read_index(opened, self._reporter.tick)
            rate = _rate(opened, index)
        if index.timed:
            for seeking in (True, False):
                try:
                    return self._read_by_time(index, rate, seeking)
                except FrameMissed:
                    if self._damage:
                        break
        return self._read_by_order(rate)

    @contextmanager
    def _open(self) -> Iterator[Opened]:
        """The file, opened afresh: at its first packet whatever was read before, with the damage found so far."""
        with open_clip(self._path, self._limits) as opened:
            opened.damage = self._damage
            yield opened

    def _check_length(self, opened: Opened) -> None:
        """Refuse a clip that says itself that it is too long before anything of it is read."""
        ticks, base = opened.stream.duration, opened.stream.time_base
        if ticks is not None and base is not None:
            seconds = float(ticks * base)
        elif opened.container.duration is not None:
            seconds = opened.container.duration / 1_000_000
        else:
            return
        end = min(seconds, self._request.end if self._request.end is not None else seconds)
        self._limits.check_seconds(end - (self._request.start or 0.0), opened.name)

    def _read_by_time(self, index: FrameIndex, rate: float, seeking: bool) -> Clip:
        times, duration = _times(index, rate)
        selection = self._select(times, duration, rate)
        wanted = [index.pts[number] for number in sorted(set(selection.indices))]
        with self._open() as opened:
            frames = fetch_by_time(opened, index, wanted, self.work, self._reporter.tick, seeking)
            pixels = self._convert(frames, len(wanted))
            opened.warn()
        return self._clip(pixels, selection.indices, times, duration, rate, selection)

    def _read_by_order(self, rate: float) -> Clip:
        """Fallback for streams without usable times and for damaged files: what decodes is the clip."""
        with self._open() as opened:
            base = float(opened.stream.time_base or 0)
            ticks = [frame.pts for frame in decode_all(opened, self.work, self._reporter.tick)]
        if not ticks:
            raise InputError(f"{self._path} holds no frame that can be decoded; copy it again or convert it to mp4.")
        known = [tick for tick in ticks if tick is not None]
        if base and len(known) == len(ticks) and all(before < after for before, after in pairwise(known)):
            times = [(tick - known[0]) * base for tick in known]
            duration = times[-1] + (steady_gap(tuple(known)) * base or 1 / rate)
        else:
            times = [number / rate for number in range(len(ticks))]
            duration = len(ticks) / rate
        selection = self._select(times, duration, rate)
        with self._open() as opened:
            chosen = set(selection.indices)
            frames = decode_all(opened, self.work, self._reporter.tick)
            kept = (frame for number, frame in enumerate(frames) if number in chosen)
            pixels = self._convert(kept, len(chosen))
            opened.warn()
        return self._clip(pixels, selection.indices, times, duration, rate, selection)

    def _select(self, times: Sequence[float], duration: float, rate: float) -> Selection:
        selection = select(times, duration, rate, self._request, str(self._path))
        self._limits.check_seconds(selection.span, str(self._path))
        return selection

    def _convert(self, frames: Iterator[VideoFrame], count: int) -> list[NDArray[np.uint8]]:
        """RGB arrays of `count` frames, all of the size of the first."""
        self._reporter.begin(count)
        pixels: list[NDArray[np.uint8]] = []
        size: tuple[int, int] | None = None
        for frame in frames:
            size = size or (frame.width, frame.height)
            pixels.append(to_rgb(frame, size))
            self._reporter.step()
            if len(pixels) == count:
                break
        if len({image.shape for image in pixels}) > 1:
            raise InputError(f"{self._path} is turned half-way; cut it where its orientation changes.")
        return pixels

    def _clip(
        self,
        pixels: list[NDArray[np.uint8]],
        indices: tuple[int, ...],
        times: Sequence[float],
        duration: float,
        rate: float,
        selection: Selection,
    ) -> Clip:
        decoded = sorted(set(indices))  # each frame once, in the order of presentation
        if len(pixels) < len(decoded):
            raise InputError(f"{self._path} changed while it was read; try again when it is complete.")
        place = {number: position for position, number in enumerate(decoded)}
        frames = np.stack([pixels[place[number]] for number in indices])
        return self._describe(frames, selection, times, duration, rate)

    def _describe(
        self, frames: NDArray[np.uint8], selection: Selection, times: Sequence[float], duration: float, rate: float
    ) -> Clip:
        return Clip(
            frames=frames,
            times=tuple(times[number] for number in selection.indices),
            fps=rate,
            duration=duration,
            indices=selection.indices,
            total_frames=len(times),
            source=str(self._path),
            sampled_fps=selection.sampled_fps,
        )


class _Stream:
    """Decodes chosen frames of a file on demand.

    Args:
        reader: of the file.
        index: what its packets tell.
        pts: presentation times of the chosen frames in ticks, ascending.

    Attributes:
        expected: the clip that the frames belong to.
    """

    expected: Clip

    def __init__(self, reader: FileReader, index: FrameIndex, pts: Sequence[int]) -> None:
        self._reader, self._index, self._pts = reader, index, pts
        self._size: tuple[int, int] | None = None  # of the first frame, as it is stored

    def fetch(self, places: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The frames at ascending places among the chosen ones; the ways are those of `FileReader`.

        Raises:
            InputError: the file can't be decoded.
            FramesChanged: it can, but with other frames than were chosen.
        """
        self._reader._reporter.begin(len(places))
        done = 0
        with self._reader._decoding():
            for seeking in (True, False):
                try:
                    for frame in self.by_time(places[done:], seeking):
                        done += 1
                        self._reader._reporter.step()
                        yield frame
                    return
                except FrameMissed:
                    pass
        whole = self._reader.read()
        if whole.indices != self.expected.indices or whole.times != self.expected.times:
            raise FramesChanged(
                f"{self.expected.source} lacks frames that its index promises, so it can't be read in parts; read it "
                "without lazy.",
                whole,
            )
        for place in places[done:]:
            yield whole.frames[place]

    def by_time(self, places: Sequence[int], seeking: bool) -> Iterator[NDArray[np.uint8]]:
        """The same by one way.

        Raises:
            FrameMissed: a frame did not come.
        """
        reader, wanted = self._reader, [self._pts[place] for place in places]
        with reader._open() as opened:
            found = fetch_by_time(opened, self._index, wanted, reader.work, reader._reporter.tick, seeking)
            for frame in found:
                self._size = self._size or (frame.width, frame.height)
                yield to_rgb(frame, self._size)
            opened.warn()


def _times(index: FrameIndex, rate: float) -> tuple[list[float], float]:
    """Presentation times of all frames in seconds from the first, and when the last one ends."""
    first, base = index.pts[0], index.time_base
    times = [float((pts - first) * base) for pts in index.pts]
    return times, times[-1] + float(index.last_ticks * base or 1 / rate)


def _rate(opened: Opened, index: FrameIndex) -> float:
    """Mean frames a second: the header's where the frames' times agree with it, else what the times say."""
    stream = opened.stream
    stated = float(stream.average_rate or 0) or float(getattr(stream, "guessed_rate", None) or 0)
    if not index.timed or len(index.pts) < 2:
        return stated or _FALLBACK_RATE
    ticks = index.pts[-1] - index.pts[0] + (index.last_ticks or steady_gap(index.pts))
    measured = len(index.pts) / float(ticks * index.time_base)
    return stated if stated and abs(stated - measured) <= 0.01 * measured else measured
