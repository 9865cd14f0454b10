# SPDX-License-Identifier: Apache-2.0
"""A Chromium without a window, and the page in it as people use it; for the tests and for docs/images/make_page.py."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

_PATIENCE = 60.0  # seconds after which something is stuck
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--force-color-profile=srgb",
)


def missing() -> str | None:
    """What a machine lacks to run these tests, and the Debian package that has it; None where all is there."""
    if not any(shutil.which(name) for name in _NAMES):
        return "there is no Chromium on the PATH (Debian: apt-get install chromium chromium-driver)"
    if shutil.which("chromedriver") is None:
        return "there is no chromedriver on the PATH (Debian: apt-get install chromium-driver)"
    return None


def started(profile: Path, size: tuple[int, int] = (1480, 1300)) -> Any:
    """A browser with an empty profile in this folder; it logs every request that it makes.

    Args:
        profile: an empty folder.
        size: of the window, (width, height) in pixels.
    """
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.binary_location = next(filter(None, map(shutil.which, _NAMES)))
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


class Page:
    """The page, freshly opened.

    Args:
        driver: from `started`.
        address: of the server.
        theme: "light" or "dark".
    """

    def __init__(self, driver: Any, address: str, theme: str = "light") -> None:
        self._driver, self._address = driver, address
        driver.get("about:blank")
        for kind in ("performance", "browser"):
            driver.get_log(kind)
        driver.get(f"{address}/?__theme={theme}")
        last = ("#pv-status .pv-note", "#pv-against input", "#pv-frames input")  # the page comes in parts
        self.until(lambda: all(driver.find_elements(By.CSS_SELECTOR, place) for place in last))

    def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds.

        Raises:
            AssertionError: it never does; says what the page shows.
        """
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except StaleElementReferenceException:
                pass  # it was drawn anew meanwhile
            time.sleep(0.05)
        raise AssertionError(f"It never came to be; the page shows: {self.shown()}")

    def shown(self) -> str:
        """All text of the page."""
        return str(self._driver.find_element(By.TAG_NAME, "body").text)

    def text(self, place: str) -> str:
        return str(self._driver.find_element(By.ID, place).text)

    def wait(self, place: str, said: str) -> None:
        self.until(lambda: said in self.text(place))

    def _field(self, place: str) -> Any:
        return self._driver.find_element(By.CSS_SELECTOR, f"#{place} input, #{place} textarea")

    def value(self, place: str) -> str:
        return str(self._field(place).get_attribute("value"))

    def fill(self, place: str, text: str) -> None:
        field = self._field(place)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)
        self.until(lambda: self.value(place) == text)
        self._driver.execute_script("arguments[0].blur()", field)

    def choose(self, place: str, name: str) -> None:
        """Takes a choice of a list."""
        field = self._field(place)
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(name)
        option = f"//*[@role='option'][contains(normalize-space(.), '{name}')]"
        self.until(lambda: bool(self._driver.find_elements(By.XPATH, option)))
        self._driver.find_elements(By.XPATH, option)[0].click()
        field.send_keys(Keys.ESCAPE)
        self._driver.execute_script("arguments[0].blur()", field)
        self.until(lambda: name in self.text(place) or name in self.value(place))

    def upload(self, path: Path) -> None:
        self._driver.find_element(By.CSS_SELECTOR, "#pv-upload input[type=file]").send_keys(str(path))

    def holds_upload(self) -> bool:
        """Whether the field of the clip shows a file."""
        return not self._driver.find_elements(By.CSS_SELECTOR, "#pv-upload input[type=file]")

    def press(self, place: str) -> None:
        self._driver.find_element(By.CSS_SELECTOR, f"#{place}, #{place} button").click()

    def ask(self, question: str) -> None:
        self.fill("pv-text", question)
        self.press("pv-ask")

    def answered(self, count: int) -> None:
        """Waits until so many questions are answered, the last one to its end."""
        self.until(lambda: len(self.answers()) == count and self.text("pv-status").startswith("Done."))

    def answers(self) -> list[str]:
        return [str(part.text) for part in self._driver.find_elements(By.CSS_SELECTOR, "#pv-talk .pv-answer")]

    def rows(self) -> list[str]:
        return [str(row.text) for row in self._driver.find_elements(By.CSS_SELECTOR, "#pv-words tr")]

    def error(self) -> str:
        """The error that is shown; empty where there is none."""
        return " ".join(part.text for part in self._driver.find_elements(By.CSS_SELECTOR, "#pv-status .pv-error"))

    def picture(self) -> tuple[str, int, int]:
        """The theme of the one picture that can be seen, and the pixels that the browser decoded."""
        place = "#pv-drawn img"
        self.until(lambda: len([image for image in self._images(place) if image.is_displayed()]) == 1)
        image = next(image for image in self._images(place) if image.is_displayed())
        self.until(lambda: bool(self._driver.execute_script("return arguments[0].complete", image)))
        size = self._driver.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image)
        return image.get_attribute("class").rpartition("-")[2], int(size[0]), int(size[1])

    def _images(self, place: str) -> list[Any]:
        return list(self._driver.find_elements(By.CSS_SELECTOR, place))

    def overflow(self) -> int:
        """Pixels of the page that lie beyond the right edge of the window."""
        widths = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        whole, window = self._driver.execute_script(widths)
        return int(whole - window)

    def foreign(self) -> list[str]:
        """What the page asked of any other host since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        urls = [message["params"]["request"]["url"] for message in messages if "request" in message["params"]]
        own = (self._address + "/", "data:", "blob:", "about:", "chrome:")
        if not any(url.startswith(self._address) for url in urls):
            raise AssertionError("The browser logged no request at all.")
        return [url for url in urls if not url.startswith(own)]

    def complaints(self) -> list[str]:
        """Errors in the browser's console since the page was opened."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]

    def leave(self) -> None:
        self._driver.get("about:blank")

    def save(self, path: Path) -> None:
        """A picture of the window as PNG, down to where the page ends."""
        from PIL import Image

        ends = (
            "return Math.max(...[...document.querySelectorAll('button, [id^=pv-]')].map("
            "part => part.getBoundingClientRect().bottom))"
        )
        self._driver.execute_script("document.activeElement.blur()")
        end = round(self._driver.execute_script(ends)) + 24
        self._driver.save_screenshot(str(path))
        with Image.open(path) as image:
            whole = image.convert("RGB")
        whole.crop((0, 0, whole.width, min(end, whole.height))).save(path, optimize=True)
