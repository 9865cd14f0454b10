# SPDX-License-Identifier: Apache-2.0
"""The documentation's table of families is what the adapters say, and every row of it is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.families import FAMILIES
from models import tested
from prunevid import models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@pytest.mark.parametrize(("mark", "table"), [("table", models.table), ("tested", tested.table)])
def test_the_tables_are_current(mark: str, table: Callable[[], str]) -> None:
    held = PAGE.read_text().split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- end of {mark} -->")[0]
    assert held == table(), f"put what this prints between the marks: {table.__module__}.{table.__name__}()"


def test_every_family_runs_the_matrix() -> None:
    assert set(FAMILIES) == set(models.supported())


@pytest.mark.parametrize("model_type", models.supported())
def test_every_family_says_how_it_is_laid_out(model_type: str) -> None:
    rows = [row for row in models.table().splitlines() if row.startswith(f"| `{model_type}` |")]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(cells) == 5 and all(cells)


def test_an_unknown_type_names_its_nearest_family() -> None:
    model = type("Model", (), {"config": type("Config", (), {"model_type": "llava_onevision_2"})()})()
    with pytest.raises(models.UnsupportedModelError, match=r"nearest.*llava_onevision, and docs/models\.md"):
        models.adapter_for(model)
