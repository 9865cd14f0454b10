# SPDX-License-Identifier: Apache-2.0
"""What `prunevid eval prepare` reads: the hub's tables (parquet) and JSON files, found in a folder or given by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prunevid.errors import InputError, MissingDependencyError, one_line
from prunevid.evaluation.annotations import Row, read_rows
from prunevid.evaluation.places import walk

_DEPTH = 8  # folders down; a cache of the hub has its snapshots four below


def find_files(source: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The files that `wanted` takes: `source` itself, or those in a folder, hidden ones left out.

    Raises:
        InputError: there is nothing at `source`.
    """
    if source.is_file():
        return [source] if wanted(source) else []
    if not source.is_dir():
        raise InputError(f"There is nothing at {source}; give the file or folder that was downloaded.")
    return [path for path in walk(source, _DEPTH) if not path.name.startswith(".") and wanted(path)]


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a hub's table."""
    return path.suffix.lower() == ".parquet"


def read_source(path: Path) -> list[Row]:
    """The rows of a table or of a JSON list.

    Raises:
        InputError: it can't be read, or holds no rows.
        MissingDependencyError: it is a table and pyarrow is not installed.
    """
    return _read_table(path) if is_table(path) else read_rows(path)


def _read_table(path: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("Reading parquet needs pyarrow; install it with prunevid[eval].") from error
    try:
        found = parquet.ParquetFile(path).read().to_pylist()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}); check the file.") from error
    except pyarrow.ArrowException as error:
        said = one_line(error)
        raise InputError(f"{path} is not a whole parquet file ({said}); download it again.") from error
    if not found:
        raise InputError(f"{path} holds no rows; download it again.")
    return [Row(path, number, fields) for number, fields in enumerate(found, start=1)]
