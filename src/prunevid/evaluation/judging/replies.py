# SPDX-License-Identifier: Apache-2.0
"""Reading the score out of what a judge said."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

LOWEST, HIGHEST = 0, 5


@dataclass(frozen=True)
class Reading:
    """What a reply says.

    Attributes:
        score: from 0 to 5; None where none could be read.
        reason: why not, in a few words; None where it could.
        strict: the reply is a Python dictionary and nothing else, as the judge was asked for and as the published
            code demands; False where this module read more kindly than that.
    """

    score: float | None
    reason: str | None = None
    strict: bool = False


def read_reply(text: str) -> Reading:
    """The score in a judge's reply.

    A Python dictionary alone is read as the published code reads it. Beyond that, JSON, text around the dictionary
    (also a code fence), quotation marks that are doubled as in the original's example, and a score in quotation marks
    are read too, with `strict` False. Nothing is ever evaluated as a program.

    Args:
        text: the reply, whole.
    """
    if not text.strip():
        return Reading(None, "empty reply")
    whole = _python(text)
    if isinstance(whole, dict):
        return _of_dictionary(whole, strict=True)
    readings = [_of_dictionary(found, strict=False) for found in _dictionaries(text)]
    if not readings:
        return Reading(None, "no dictionary")
    return next((reading for reading in readings if reading.reason is None), readings[-1])


def _dictionaries(text: str) -> list[dict[Any, Any]]:
    """The JSON document that a text is, and every dictionary without another inside that stands in it."""
    parts = re.findall(r"\{[^{}]*\}", text.replace("''", "'"))
    found = [_json(text), *(_python(part) or _json(part) for part in parts)]
    return [value for value in found if isinstance(value, dict)]


def _python(text: str) -> Any:
    """A Python literal; None where the text is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _json(text: str) -> Any:
    """A JSON document; None where the text is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_dictionary(found: dict[Any, Any], *, strict: bool) -> Reading:
    if "score" not in found:
        return Reading(None, "no score in the dictionary")
    value = found["score"]
    if isinstance(value, str):
        strict = False
        try:
            value = float(value)
        except ValueError:
            return Reading(None, "score is no number")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Reading(None, "score is no number")
    if not LOWEST <= value <= HIGHEST:
        return Reading(None, "score out of range")
    return Reading(float(value), None, strict)
