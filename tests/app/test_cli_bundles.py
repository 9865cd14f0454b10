# SPDX-License-Identifier: Apache-2.0
"""Parameters of commands that are dataclasses: Typer sees their fields, the command gets them whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from prunevid.cli.bundles import Loading, Reading, bundled


@dataclass(frozen=True)
class Narrow(Reading):
    """With another type of one field, and one more."""

    max_frames: Annotated[str | None, typer.Option()] = None  # type: ignore[assignment]
    budget: Annotated[int, typer.Option()] = 5


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def run(told: list[Any]) -> Any:
    @bundled
    def command(
        clip: Annotated[str, typer.Argument()],
        *,
        loud: Annotated[bool, typer.Option("--loud")] = False,
        loading: Loading,
        reading: Narrow,
    ) -> None:
        """What it does."""
        told.append((clip, loud, loading, reading))

    app = typer.Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_fields_are_options_and_come_as_one(run: Any, told: list[Any]) -> None:
    assert run("a.mp4").exit_code == 0
    assert run("a.mp4", "--loud", "--dtype", "float16", "--max-frames", "auto", "--budget", "7").exit_code == 0
    assert told == [
        ("a.mp4", False, Loading(), Narrow()),
        ("a.mp4", True, Loading(dtype="float16"), Narrow(max_frames="auto", budget=7)),
    ]
    assert told[1][3].arguments() == Reading().arguments() | {"max_frames": "auto"}


def test_help_is_that_of_the_command(run: Any) -> None:
    text = run("--help").output
    assert all(name in text for name in ("What it does.", "--loud", "--budget", "--dtype"))
    assert "--loading" not in text and "--reading" not in text


@pytest.mark.parametrize("arguments", [("--fps", "many"), ("--loading", "x")])
def test_wrong_values_are_typers_to_refuse(run: Any, told: list[Any], arguments: tuple[str, str]) -> None:
    assert run("a.mp4", *arguments).exit_code == 2 and not told
