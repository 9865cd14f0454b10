# SPDX-License-Identifier: Apache-2.0
"""The table of a clip's frames, read from its packets without decoding any.

Reading the packets costs one pass over the file and nothing else; it gives the exact presentation time of every
frame, also where the rate varies, the number of frames where the header has none, and the keyframes from which each
frame can be decoded.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from prunevid.errors import InputError
from prunevid.video.opening import Opened, require_av

# These store the order of decoding in place of times: with B-frames the times are guesses.
_ORDER_ONLY = frozenset({"avi"})


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet, in the order of decoding: presentation and decoding time in ticks, and whether decoding can begin
    here.
    """

    pts: int | None
    dts: int | None
    key: bool


@dataclass(frozen=True)
class FrameIndex:
    """What the packets tell about a clip.

    Attributes:
        packets: all packets of the stream, in the order of decoding.
        pts: presentation times of the frames in ticks, ascending; empty where the packets' times can't be relied on.
        where: position in `packets` of the frame shown at a tick.
        time_base: seconds a tick.
        last_ticks: how long the last frame is shown, in ticks; 0 if unknown.
    """

    packets: tuple[Packet, ...]
    pts: tuple[int, ...]
    where: dict[int, int]
    time_base: Fraction
    last_ticks: int

    @property
    def timed(self) -> bool:
        """Whether frames can be found by their presentation times."""
        return bool(self.pts)

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """Positions of the keyframes in `packets`, ascending."""
        return tuple(number for number, packet in enumerate(self.packets) if packet.key)

    @cached_property
    def key_at(self) -> dict[int, int]:
        """Position in `packets` of the keyframe with a given presentation time."""
        pairs = ((self.packets[number].pts, number) for number in reversed(self.keys))
        return {pts: number for pts, number in pairs if pts is not None}

    def entry(self, pts: int) -> int:
        """The last packet (in order of decoding) from which the frame shown at `pts` can be decoded.

        That is a keyframe neither decoded nor shown after it: in an open group of pictures a frame may be decoded
        after a keyframe that is shown later, and then still needs the keyframe before that one.
        """
        position = bisect.bisect_right(self.keys, self.where[pts]) - 1
        while position > 0 and not self._shown_by(self.keys[position], pts):
            position -= 1
        return self.keys[position] if position >= 0 else 0

    def _shown_by(self, key: int, pts: int) -> bool:
        shown = self.packets[key].pts
        return shown is not None and shown <= pts


def read_index(opened: Opened, tick: Callable[[], None]) -> FrameIndex:
    """Read all packets of the stream once; `tick` is called for each.

    Raises:
        InputError: the stream holds no frame.
    """
    av = require_av()
    stream = opened.stream
    packets: list[Packet] = []
    shown: list[tuple[int | None, int]] = []
    last_ticks = 0
    try:
        for packet in opened.packets():
            if not packet.size:  # the flush at the end, or a frame that was dropped when the clip was made
                continue
            if packet.is_corrupt:
                opened.note("a packet is incomplete")
            if not packet.is_discard:
                shown.append((packet.pts, len(packets)))
                last_ticks = packet.duration or last_ticks
            packets.append(Packet(packet.pts, packet.dts, packet.is_keyframe))
            tick()
    except av.error.FFmpegError:
        opened.note("it could not be read to its end")
    if not packets:
        raise InputError(f"{opened.name} has a video stream without a single frame; check how the file was made.")
    time_base = stream.time_base or Fraction(1, 1000)
    pts, where = _order(opened, shown)
    index = FrameIndex(tuple(packets), pts, where, time_base, last_ticks)
    _check_complete(opened, index)
    return index


def _order(opened: Opened, shown: list[tuple[int | None, int]]) -> tuple[tuple[int, ...], dict[int, int]]:
    """Ascending presentation times and their packets; nothing where a time is missing, doubled or only guessed."""
    where = {pts: number for pts, number in shown if pts is not None}
    guessed = opened.container.format.name in _ORDER_ONLY and opened.stream.codec_context.has_b_frames
    if guessed or len(where) != len(shown):
        return (), {}
    return tuple(sorted(where)), where


def _check_complete(opened: Opened, index: FrameIndex) -> None:
    """Note where the header promises clearly more than the file holds."""
    stream = opened.stream
    # Elsewhere the header's count includes frames that were dropped when the clip was made.
    held, promised = len(index.packets), stream.frames if "mp4" in opened.container.format.name else 0
    if promised and held < 0.9 * promised:
        opened.note(f"it holds {held} of {promised} frames")
    elif index.timed and not promised:
        ticks: float | None = stream.duration
        if ticks is None and opened.container.duration and not opened.container.streams.audio:
            ticks = opened.container.duration / 1_000_000 / float(index.time_base)
        length = index.pts[-1] - index.pts[0] + index.last_ticks
        base = float(index.time_base)
        if ticks and length < 0.9 * ticks - 0.5 / base:
            opened.note(f"it holds {length * base:.1f} of {ticks * base:.1f} s")


def steady_gap(pts: tuple[int, ...]) -> int:
    """The most common distance of neighbouring frames in ticks (the shortest of several); 0 for fewer than two
    frames.
    """
    counts: dict[int, int] = {}
    for before, after in pairwise(pts):
        counts[after - before] = counts.get(after - before, 0) + 1
    return min(counts, key=lambda gap: (-counts[gap], gap)) if counts else 0
