# SPDX-License-Identifier: Apache-2.0
"""Subtitles of Video-MME: reading SRT files, and which lines go with the frames that a model sees.

The published PruneVid numbers are without subtitles. Two ways with them: `lines_at_times` for the protocol "paper"
(whatever is on screen when a sampled frame is), `lines_at_frames` for "lmms" (as lmms-eval picks them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunevid.errors import InputError

MISSING = "No subtitles available"
"""What lmms-eval says in place of the subtitles of a video that has none."""

FOLDERS = ("subtitle", "subtitles")
_TIMING = re.compile(r"^\s*((?:\d+:)?\d+:\d+[,.]\d+)\s*-->\s*((?:\d+:)?\d+:\d+[,.]\d+)(?:\s.*)?$")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")
_LMMS_TEXT = re.compile(r'<font color="white" size=".72c">(.*?)</font>')


@dataclass(frozen=True)
class Subtitle:
    """What is on screen from `start` up to `end` seconds: `text` with its markup, its lines parted by line ends."""

    start: float
    end: float
    text: str

    @property
    def plain(self) -> str:
        """The text in one line, without markup."""
        return " ".join(_TAG.sub("", self.text).split())


def find_subtitles(video: Path) -> Path | None:
    """The SRT file of a clip: beside it, in a folder `subtitle` (the hub's) beside it, or beside the clip's folder."""
    name = f"{video.stem}.srt"
    homes = [video.parent, *(base / folder for base in (video.parent.parent, video.parent) for folder in FOLDERS)]
    return next((home / name for home in homes if (home / name).is_file()), None)


def read_srt(path: Path) -> tuple[Subtitle, ...]:
    """The subtitles of a file, in its order; an empty file has none.

    Only the lines with times are relied on: numbers and blank lines between the entries may be missing, seconds may
    have a point, hours may be left out, and lines may end in any way. What is not UTF-8 is read as Windows-1252.

    Raises:
        InputError: the file can't be read, or holds text but no line with times.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"The subtitles {path} can't be read ({error.strerror}); check the file.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    lines = re.split(r"\r\n|\r|\n", text)
    marks = [(place, found) for place, line in enumerate(lines) if (found := _TIMING.match(line))]
    if not marks and text.strip():
        raise InputError(f"{path} holds no line like 00:00:01,000 --> 00:00:02,000; it is no SRT file.")
    subtitles = []
    for number, (place, found) in enumerate(marks):
        end = marks[number + 1][0] if number + 1 < len(marks) else len(lines)
        body = _body(lines[place + 1 : end], number + 1 < len(marks))
        subtitles.append(Subtitle(_seconds(found[1]), _seconds(found[2]), body))
    return tuple(subtitles)


def _body(lines: Sequence[str], followed: bool) -> str:
    """The text of an entry, without blank lines and without the number of the entry that follows."""
    kept = [line.strip() for line in lines if line.strip()]
    if followed and kept and kept[-1].isdecimal():
        kept.pop()
    return "\n".join(kept)


def _seconds(stamp: str) -> float:
    """Seconds of 01:02:03,500 or 02:03.500, counted in whole units so that the result is the nearest number."""
    clock, _, fraction = stamp.replace(".", ",").partition(",")
    whole = 0
    for part in clock.split(":"):
        whole = 60 * whole + int(part)
    return float(f"{whole}.{fraction}")


def lines_at_times(subtitles: Iterable[Subtitle], times: Iterable[float]) -> list[str]:
    """The protocol "paper": what is on screen when a sampled frame is shown, start <= time < end.

    Args:
        times: of the sampled frames, seconds from the clip's beginning.

    Returns:
        Lines without markup in the order of their beginnings, each text once, no empty ones.
    """
    moments = list(times)
    shown = [entry for entry in subtitles if any(entry.start <= moment < entry.end for moment in moments)]
    texts = (entry.plain for entry in sorted(shown, key=lambda entry: entry.start))
    return [text for text in dict.fromkeys(texts) if text]


def lines_at_frames(subtitles: Sequence[Subtitle], indices: Iterable[int], fps: float) -> list[str]:
    """The protocol "lmms": entries whose frames [int(start * fps), int(end * fps)) hold a sampled frame.

    Args:
        indices: of the sampled frames in the clip.
        fps: frames a second of the clip.

    Returns:
        The first text in the font tag of Video-MME's files of each such entry, in the order of the file; entries
            without such a tag are left out.

    Raises:
        InputError: fps is not above 0.
    """
    if not fps > 0:
        raise InputError(f"fps is {fps}, but must be above 0.")
    frames = list(indices)
    lines = []
    for entry in subtitles:
        first, end = int(entry.start * fps), int(entry.end * fps)
        if any(first <= frame < end for frame in frames):
            lines += _LMMS_TEXT.findall(entry.text.replace("\n", " "))[:1]
    return lines


def paper_text(video: Path, times: Iterable[float]) -> str | None:
    """The subtitles that go before the question in the protocol "paper", a line each.

    Args:
        video: the clip; `find_subtitles` says where its subtitles may lie.
        times: of the sampled frames, seconds.

    Returns:
        None where the clip has no subtitles or none is on screen with a sampled frame: the question is asked without.

    Raises:
        InputError: the file is damaged.
    """
    path = find_subtitles(video)
    return ("\n".join(lines_at_times(read_srt(path), times)) or None) if path else None


def lmms_text(video: Path, indices: Iterable[int], fps: float) -> str:
    """The subtitles as lmms-eval lists them, a line each; `MISSING` where the clip has no file of them.

    Args:
        video: the clip; `find_subtitles` says where its subtitles may lie.
        indices: of the sampled frames; lmms-eval takes those of linspace(0, total - 1, 32).
        fps: frames a second of the clip.

    Raises:
        InputError: the file is damaged, or fps is not above 0.
    """
    path = find_subtitles(video)
    return "\n".join(lines_at_frames(read_srt(path), indices, fps)) if path else MISSING
