# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium without a window: `make test-page` and `make test-all`.

They are left out where it is missing; `make test-page` sets PRUNEVID_TEST_PAGE, and then its absence is an error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prunevid.qa import VideoQA
from serve.made import PATIENCE, Running, SlowQA, eventually

try:
    from prunevid.serve.page import mount
    from serve.browser import Page, missing, started

    LACKING = missing()
except ImportError as error:
    LACKING = f"{error.name} is not installed (pip install '.[dev]')"
if LACKING and os.environ.get("PRUNEVID_TEST_PAGE"):
    raise RuntimeError(f"The page can't be tested: {LACKING}.")
if LACKING:
    pytest.skip(LACKING, allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clip_file: Path) -> Path:
    """The folder of clips, with one clip and one file that is none."""
    found = tmp_path_factory.mktemp("clips")
    shutil.copy(clip_file, found / "here.mp4")
    (found / "broken.mp4").write_bytes(b"this is no video")
    return found


@pytest.fixture(autouse=True)
def _own_place() -> Iterator[None]:
    """Each server sets where Gradio keeps its files; the one before gets its place back."""
    kept = os.environ.get("GRADIO_TEMP_DIR")
    yield
    if kept is not None:
        os.environ["GRADIO_TEMP_DIR"] = kept


@pytest.fixture(scope="module")
def server(qa: VideoQA, folder: Path) -> Iterator[Running]:
    running = Running(qa, mount, allowed_folder=folder, max_upload_bytes=200_000)
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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_upload_ask_see_and_ask_again(driver: Any, server: Running, clip_file: Path, theme: str) -> None:
    page = Page(driver, server.address, theme)
    page.upload(clip_file)
    page.wait("pv-status", "The clip is here")
    page.ask("is there a pink triangle?")
    page.answered(1)
    assert page.text("pv-talk").split("\n")[0] == "is there a pink triangle?"
    assert page.answers() == ["yes"]
    assert "kept by prunevid" in page.text("pv-words") and "KV cache" in page.text("pv-words")
    seen, width, height = page.picture()
    assert seen == theme and width == 1000 and height > 300
    assert [path for path in server.store.folder.rglob("*") if path.is_file()] == []  # the upload was removed

    page.ask("how many scenes are there?")  # about the clip that is kept
    page.answered(2)
    assert page.answers() == ["yes", "two"] and page.overflow() == 0
    assert page.foreign() == [] and page.complaints() == []


def test_several_methods_beside_each_other(page: Page) -> None:
    page.fill("pv-path", "here.mp4")
    page.choose("pv-against", "none (unpruned)")
    page.choose("pv-against", "fastv")
    page.choose("pv-budget", "share of the tokens")
    page.until(lambda: page.value("pv-amount") == "0.2")
    page.fill("pv-amount", "0.25")
    page.ask("is there a square?")
    page.answered(1)
    assert [line.split(":")[0] for line in page.answers()[0].split("\n")] == ["prunevid", "unpruned", "fastv"]
    rows = page.rows()
    assert [row.split()[0] for row in rows] == ["Method", "prunevid", "unpruned", "fastv"]
    assert "(25%)" in rows[1] and "(100%)" in rows[2] and "(25%)" in rows[3]
    assert page.picture()[2] > 300


@pytest.mark.parametrize(
    ("path", "frames", "question", "said"),
    [
        ("", "16", "is there a square?", "There is no clip yet; upload one, or name one in the folder of clips."),
        ("../secret.mp4", "16", "is there a square?", "The path of the clip is not inside the allowed folder."),
        ("broken.mp4", "16", "is there a square?", "the clip"),
        ("here.mp4", "1000", "is there a square?", "max_frames is 1000, but must be from 1 to 32 on this server."),
        ("here.mp4", "16", "", "is empty"),
    ],
)
def test_errors_are_shown_in_a_sentence(
    page: Page, folder: Path, path: str, frames: str, question: str, said: str
) -> None:
    page.fill("pv-path", path)
    page.fill("pv-frames", frames)
    page.ask(question)
    page.until(lambda: said in page.error())
    assert str(folder) not in page.error() and page.error().count(".") <= 2 + path.count(".")


def test_an_upload_that_is_too_large_or_has_no_place(
    driver: Any, page: Page, server: Running, tmp_path: Path, clip_file: Path
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(b"0" * 200_001)
    page.upload(large)
    page.until(lambda: "exceed the maximum allowed size" in page.shown())
    page = Page(driver, server.address)
    places = [server.engine.reserve("127.0.0.1") for _ in range(server.engine.settings.max_per_client)]
    page.upload(clip_file)
    page.until(lambda: "You have 4 requests open, the most for a client; wait for one of them." in page.shown())
    for place in places:
        place.release()


def test_a_path_and_an_upload_take_each_others_place(page: Page, clip_file: Path) -> None:
    page.upload(clip_file)
    page.wait("pv-status", "The clip is here")
    page.fill("pv-path", "here.mp4")
    page.until(lambda: not page.holds_upload())
    page.upload(clip_file)
    page.until(lambda: page.value("pv-path") == "" and page.holds_upload())
    page.ask("is there a square?")
    page.answered(1)


@pytest.mark.parametrize("size", [(1480, 1000), (900, 1000), (500, 900)])
def test_nothing_is_cut_off(driver: Any, server: Running, size: tuple[int, int]) -> None:
    before = driver.get_window_size()
    driver.set_window_size(*size)
    try:
        page = Page(driver, server.address)
        assert page.overflow() == 0
        page.fill("pv-path", "here.mp4")
        page.ask("is there a square?")
        page.answered(1)
        assert page.overflow() == 0
    finally:
        driver.set_window_size(before["width"], before["height"])


@pytest.mark.parametrize(
    "evil",
    [
        '<img src=x onerror="document.title=1"><b>bold</b>',
        "<script>document.title=1</script>",
        "${document.title=1} `${document.title=2}`",  # Gradio fills in its parts by templates of both kinds
        "{{value}} {{{value}}} {{#each this}}x{{/each}}",
    ],
)
def test_markup_in_a_question_is_text(driver: Any, page: Page, evil: str) -> None:
    page.fill("pv-path", "here.mp4")
    page.ask(evil)
    page.answered(1)
    assert page.text("pv-talk").split("\n")[0] == evil and driver.title == "prunevid"


# ---- with answers that take as long as the test likes ------------------------------------------------------------


@pytest.fixture
def slow(qa: VideoQA, folder: Path) -> Iterator[tuple[SlowQA, Running]]:
    model = SlowQA(qa)
    running = Running(model, mount, allowed_folder=folder)
    yield model, running
    running.stop()


def _is_heard(page: Page, text: str) -> bool:
    return page.answers() == [text]


def test_an_answer_streams_and_is_stopped(driver: Any, slow: tuple[SlowQA, Running]) -> None:
    model, running = slow
    page = Page(driver, running.address)
    page.fill("pv-path", "here.mp4")
    page.ask("what happens?")
    page.wait("pv-status", "Reading the clip")
    for heard in ("a0", "a0 a1", "a0 a1 a2"):
        model.steps.release()
        page.until(partial(_is_heard, page, heard))
    page.press("pv-stop")
    page.wait("pv-status", "Stopped.")
    assert model.stopped.acquire(timeout=PATIENCE) and model.made == [0, 1, 2]
    assert page.answers() == ["a0 a1 a2"]
    model.steps.release(1000)
    page.ask("and then?")
    page.answered(2)


def test_closing_the_page_stops_its_answer(driver: Any, slow: tuple[SlowQA, Running]) -> None:
    model, running = slow
    page = Page(driver, running.address)
    page.fill("pv-path", "here.mp4")
    page.ask("what happens?")
    model.steps.release()
    page.until(lambda: page.answers() == ["a0"])
    page.leave()
    assert model.stopped.acquire(timeout=PATIENCE) and model.made == [0]
    eventually(lambda: running.engine.worker.places == 0)


def test_two_people_take_turns_and_see_their_own(driver: Any, slow: tuple[SlowQA, Running]) -> None:
    model, running = slow
    page = Page(driver, running.address)
    page.fill("pv-path", "here.mp4")
    page.ask("the first question")
    model.steps.release()
    page.until(lambda: page.answers() == ["a0"])
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        other = Page(driver, running.address)
        other.fill("pv-path", "here.mp4")
        other.ask("the second question")
        other.wait("pv-status", "Waiting: 1 question before yours.")
        model.steps.release(1000)
        other.answered(1)
        assert "the first question" not in other.text("pv-talk")
        driver.close()
    finally:
        driver.switch_to.window(first)
    page.answered(1)
    assert "the second question" not in page.text("pv-talk")


def test_the_key_opens_the_page(driver: Any, qa: VideoQA) -> None:
    running = Running(qa, mount, api_key="the key")
    try:
        driver.get(running.address)
        assert "Give a clip" not in driver.page_source
        driver.get(running.address.replace("//", "//me:the%20key@"))  # as if they were typed into the browser's window
        page = Page(driver, running.address)
        assert page.text("pv-status").startswith("Give a clip and a question")
        page.leave()
    finally:
        running.stop()
