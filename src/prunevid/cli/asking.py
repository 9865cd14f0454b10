# SPDX-License-Identifier: Apache-2.0
"""The prompt loop of `prunevid ask CLIP`: a question a line about a clip that is held open."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from prunevid.errors import InputError

if TYPE_CHECKING:
    from prunevid.opened import OpenVideo
    from prunevid.qa import Answer

_PROMPT = "? "
_END = "/quit"


def questions() -> Iterator[str]:
    """The lines of the standard input, asked for where it is a terminal; an empty line or /quit ends them."""
    for line in _typed() if sys.stdin.isatty() else sys.stdin:
        text = line.strip()
        if text in ("", _END):
            return
        yield text


def loop(video: OpenVideo, ask: Callable[[str, list[tuple[str, str]]], Answer], show: Callable[[Answer], None]) -> int:
    """Answers questions until there are no more; one that can't be asked is told and left out.

    Args:
        video: where they are asked, for the first line on a terminal.
        ask: answers a question that follows the turns so far.
        show: prints an answer.

    Returns:
        How many questions could not be asked.
    """
    if sys.stdin.isatty():
        facts = f"{len(video.clip)} frames, {video.bytes / 2**20:.1f} MiB held"
        typer.echo(f"{video.clip.source}: {facts}. A question a line; an empty line or {_END} ends.", err=True)
    turns: list[tuple[str, str]] = []
    refused = 0
    for question in questions():
        try:
            answer = ask(question, turns)
        except InputError as error:
            typer.echo(f"prunevid: {error}", err=True)
            refused += 1
            continue
        turns.append((question, answer.text))
        show(answer)
        sys.stdout.flush()  # a program that asks through a pipe waits for it
    return refused


def _typed() -> Iterator[str]:
    """Lines that somebody types."""
    with suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited, and earlier ones called back
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            typer.echo()
            return
