# SPDX-License-Identifier: Apache-2.0
"""What a clip may cost before it is refused: the size of a frame and the length of what is read."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Guards against a clip that would eat all memory or run for hours; raise them where a clip is meant to be so
    large.

    Attributes:
        max_pixels: width x height of one frame, checked before that frame is decoded.
        max_seconds: length in seconds of the part of the clip that is sampled (all of it, without `start` and `end`).
        formats: names of FFmpeg's demuxers that may open a file; None: all. A playlist is such a format, too, and
            names other files: leave those out where clips come from strangers.
        pictures: names of Pillow's formats that may open a picture; None: all. Some run other programs (EPS).

    Raises:
        InputError: a limit is not a number above 0.
    """

    max_pixels: int = 4096 * 4096
    max_seconds: float = 4 * 3600.0
    formats: tuple[str, ...] | None = None
    pictures: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise InputError(f"Limits.{name} is {value!r}, but must be a number above 0.")

    def check_pixels(self, width: int, height: int, what: str) -> None:
        """Refuse a frame of `width` x `height` pixels that is above the limit; `what` names it in the message.

        Raises:
            InputError: the frame is larger than `max_pixels`.
        """
        if width * height > self.max_pixels:
            raise InputError(
                f"{what} has frames of {width} x {height} = {width * height} pixels, above the limit of "
                f"{self.max_pixels}; scale it down or raise Limits(max_pixels=...)."
            )

    def check_seconds(self, seconds: float, what: str) -> None:
        """Refuse a part of a clip that is longer than the limit; `what` names the clip in the message.

        Raises:
            InputError: `seconds` is above `max_seconds`.
        """
        if not seconds <= self.max_seconds:
            raise InputError(
                f"{what} has {seconds:.1f} s to sample from, above the limit of {self.max_seconds:g} s; "
                "give start and end, or raise Limits(max_seconds=...)."
            )
