# SPDX-License-Identifier: Apache-2.0
"""The guide's tables and examples are what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import prunevid
from engine.families import FAMILIES, build
from prunevid import methods
from prunevid.engine.fits import refusal
from prunevid.engine.table import _OPTIONS
from prunevid.engine.table import table as family_table
from prunevid.errors import PruneVidError
from prunevid.methods import Method
from prunevid.models import Adapter, adapter_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = DOCS / "methods.md"


@pytest.mark.parametrize(("mark", "table"), [("table", methods.table), ("families", family_table)])
def test_the_tables_are_current(mark: str, table: Any) -> None:
    held = GUIDE.read_text().split(f"<!-- {mark} -->\n")[1].split(f"\n<!-- end of {mark} -->")[0]
    assert held == table(), f"put the output of prunevid's {table.__module__}.table() between the marks"


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_its_page(name: str) -> None:
    row = next(line for line in methods.table().splitlines() if line.startswith(f"| [`{name}`]("))
    page = DOCS / re.search(r"\((methods/[a-z0-9]+\.md)\)", row).group(1)
    text = page.read_text()
    assert f"`{name}`" in text or name == "prunevid"
    own = [field for field in vars(methods.get(name)) if field not in vars(Method())]
    missing = [option for option in own if f"`{option}`" not in text and option != "config"]
    assert not missing, f"{page.name} does not say what these options are"


def test_links_of_the_pages() -> None:
    for page in [GUIDE, *(DOCS / "methods").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def rows() -> dict[str, tuple[Method, list[str]]]:
    """Every row of the table of families: its method and cells."""
    lines = family_table().split("\n\n")[0].splitlines()[2:]
    chosen = [methods.get(name) for name in methods.names()]
    chosen += [methods.get(name, **options) for _, name, options in _OPTIONS]
    return {cells[0]: (method, cells[1:]) for method, cells in zip(chosen, map(split, lines))}


def split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_the_table_says_happens(family: str) -> None:
    """Every method is attached to a tiny model of the family, or refused in the table's words."""
    header, reasons = family_table().splitlines()[0], family_table().split("\n\n")[1]
    column, model = split(header).index(f"`{family}`") - 1, build(family)
    for label, (method, cells) in rows().items():
        said = cells[column]
        try:
            with prunevid.attach(model, method, **FAMILIES[family].attach) as pruning:
                layers = pruning.method.selection_layers
        except PruneVidError as error:
            assert said.startswith("no"), f"{label} is refused: {error}"
            assert f"{said[4:-1]}. {error}" in reasons
        else:
            assert said.startswith("yes"), f"{label} runs"
            limit = pruning.adapter.first_selection_layer(pruning.base.config)
            assert all(layer >= limit for layer in layers)
            assert said == "yes" or (layers and pruning.adapter.limits_layers)


def test_reasons_of_an_adapter_that_says_little() -> None:
    class Bare(Adapter):
        model_types = frozenset({"bare"})

        def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list:
            return []

    bare = Bare()
    for name in methods.names():
        error = refusal(methods.get(name), bare)
        assert (error is not None) == (methods.get(name).tower is not None)
    assert "the adapter Bare does not say where the vision tower is" in str(refusal(methods.get("visionzip"), bare))
    images = methods.get("prunevid", prune_images=True)
    assert "the adapter Bare describes no images" in str(refusal(images, bare))
    assert refusal(methods.get("uniform", positions="renumber"), bare) is None
    assert refusal(methods.get("fastv", positions="renumber"), adapter_of("qwen2_vl")) is None  # it merges nothing
