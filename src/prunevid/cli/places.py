# SPDX-License-Identifier: Apache-2.0
"""Files that a command is told to write: refused before anything is computed, and named when they are there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer

from prunevid.errors import ConfigError, InputError

_ENDINGS = {"--out": (".html", ".htm"), "--png": (".png",), "--mp4": (".mp4",), "--gif": (".gif",)}


def places(given: Mapping[str, Path | None], clip: Path) -> dict[str, Path]:
    """Where to write, by option; what can't be written is refused before a model is loaded.

    Raises:
        ConfigError: nothing is to be written, two files are one, or an ending is wrong.
        InputError: a place can't be written, or is the clip itself.
    """
    found = {option: path for option, path in given.items() if path is not None}
    if not found:
        raise ConfigError(f"There is nothing to write; name a file, such as --out report.html ({', '.join(given)}).")
    for option, path in found.items():
        if path.is_dir():
            raise InputError(f"{option} is the folder {str(path)!r}; name a file in it.")
        if path.suffix.lower() not in _ENDINGS[option]:
            raise ConfigError(f"{option} is {str(path)!r}, but must end in {_ENDINGS[option][0]}.")
        if path.resolve() == clip.resolve():
            raise InputError(f"{option} is the clip {str(path)!r} itself; choose another name.")
        _writable(option, path)
    if len({path.resolve() for path in found.values()}) < len(found):
        raise ConfigError(f"Two of {', '.join(found)} name the same file; give each its own.")
    return found


def _writable(option: str, path: Path) -> None:
    """Raises:
    InputError: the file can't be written or made.
    """
    folder = path.resolve().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{option} is {str(path)!r}, but {str(folder)!r} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{option} is {str(path)!r}, but the folder {str(folder)!r} can't be written.")


def tell_written(files: Iterable[Path]) -> None:
    """Says on stderr what was written."""
    for path in files:
        typer.echo(f"Wrote {path}", err=True)
