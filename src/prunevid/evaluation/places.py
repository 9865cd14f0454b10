# SPDX-License-Identifier: Apache-2.0
"""Where the benchmarks' files lie on this machine, and a sentence about what lies elsewhere.

The layout is the one of the published runs:

    DATAS/MVBench/{json,video}    DATAS/Video-MME/{json,data}    DATAS/ego_schema/{json,videos}
    DATAS/VCGBench/{Zero_Shot_QA,Videos}
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prunevid.errors import InputError

ROOTS = {"mvbench": "MVBench", "videomme": "Video-MME", "egoschema": "ego_schema", "vcgbench": "VCGBench"}
TITLES = {"mvbench": "MVBench", "videomme": "Video-MME", "egoschema": "EgoSchema", "vcgbench": "VideoChatGPT-Bench"}
_DEPTH = 3  # folders below the expected one in which a misplaced annotation file is looked for


def benchmark_root(benchmark: str, data: Path) -> Path:
    """The benchmark's folder.

    Args:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        data: the folder that holds it.

    Raises:
        InputError: there is none; says where one of that name lies instead, if near.
    """
    if benchmark not in ROOTS:
        raise InputError(f"There is no benchmark {benchmark!r}; the benchmarks are {', '.join(ROOTS)}.")
    name = ROOTS[benchmark]
    if not data.is_dir():
        raise InputError(f"There is no folder {data}; give the folder that holds {name}/.")
    root = data / name
    if not root.is_dir():
        raise InputError(f"There is no folder {root}, where {TITLES[benchmark]} is looked for; {_hint(data, name)}.")
    return root


def _hint(data: Path, name: str) -> str:
    """What to do about a benchmark's folder that is not in `data`."""
    if _same(data.resolve().name, name):
        return f"{data} seems to be that folder itself: give the one above it"
    for entry in _folders(data):
        if _same(entry.name, name):
            return f"rename {entry} to {name}"
    for entry in _folders(data):
        if (entry / name).is_dir():
            return f"it lies one level deeper, in {entry}: give that one, or move {name} up"
    if (data.resolve().parent / name).is_dir():
        return f"it lies one level higher, in {data.resolve().parent}: give that one"
    return f"put it there, or give the folder that holds {name}/"


def _same(one: str, other: str) -> bool:
    """Whether two names differ in case and punctuation only."""
    return _letters(one) == _letters(other)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []


def annotation_file(root: Path, places: Sequence[str], advice: str = "") -> Path:
    """A benchmark's annotation file: the first of several places where there is one.

    Args:
        root: the benchmark's folder.
        places: paths below it, the usual one first; they end in the same name.
        advice: how to come by the file.

    Raises:
        InputError: there is none; says where a file of that name lies instead, if below `root`.
    """
    for place in places:
        if (root / place).is_file():
            return root / place
    wanted = root / places[0]
    found = next((path for path in walk(root, _DEPTH) if path.name == wanted.name), None)
    if found is not None:
        where = f"a file of that name lies at {found}: move it there"
    elif not wanted.parent.is_dir():
        above = next((p for p in [root.parent / wanted.name, root / wanted.name] if p.is_file()), None)
        where = f"the folder {wanted.parent} is missing, too" if above is None else f"it lies at {above}: move it there"
    else:
        where = f"none of that name lies in {root}"
    raise InputError(f"There is no annotation file {wanted}; {where}{'; ' + advice if advice else ''}.")


def walk(folder: Path, depth: int | None = None) -> Iterator[Path]:
    """Every file below a folder, nearer ones first, in the order of names; folders that can't be read are passed over.

    Links to folders are followed, each folder once.

    Args:
        depth: so many folders down, at most; None: all.
    """
    level, seen, done = [folder], set(), 0
    while level and (depth is None or done <= depth):
        below: list[Path] = []
        for place in level:
            real = os.path.realpath(place)
            if real in seen:
                continue
            seen.add(real)
            try:
                with os.scandir(place) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError:
                continue
            below += [place / entry.name for entry in entries if entry.is_dir()]
            yield from (place / entry.name for entry in entries if entry.is_file())
        level, done = below, done + 1
