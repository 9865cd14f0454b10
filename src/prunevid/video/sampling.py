# SPDX-License-Identifier: Apache-2.0
"""Which frames of a clip to take: pure arithmetic on presentation times, no files."""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunevid.errors import InputError

MODES = ("uniform", "fps")
Choose = Callable[[int, float], Sequence[int]]
"""From a clip's number of frames and its frames a second to the positions to take."""
DEFAULT_FPS = 1.0
_HIGHEST_FPS = 1e6  # takes every frame there can be; keeps the arithmetic finite
_TOLERANCE = 5e-4  # seconds; Matroska rounds presentation times to milliseconds


@dataclass(frozen=True)
class Request:
    """What the caller asked for, checked; see `prunevid.video.load_clip` for the fields.

    Raises:
        InputError: a value is of the wrong kind or out of range.
    """

    max_frames: int = 16
    sampling: str | Choose = "uniform"
    fps: float | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if callable(self.sampling):
            given = [name for name in ("fps", "start", "end") if getattr(self, name) is not None]
            if given:
                raise InputError(f"{given[0]} can't be given where sampling is a function, which takes its own frames.")
        elif self.sampling not in MODES:
            raise InputError(
                f"sampling is {self.sampling!r}, but must be one of {', '.join(map(repr, MODES))}, or a function."
            )
        try:
            count = operator.index(self.max_frames)
        except TypeError:
            count = 0
        if count < 1 or isinstance(self.max_frames, bool):
            raise InputError(f"max_frames is {self.max_frames!r}, but must be a whole number of at least 1.")
        if self.fps is not None:
            check_rate("fps", self.fps)
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and (not is_number(value) or value < 0):
                raise InputError(f"{name} is {value!r}, but must be a number of seconds of at least 0.")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise InputError(
                f"start is {self.start:g} s and end is {self.end:g} s, but the start must be before the end."
            )


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number (Python's or NumPy's), and no bool."""
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def check_rate(name: str, value: float) -> None:
    """Refuse a frame rate that is not a number above 0.

    Raises:
        InputError: naming `name` and `value`.
    """
    if not is_number(value) or value <= 0:
        raise InputError(f"{name} is {value!r}, but must be a number of frames a second above 0.")


@dataclass(frozen=True)
class Selection:
    """Which frames were chosen.

    Attributes:
        indices: positions in the order of presentation: ascending and each once, unless the caller chose them.
        span: seconds of the part that was sampled.
        sampled_fps: effective rate of the chosen frames, frames a second.
    """

    indices: tuple[int, ...]
    span: float
    sampled_fps: float


def thin(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0 ... count-1, spread evenly, without duplicates.

    The centre of equal segments: `floor((i + 0.5) * count / most)`; all of them where there are no more than `most`.
    """
    if count <= most:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * most) for i in range(most)]


def select(times: Sequence[float], duration: float, rate: float, request: Request, what: str) -> Selection:
    """Choose the frames that `request` asks for.

    Frames whose presentation time is in [start, end) are candidates (where none is, the one on screen at `start`).
    "uniform" takes the centres of `max_frames` equal segments of the candidates; "fps" takes the frame that is on
    screen at start, start + 1/fps, start + 2/fps, ..., and thins them in the same way to `max_frames`. No frame is
    taken twice: a clip with fewer frames than asked for gives those it has. A function says itself what to take.

    Args:
        times: ascending presentation times in seconds, from 0.
        duration: seconds of the whole clip.
        rate: frames a second of the clip.
        request: what to take.
        what: names the clip in messages.

    Raises:
        InputError: `start` is not before the clip's end, or a function chose frames that aren't there.
    """
    if callable(request.sampling):
        return _chosen(times, duration, rate, request.sampling, what)
    start = request.start or 0.0
    end = duration if request.end is None else min(request.end, duration)
    if start > 0 and start >= duration:
        raise InputError(f"start is {start:g} s, but {what} lasts {duration:.3f} s; give a start before its end.")
    slack = min(_TOLERANCE, 0.25 / rate)
    low = bisect.bisect_left(times, start - slack)
    high = bisect.bisect_left(times, end - slack)
    if request.start is None:
        low = 0
    if request.end is None or request.end >= duration:
        high = len(times)
    if low >= high:
        low = max(0, bisect.bisect_right(times, start + slack) - 1)
        high = low + 1
    edge = times[high] if high < len(times) else duration
    span = max(edge - times[low], 1e-6)
    if request.sampling == "uniform":
        chosen = [low + position for position in thin(high - low, request.max_frames)]
        return Selection(tuple(chosen), span, len(chosen) / span)
    fps = min(request.fps or DEFAULT_FPS, _HIGHEST_FPS)
    wanted = _on_screen(times, low, high, start, fps, slack)
    chosen = [wanted[position] for position in thin(len(wanted), request.max_frames)]
    spread = times[chosen[-1]] - times[chosen[0]]
    effective = (len(chosen) - 1) / spread if spread > 0 else 1 / span
    return Selection(tuple(chosen), span, effective)


def _chosen(times: Sequence[float], duration: float, rate: float, choose: Choose, what: str) -> Selection:
    """The frames that a function names, in its order."""
    indices = tuple(operator.index(number) for number in choose(len(times), rate))
    outside = [number for number in indices if not 0 <= number < len(times)]
    if not indices or outside:
        asked = f"frame {outside[0]}" if outside else "no frame"
        raise InputError(f"{what} has the frames 0 to {len(times) - 1}, but {asked} was asked for; choose among these.")
    low, high = min(indices), max(indices)
    spread = times[high] - times[low]
    span = max((times[high + 1] if high + 1 < len(times) else duration) - times[low], 1e-6)
    # What lies between the chosen frames, not what they cover: their distance is what positions are made of.
    effective = (len(indices) - 1) / spread if spread > 0 else len(indices) / span
    return Selection(indices, span, effective)


def _on_screen(times: Sequence[float], low: int, high: int, start: float, fps: float, slack: float) -> list[int]:
    """The frames on screen at start + k/fps up to frame `high`, each once.

    Steps from frame to frame, not from instant to instant: a rate of a million a second costs no more than the frames.
    """
    chosen: list[int] = []
    step = 0
    last = times[high - 1]
    while (instant := start + step / fps) <= last + slack or not chosen:
        index = min(max(low, bisect.bisect_right(times, instant + slack, low, high) - 1), high - 1)
        chosen.append(index)
        if index + 1 >= high:
            break
        # The first instant at which the next frame is on screen; a shorter step would find this frame again.
        step = max(step + 1, math.ceil((times[index + 1] - slack - start) * fps))
    return chosen
