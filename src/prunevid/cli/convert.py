# SPDX-License-Identifier: Apache-2.0
"""`prunevid convert`: from a published checkpoint to a folder that `VideoQA.from_pretrained` loads.

One sub-command a family; each is a function here that calls the family's converter.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

app = typer.Typer(
    name="convert",
    help="Convert a published checkpoint to a folder that transformers loads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def writing(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """A `progress` callback of a converter that tells how much is written."""

    def told(done: int, total: int) -> None:
        tell(f"Writing: {done / 2**30:.1f} of {total / 2**30:.1f} GiB")

    return told
