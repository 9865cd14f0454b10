# SPDX-License-Identifier: Apache-2.0
"""Decoding chosen frames: by seeking to keyframes where times can be relied on, from the beginning where not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunevid.video.frame_index import FrameIndex
from prunevid.video.opening import Opened, require_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# A seek throws away what the decoder has in flight; over fewer packets than this, decoding on is cheaper.
SEEK_GAP = 8


@dataclass
class Work:
    """What was done, counted: packets given to the decoder, frames it gave back, seeks that led somewhere."""

    packets: int = 0
    frames: int = 0
    seeks: int = 0


class FrameMissed(Exception):
    """A frame that the packets promise did not come out where it should."""


class Decoder:
    """Feeds packets to the decoder of one open clip and hands out frames in the order of presentation.

    What can't be decoded is noted in `opened.damage` and passed over; no exception of PyAV gets out.
    """

    def __init__(self, opened: Opened, work: Work, tick: Callable[[], None]) -> None:
        self._opened = opened
        self._work = work
        self._tick = tick
        self._errors = require_av().error.FFmpegError
        self._packets: Iterator[Any] = opened.packets()
        self._ready: deque[VideoFrame] = deque()
        self._ended = False
        self.position = -1  # of the packet that was decoded last, in the order of decoding

    def seek(self, offset: int) -> Any | None:
        """Go to the keyframe at or before `offset` ticks as far as the container can; the first keyframe packet
        found there, which is decoded next, or None.
        """
        container, stream = self._opened.container, self._opened.stream
        self._ready.clear()
        self._ended = False
        try:
            container.seek(offset, stream=stream, backward=True)
            packets = self._opened.packets()
            for packet in packets:
                if packet.size and packet.is_keyframe:
                    self._packets = _chain(packet, packets)
                    return packet
        except self._errors:
            pass
        return None

    def next_frame(self) -> VideoFrame | None:
        """The next frame, or None at the end."""
        while not self._ready and not self._ended:
            self._feed()
        if not self._ready:
            return None
        frame = self._ready.popleft()
        self._opened.limits.check_pixels(frame.width, frame.height, self._opened.name)
        if frame.is_corrupt:
            self._opened.note("a frame is incomplete")
        return frame

    def _feed(self) -> None:
        """Give one packet to the decoder, or flush it at the end."""
        try:
            packet = next(self._packets, None)
        except self._errors:
            self._opened.note("it could not be read to its end")
            packet = None
        self._tick()
        try:
            if packet is None or (not packet.size and packet.dts is None):
                self._ended = True
                frames = self._opened.stream.decode(None)
            elif not packet.size:  # a dropped frame; the decoder would take it for the end
                return
            else:
                self.position += 1
                self._work.packets += 1
                frames = packet.decode()
        except EOFError:
            return
        except self._errors:
            self._opened.note("a packet could not be decoded")
            return
        self._work.frames += len(frames)
        self._ready.extend(frames)


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def fetch_by_time(
    opened: Opened,
    index: FrameIndex,
    wanted: Sequence[int],
    work: Work,
    tick: Callable[[], None],
    seeking: bool = True,
) -> Iterator[VideoFrame]:
    """The frames shown at the ascending ticks `wanted`, seeking over what lies between where that saves work.

    Before each frame: if the keyframe from which it can be decoded lies more than `SEEK_GAP` packets ahead, the
    container is asked to go there; wherever it lands at or before that keyframe, decoding goes on from there.

    Args:
        opened: a clip that has just been opened.
        index: what its packets tell; must be `timed`.
        wanted: presentation times in ticks.
        work: is counted up.
        tick: called for every packet.
        seeking: False to decode everything up to the last frame wanted.

    Raises:
        FrameMissed: a frame did not come, frames come out of order, or a seek led nowhere.
    """
    decoder = Decoder(opened, work, tick)
    last: int | None = None
    for pts in wanted:
        entry = index.entry(pts)
        if seeking and entry > decoder.position + SEEK_GAP:
            seeking = _seek_to(decoder, index, entry, work)
            last = None
        while True:
            frame = decoder.next_frame()
            shown = None if frame is None else frame.pts
            if frame is None or shown is None or shown > pts or (last is not None and shown <= last):
                raise FrameMissed
            last = shown
            if shown == pts:
                yield frame
                break


def _seek_to(decoder: Decoder, index: FrameIndex, entry: int, work: Work) -> bool:
    """Bring the decoder to packet `entry` or to a keyframe before it; whether seeking further is worth it.

    Containers differ in which of a keyframe's two times they look for, and some land after it: then the next one is
    tried. A container that lands behind what was decoded already would be read again and again: it is not asked a
    second time.

    Raises:
        FrameMissed: no seek landed at or before `entry`.
    """
    resume = decoder.position
    key = index.packets[entry]
    for offset in (key.pts, key.dts):
        packet = None if offset is None else decoder.seek(offset)
        landed = None if packet is None or packet.pts is None else index.key_at.get(packet.pts)
        if landed is not None and landed <= entry:
            work.seeks += 1
            decoder.position = landed - 1
            return landed > resume
    raise FrameMissed


def decode_all(opened: Opened, work: Work, tick: Callable[[], None]) -> Iterator[VideoFrame]:
    """Every frame that decodes, from the first packet of a clip that has just been opened."""
    decoder = Decoder(opened, work, tick)
    while (frame := decoder.next_frame()) is not None:
        yield frame
