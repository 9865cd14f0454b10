# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium without a window: `make test-page`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunevid.qa import VideoQA
from serve.made import Running

pytest.importorskip("gradio", reason="gradio is not installed (make test-page)")
pytest.importorskip("selenium", reason="selenium is not installed (make test-page)")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("there is no chromium with its chromedriver (Debian: chromium-driver)", allow_module_level=True)

from serve.browser import Page, started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clip_file: Path) -> Path:
    """The folder of clips, with one clip and one file that is none."""
    found = tmp_path_factory.mktemp("clips")
    shutil.copy(clip_file, found / "here.mp4")
    (found / "broken.mp4").write_bytes(b"this is no video")
    return found


@pytest.fixture(scope="module")
def server(qa: VideoQA, folder: Path) -> Iterator[Running]:
    from prunevid.serve.page import mount

    running = Running(qa, mount, allowed_folder=folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = started(tmp_path_factory.mktemp("profile"))
    yield running
    running.quit()


@pytest.fixture
def page(driver: Any, server: Running) -> Page:
    return Page(driver, server.address)


def test_upload_ask_see_and_ask_again(page: Page, server: Running, clip_file: Path) -> None:
    page.upload(clip_file)
    page.wait("pv-status", "The clip is here")
    page.ask("is there a square?")
    page.wait("pv-status", "Done.")
    assert page.text("pv-talk").split("\n")[0] == "is there a square?"
    assert page.answers()[-1] in ("yes", "no")
    assert "visual tokens" in page.text("pv-words") and "prunevid kept" in page.text("pv-words")
    assert page.picture_size() > (1000, 300)
    left = [path for path in server.store.folder.rglob("*") if path.is_file()]
    assert left == []  # the upload was removed, and nothing else is left behind

    page.ask("how many objects are there?")  # about the clip that is kept
    page.until(lambda: len(page.answers()) == 2 and "Done." in page.text("pv-status"))
    assert page.answers()[-1]
    assert page.foreign() == []


def test_several_methods_beside_each_other(page: Page) -> None:
    page.fill("pv-path", "here.mp4")
    page.choose("pv-against", "none (unpruned)")
    page.choose("pv-against", "fastv")
    page.ask("is there a square?")
    page.wait("pv-status", "Done.")
    rows = page.rows()
    assert [row.split()[0] for row in rows] == ["Method", "prunevid", "unpruned", "fastv"]
    assert "(100%)" in rows[2] and "(100%)" not in rows[1]
    assert page.picture_size() > (1000, 200)


@pytest.mark.parametrize(
    ("path", "frames", "question", "said"),
    [
        ("", "", "is there a square?", "There is no clip yet"),
        ("../secret.mp4", "", "is there a square?", "not inside the allowed folder"),
        ("broken.mp4", "", "is there a square?", "the clip"),
        ("here.mp4", "1000", "is there a square?", "max_frames is 1000"),
        ("here.mp4", "", "", "is empty"),
    ],
)
def test_errors_are_shown_in_a_sentence(
    page: Page, folder: Path, path: str, frames: str, question: str, said: str
) -> None:
    page.fill("pv-path", path)
    page.fill("pv-frames", frames)
    page.ask(question)
    page.wait("pv-status", said)
    assert page.error() and str(folder) not in page.text("pv-status")


def test_the_key_opens_the_page(driver: Any, qa: VideoQA) -> None:
    from prunevid.serve.page import mount

    running = Running(qa, mount, api_key="the key")
    try:
        assert Page(driver, running.address.replace("//", "//me:the%20key@")).text("pv-status")
    finally:
        driver.get("about:blank")
        running.stop()
