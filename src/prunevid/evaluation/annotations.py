# SPDX-License-Identifier: Apache-2.0
"""Annotation files, read strictly: what is wrong with one is said with its name, the row and the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.errors import InputError
from prunevid.evaluation.items import LETTERS


@dataclass(frozen=True)
class Row:
    """One entry of an annotation file.

    Attributes:
        path: the file.
        number: of the entry, counted from 1.
        fields: the entry.
    """

    path: Path
    number: int
    fields: Mapping[str, Any]

    def wrong(self, what: str) -> InputError:
        """The error that says what is wrong with this row: `what` goes on after "FILE, row 17: "."""
        return InputError(f"{self.path}, row {self.number}: {what}.")

    def get(self, name: str) -> Any:
        """A field that must be there.

        Raises:
            InputError: it is not.
        """
        if name not in self.fields:
            raise self.wrong(f"the field {name!r} is missing (there are {_few(list(self.fields))})")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A field that must hold text other than space.

        Raises:
            InputError: it does not.
        """
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"{name!r} is {_short(value)}, but must be a text")
        return value

    def optional_text(self, name: str) -> str | None:
        """A field that may be missing or null.

        Raises:
            InputError: it holds something else than text.
        """
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"{name!r} is {_short(value)}, but must be a text or null")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that must hold two texts or more, at most as many as there are letters.

        Raises:
            InputError: it does not.
        """
        value = self.get(name)
        if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
            raise self.wrong(f"{name!r} is {_short(value)}, but must be a list of 2 to {len(LETTERS)} texts")
        for place, entry in enumerate(value, start=1):
            if not isinstance(entry, str):
                raise self.wrong(f"entry {place} of {name!r} is {_short(entry)}, but must be a text")
        return tuple(value)

    def number_of(self, name: str) -> float:
        """A field that must hold a finite number.

        Raises:
            InputError: it does not.
        """
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.wrong(f"{name!r} is {_short(value)}, but must be a number")
        return float(value)

    def file_name(self, name: str) -> str:
        """A field that must hold a path below a folder, and none that leads out of it.

        Raises:
            InputError: it does not.
        """
        value = self.text(name).strip()
        if value.startswith(("/", "\\")) or ".." in value.replace("\\", "/").split("/") or "\0" in value:
            raise self.wrong(f"{name!r} is {_short(value)}, but must be a path below the folder of the videos")
        return value


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it can't be read, or is no JSON (which line and column).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); check the file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}); download it again.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}; download it again."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply for an annotation file; download it again.") from error


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that must hold a JSON list of objects.

    Raises:
        InputError: it holds something else; an empty list, too.
    """
    return rows_of(read_json(path), path)


def rows_of(found: Any, path: Path) -> list[Row]:
    """The same of a list that is read already; `path` is named in errors.

    Raises:
        InputError: see `read_rows`.
    """
    if not isinstance(found, list):
        raise InputError(f"{path} must hold a list of questions, but holds {_kind(found)}.")
    if not found:
        raise InputError(f"{path} holds no questions; download or prepare it again.")
    rows = []
    for number, fields in enumerate(found, start=1):
        if not isinstance(fields, dict):
            raise InputError(f"{path}, row {number}: must be an object with fields, but is {_short(fields)}.")
        rows.append(Row(path, number, fields))
    return rows


def right_place(candidates: Sequence[str], answer: str | None) -> int | None:
    """Place of the answer among the candidates, by exact equality; None where it is not among them.

    Where two candidates are equal to it, the last counts: the published protocol goes through all of them.
    """
    places = [place for place, candidate in enumerate(candidates) if candidate == answer]
    return places[-1] if places else None


def without_letters(candidates: Sequence[str]) -> tuple[str, ...]:
    """Candidates without "A. ", "B. ", ... before them, where every one carries its own letter; else as they are.

    The hub's tables of Video-MME and EgoSchema have such letters, the published protocol writes its own. That all must
    carry theirs keeps a candidate that is a person's initial ("A. Lincoln") whole.
    """
    bare = [re.sub(rf"^{LETTERS[place]}\.\s*", "", text) for place, text in enumerate(candidates)]
    return tuple(bare) if all(a != b for a, b in zip(bare, candidates, strict=True)) else tuple(candidates)


def _kind(value: Any) -> str:
    names = {dict: "an object", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _short(value: Any) -> str:
    """A value in a message: its first 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _few(names: Sequence[str]) -> str:
    """Names in a message: the first eight."""
    return ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "") if names else "none"
