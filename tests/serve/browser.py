# SPDX-License-Identifier: Apache-2.0
"""A Chromium without a window, and the page in it as people use it; for the tests and for docs/images/make_page.py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

_PATIENCE = 20.0  # seconds after which something is stuck
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1480,1300", "--hide-scrollbars", "--force-color-profile=srgb"),
)


def started(profile: Path) -> Any:
    """A browser with an empty profile; it logs every request that it makes."""
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))


class Page:
    """The page, freshly opened."""

    def __init__(self, driver: Any, address: str) -> None:
        self._driver, self._address = driver, address
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get(address)
        self.until(lambda: bool(driver.find_elements(By.CSS_SELECTOR, "#pv-status .pv-note")))

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
        raise AssertionError(self._driver.find_element(By.TAG_NAME, "body").text)

    def text(self, place: str) -> str:
        return str(self._driver.find_element(By.ID, place).text)

    def wait(self, place: str, said: str) -> None:
        self.until(lambda: said in self.text(place))

    def _field(self, place: str) -> Any:
        return self._driver.find_element(By.CSS_SELECTOR, f"#{place} input, #{place} textarea")

    def fill(self, place: str, text: str) -> None:
        field = self._field(place)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)
        self._driver.execute_script("arguments[0].blur()", field)

    def choose(self, place: str, name: str) -> None:
        field = self._field(place)
        field.click()
        field.send_keys(name)
        option = f"//*[@role='option'][contains(normalize-space(.), '{name}')]"
        self.until(lambda: bool(self._driver.find_elements(By.XPATH, option)))
        self._driver.find_elements(By.XPATH, option)[0].click()
        field.send_keys(Keys.ESCAPE)
        self._driver.execute_script("arguments[0].blur()", field)

    def upload(self, path: Path) -> None:
        self._driver.find_element(By.CSS_SELECTOR, "#pv-upload input[type=file]").send_keys(str(path))

    def press(self, place: str) -> None:
        self._driver.find_element(By.CSS_SELECTOR, f"#{place}, #{place} button").click()

    def ask(self, question: str) -> None:
        self.fill("pv-text", question)
        self.press("pv-ask")

    def answers(self) -> list[str]:
        return [str(part.text) for part in self._driver.find_elements(By.CSS_SELECTOR, "#pv-talk .pv-answer")]

    def rows(self) -> list[str]:
        return [str(row.text) for row in self._driver.find_elements(By.CSS_SELECTOR, "#pv-words tr")]

    def error(self) -> bool:
        return bool(self._driver.find_elements(By.CSS_SELECTOR, "#pv-status .pv-error"))

    def picture_size(self) -> tuple[int, int]:
        """Pixels of the picture of what was kept, as the browser decoded it."""
        self.until(lambda: bool(self._driver.find_elements(By.CSS_SELECTOR, "#pv-drawn img")))
        image = self._driver.find_element(By.CSS_SELECTOR, "#pv-drawn img")
        self.until(lambda: bool(self._driver.execute_script("return arguments[0].complete", image)))
        size = self._driver.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image)
        return int(size[0]), int(size[1])

    def foreign(self) -> list[str]:
        """What the page asked of any other host since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        urls = [message["params"]["request"]["url"] for message in messages if "request" in message["params"]]
        own = (self._address, "data:", "blob:", "about:", "chrome:")
        if not any(url.startswith(self._address) for url in urls):
            raise AssertionError("The browser logged no request at all.")
        return [url for url in urls if not url.startswith(own)]
