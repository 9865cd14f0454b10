# SPDX-License-Identifier: Apache-2.0
"""The note that `prunevid eval prepare` leaves beside the annotation files it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid.errors import InputError
from prunevid.evaluation.annotations import read_json

NOTE = "prepared.json"


def read_note(folder: Path) -> dict[str, Any] | None:
    """What was done to make the files of a folder; None where nothing is noted.

    Raises:
        InputError: the note can't be read.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    note = read_json(path)
    if not isinstance(note, dict):
        raise InputError(f"{path} is not the note of `prunevid eval prepare`; remove it or prepare the files again.")
    return note


def letters_kept(folder: Path) -> bool:
    """Whether candidates were told to keep the "A. " before them.

    Raises:
        InputError: the note can't be read.
    """
    return (read_note(folder) or {}).get("strip_letters") is False
