# SPDX-License-Identifier: Apache-2.0
"""The files of a table: text in three forms, and the plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunevid.errors import InputError
from prunevid.evaluation.table_text import render
from prunevid.evaluation.tables import Section
from prunevid.files import replace_files

FILES = {"table.md": "markdown", "table.csv": "csv", "table.json": "json"}


def write_tables(
    sections: Sequence[Section], folder: str | Path, *, per_task: bool = False, plot: bool = True
) -> list[Path]:
    """Writes table.md, table.csv, table.json and, for each benchmark, its plots; replaces what is there.

    Returns:
        The files, the text first.

    Raises:
        InputError: a file can't be written.
        MissingDependencyError: there is to be a plot and matplotlib is not installed; the text is written by then.
    """
    folder = Path(folder)
    try:
        texts = {folder / name: render(sections, form, per_task=per_task) for name, form in FILES.items()}
        replace_files({path: text.encode() for path, text in texts.items()})
        found = list(texts)
        if plot:
            from prunevid.evaluation.table_plots import save_plots

            found += save_plots(sections, folder)
    except OSError as error:
        raise InputError(f"The table can't be written to {folder} ({error.strerror or error}).") from error
    return found
