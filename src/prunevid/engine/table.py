# SPDX-License-Identifier: Apache-2.0
"""Which method goes with which model family, as far as the family's adapter alone tells."""

from __future__ import annotations

from prunevid.engine.fits import refusal
from prunevid.methods import Method, get, names
from prunevid.models import Adapter, adapter_of, supported

_OPTIONS = (
    ("images: `prunevid` with `prune_images=True`", "prunevid", {"prune_images": True}),
    ('any that merges, with `positions="keep"`', "uniform", {"positions": "keep"}),
    ('any that merges, with `positions="renumber"`', "uniform", {"positions": "renumber"}),
)
"""Rows of the table besides the methods themselves: label, method, options."""


def table() -> str:
    """Methods and families in Markdown, and the reasons of what is refused (`docs/methods.md` holds it)."""
    families = supported()
    rows = [(f"`{name}`", get(name)) for name in names()]
    rows += [(label, get(name, **options)) for label, name, options in _OPTIONS]
    lines = ["| | " + " | ".join(f"`{family}`" for family in families) + " |", "|---" * (len(families) + 1) + "|"]
    notes: list[str] = []
    for label, method in rows:
        cells = [_cell(method, adapter_of(family), notes) for family in families]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))])


def _cell(method: Method, adapter: Adapter, notes: list[str]) -> str:
    """One cell; what is to be said of it is added to the notes."""
    error = refusal(method, adapter)
    if error is not None:
        return f"no ({_number(str(error), notes)})"
    if method.selection_layers and adapter.limits_layers:
        note = (
            "The first layers of this family add to the visual tokens; no choice is made before the last of them, and "
            "a default layer moves there."
        )
        return f"yes ({_number(note, notes)})"
    return "yes"


def _number(note: str, notes: list[str]) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1
