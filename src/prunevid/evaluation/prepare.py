# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval prepare`: the annotation files of a benchmark, made from what was downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.errors import InputError
from prunevid.evaluation import egoschema, mvbench, vcgbench, videomme
from prunevid.evaluation.converting import (
    Contents,
    convert_egoschema,
    convert_mvbench,
    convert_vcgbench,
    convert_videomme,
)
from prunevid.evaluation.items import BENCHMARKS
from prunevid.evaluation.places import ROOTS
from prunevid.evaluation.prepared import NOTE, read_note
from prunevid.files import write_files

FOLDERS = {"mvbench": "json", "videomme": "json", "egoschema": "json", "vcgbench": vcgbench.ANNOTATION_FOLDERS[0]}
"""Where a benchmark's annotation files lie, below its folder."""


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        folder: of the annotation files.
        rows: entries of each file, by its name.
        absent: files of the benchmark that the source did not hold.
    """

    folder: Path
    rows: Mapping[str, int]
    absent: tuple[str, ...]


def prepare(
    benchmark: str, source: str | Path, data: str | Path, *, strip_letters: bool = True, force: bool = False
) -> Prepared:
    """Writes a benchmark's annotation files and, beside them, a note of what was done (prepared.json).

    Everything is read and checked before anything is written.

    Args:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        source: a downloaded file or folder: the hub's parquet (Video-MME, EgoSchema, VideoChatGPT-Bench), or the JSON
            files of the authors (EgoSchema's questions.json, VideoChatGPT-Bench, MVBench).
        data: the folder that holds the benchmarks' folders; the benchmark's own is made in it.
        strip_letters: take "A. ", "B. ", ... off the candidates of Video-MME and EgoSchema.
        force: replace files that are there.

    Raises:
        InputError: nothing fit at `source`, a malformed row, no folder `data`, a file that is there already.
        MissingDependencyError: parquet without pyarrow.
        PruneVidError: a file can't be written.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"There is no benchmark {benchmark!r}; the benchmarks are {', '.join(BENCHMARKS)}.")
    root = Path(data) / ROOTS[benchmark]
    if not Path(data).is_dir():
        raise InputError(f"There is no folder {data}; make it first, or give the one that holds {ROOTS[benchmark]}/.")
    contents = _convert(benchmark, Path(source), strip_letters)
    folder = root / FOLDERS[benchmark]
    there = [name for name in contents if (folder / name).exists()]
    if there and not force:
        raise InputError(f"{folder / there[0]} is there already; --force replaces it.")
    rows = {name: len(content) for name, content in contents.items()}
    written = {folder / name: _bytes(content) for name, content in contents.items()}
    write_files(written | {folder / NOTE: _bytes(_note(benchmark, folder, rows, Path(source), strip_letters))})
    return Prepared(folder, rows, tuple(name for name in _names(benchmark) if not (folder / name).exists()))


def _convert(benchmark: str, source: Path, strip_letters: bool) -> Contents:
    lettered: dict[str, Callable[[Path, bool], Contents]] = {
        "videomme": convert_videomme,
        "egoschema": convert_egoschema,
    }
    if benchmark in lettered:
        return lettered[benchmark](source, strip_letters)
    return (convert_mvbench if benchmark == "mvbench" else convert_vcgbench)(source)


def _names(benchmark: str) -> list[str]:
    """Every annotation file that a benchmark can have."""
    return {
        "mvbench": [f"{task.file}.json" for task in mvbench.TASKS],
        "videomme": [f"{duration}.json" for duration in videomme.TASKS.values()],
        "egoschema": [egoschema.QUESTIONS, egoschema.ANSWERS],
        "vcgbench": [f"{part}_qa.json" for part in vcgbench.TASKS],
    }[benchmark]


def _note(benchmark: str, folder: Path, rows: Mapping[str, int], source: Path, strip_letters: bool) -> dict[str, Any]:
    """What prepared.json says; files that were prepared before and are not written now stay noted."""
    note: dict[str, Any] = {"benchmark": benchmark}
    if benchmark in ("videomme", "egoschema"):
        note["strip_letters"] = strip_letters
    before = (read_note(folder) or {}).get("files")
    noted = before if isinstance(before, dict) else {}
    note["files"] = noted | {name: {"rows": count, "from": source.name} for name, count in rows.items()}
    return note


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"
