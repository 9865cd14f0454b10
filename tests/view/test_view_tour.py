# SPDX-License-Identifier: Apache-2.0
"""The tour notebook: run from top to bottom in a kernel without network, in an empty folder."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from prunevid.builtin.model import WEIGHTS

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

TOUR = Path(__file__).resolve().parents[2] / "notebooks" / "tour.ipynb"
LARGEST = 300_000  # bytes of the file in the repository

# What a cell must say to show a picture, and how large that must be at least.
PICTURES = {
    "Image.fromarray(": (400, 60),
    "pruned.show()": (900, 300),
    "style.figure(": (400, 200),
    "view.compare_sheet(": (900, 300),
    "pruning.figure(": (900, 300),
    "view.attention_sheet(": (900, 300),
}

# Runs in the kernel before the first cell: whoever asks for another machine gets an error.
OFFLINE = """
import sys

def _offline(event, details):
    if event in ("socket.connect", "socket.sendto") and isinstance(details[1], tuple):
        host = details[1][0]
    elif event == "socket.getaddrinfo":
        host = details[0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        raise ConnectionError(f"no network here: {host}")

sys.addaudithook(_offline)
"""
PROBE = "import socket\nsocket.create_connection(('192.0.2.1', 9), timeout=5)"


class Ran(NamedTuple):
    """The notebook with its outputs, the folders that it ran in, and what came of asking for another machine."""

    cells: list[Any]
    here: Path
    temporary: Path
    probe: Any


@pytest.fixture(scope="module")
def tour() -> Any:
    """The notebook as it is in the repository."""
    return nbformat.read(TOUR, as_version=nbformat.NO_CONVERT)


@contextmanager
def executed(tour: Any) -> Iterator[Ran]:
    """The notebook executed, with a last cell that asks for another machine; a kernel and its settings of our own."""
    with tempfile.TemporaryDirectory(prefix="tour-") as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        kernel, startup = root / "data" / "kernels" / "tour", root / "ipython" / "profile_default" / "startup"
        here, temporary = root / "here", root / "tmp"
        for folder in (kernel, startup, here, temporary):
            folder.mkdir(parents=True)
        (startup / "offline.py").write_text(OFFLINE, encoding="utf-8")
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        described = {"argv": command, "display_name": "tour", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(described), encoding="utf-8")
        patch.setenv("JUPYTER_DATA_DIR", str(root / "data"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(root / "run"))
        patch.setenv("JUPYTER_CONFIG_DIR", str(root / "config"))
        patch.setenv("IPYTHONDIR", str(root / "ipython"))
        patch.setenv("TMPDIR", str(temporary))
        patch.delenv("MPLBACKEND", raising=False)
        whole = copy.deepcopy(tour)
        whole.cells.append(nbformat.v4.new_code_cell(PROBE, metadata={"tags": ["raises-exception"]}))
        client = nbclient.NotebookClient(
            whole, timeout=120, kernel_name="tour", resources={"metadata": {"path": str(here)}}
        )
        client.execute()  # raises at the first cell that fails
        *cells, probe = whole.cells
        yield Ran(cells, here, temporary, probe)


def test_the_file_is_valid_small_and_without_outputs(tour: Any) -> None:
    """Pictures of all cells would be megabytes, and the weights' next training would leave them behind."""
    nbformat.validate(tour, relax_add_props=False)
    assert tour.nbformat == 4 and tour.nbformat_minor >= 5
    assert TOUR.stat().st_size < LARGEST
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert len(code) >= 7 and len(tour.cells) <= 16
    assert all(not cell.outputs and cell.execution_count is None and not cell.metadata for cell in code)


def test_the_file_names_no_place_of_a_machine(tour: Any) -> None:
    paths = re.compile(r"""(?<![\w.:/<~-])/[\w.-]+/|(?<!\w)[A-Za-z]:\\|~/|file:""")
    assert (
        paths.search("open('/data/clip.mp4')") and paths.search(r"C:\clips") and not paths.search("](../docs/view.md)")
    )
    text = "\n".join([cell.source for cell in tour.cells] + [json.dumps(tour.metadata)])
    assert paths.findall(text) == []


def test_links_lead_to_files(tour: Any) -> None:
    text = "\n".join(cell.source for cell in tour.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 5
    assert [link for link in links if not (TOUR.parent / link).is_file()] == []


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")
def test_the_tour_runs(tour: Any) -> None:
    """One test, so that the notebook runs once however the tests are spread over processes."""
    with executed(tour) as ran:
        code = [cell for cell in ran.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert [output for cell in code for output in cell.outputs if output.output_type == "error"] == []
        for needle, least in PICTURES.items():
            _check_picture(_with(code, needle), least)
        _check_report(_with(code, "view.report("))
        (failed,) = [output for output in ran.probe.outputs if output.output_type == "error"]
        assert failed.ename == "ConnectionError" and "no network here" in failed.evalue  # the guard was in force
        assert list(ran.here.iterdir()) == []
        assert [path for path in ran.temporary.rglob("*") if path.suffix in (".mp4", ".html")] == []


def _with(code: list[Any], needle: str) -> Any:
    """The cell that says so."""
    cells = [cell for cell in code if needle in cell.source]
    assert len(cells) == 1, f"{len(cells)} cells with {needle}"
    return cells[0]


def _check_picture(cell: Any, least: tuple[int, int]) -> None:
    (data,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert picture.width >= least[0] and picture.height >= least[1], cell.id
    assert len(picture.getcolors(picture.width * picture.height) or ()) > 20, cell.id  # not an empty page


def _check_report(cell: Any) -> None:
    (page,) = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
    assert "<iframe srcdoc=" in page and page.count("data:image/") >= 2 and "&lt;/html&gt;" in page
