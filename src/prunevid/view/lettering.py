# SPDX-License-Identifier: Apache-2.0
"""Letters in pictures: the font, and lines that fit a width."""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from pathlib import Path
from typing import Any


@functools.cache
def font(size: int, bold: bool = False) -> Any:
    """A Pillow font: DejaVu Sans where matplotlib, which brings it, is installed, else the one inside Pillow."""
    from PIL import ImageFont

    file = _dejavu(bold)
    if file is not None:
        return ImageFont.truetype(str(file), size)
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow 10.0, or one without FreeType
        return ImageFont.load_default()


@functools.cache
def _dejavu(bold: bool) -> Path | None:
    try:
        found = importlib.util.find_spec("matplotlib")
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name
    return file if file.is_file() else None


def readable(text: str) -> str:
    """A text without line breaks; where Pillow's own font has to do, without accents and signs that it lacks."""
    line = " ".join(text.split())
    if _dejavu(False) is not None:
        return line
    plain = unicodedata.normalize("NFKD", line)
    return "".join(
        letter if ord(letter) < 127 or letter in "“”…" else "?"
        for letter in plain
        if letter.isprintable() and not unicodedata.combining(letter)
    )


def width_of(text: str, letters: Any) -> int:
    """Pixels that a line takes."""
    return round(letters.getlength(text))


def wrapped(text: str, letters: Any, width: int, most: int = 2) -> list[str]:
    """A text in lines of at most `width` pixels, `most` of them; what is cut off ends in three points."""
    lines: list[str] = []
    for word in readable(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, letters) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [_cut(line, letters, width) for line in lines]
    if len(lines) > most:
        lines = [*lines[: most - 1], _cut(lines[most - 1] + "…", letters, width)]
    return lines


def _cut(line: str, letters: Any, width: int) -> str:
    """A line that fits, with three points where letters are missing."""
    if width_of(line, letters) <= width:
        return line
    kept = line.rstrip("…")
    while kept and width_of(kept + "…", letters) > width:
        kept = kept[:-1]
    return kept + "…"
