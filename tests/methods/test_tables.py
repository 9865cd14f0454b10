# SPDX-License-Identifier: Apache-2.0
"""The guide's tables and examples are what the code does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import prunevid
from engine.families import FAMILIES, build, make_inputs
from engine.matrix import prompts_of
from engine.tiny import generate
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


# ---- the guide's method of your own --------------------------------------------------------------------------------


@pytest.fixture
def loudest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's example, installed as a package with the guide's entry point."""
    text = GUIDE.read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Loudest" in block)
    header, point = re.search(r"```toml\n(.*?)\n(.*?)\n```", text, re.DOTALL).groups()
    assert header == '[project.entry-points."prunevid.methods"]'
    module = re.search(r'"(\w+):', point).group(1)
    (tmp_path / f"{module}.py").write_text(code)
    info = tmp_path / "example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prunevid.methods]\n" + point.replace('"', "") + "\n")
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    monkeypatch.syspath_prepend(str(tmp_path))
    methods._load_plugins.cache_clear()
    yield
    sys.modules.pop(module, None)
    methods._load_plugins.cache_clear()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "internvl"])
@pytest.mark.parametrize(("name", "options", "share"), [
    ("loudest", {}, 0.25), ("loudest", {"keep": 0.1}, 0.1), ("loudest", {"retention_ratio": 0.3}, 0.3),
    ("loudest|fastv", {"retention_ratio": 0.1}, 0.1),
])  # fmt: skip
def test_the_guides_method_runs(loudest: None, family: str, name: str, options: dict[str, Any], share: float) -> None:
    model = build(family)
    prompts = prompts_of(family, ["one", "other", "text"])
    with prunevid.attach(model, name, **FAMILIES[family].attach, **options) as pruning:
        generate(model, make_inputs(*prompts), 2)
    for row, maps in zip(pruning.stats, pruning.maps):
        cells = sum(item.layout.cells for item in maps)
        wanted = round(share * cells) if "retention_ratio" in options else int(share * cells)
        assert row["stage2"]["compressed_tokens"] == wanted + row["stage1"]["original_tokens"] - cells
        for item in maps:
            kept = set(item.destination.tolist()) - {-1}
            assert len(kept) == wanted
            if name == "loudest":  # it drops nothing
                assert item.destination.ge(0).all()
