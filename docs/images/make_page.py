# SPDX-License-Identifier: Apache-2.0
"""Makes page.png anew, the picture of the web page: `python docs/images/make_page.py` (needs Chromium)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from prunevid import VideoQA, builtin
from prunevid.serve.page import mount

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))  # where the page's browser is


def main() -> int:
    """Asks the embedded model two questions about one clip on the page; returns the exit status."""
    from serve.browser import Page, missing, started
    from serve.made import Running

    lacking = missing()
    if lacking:
        print(f"page.png was not made: {lacking}.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        clip = builtin.write_clip(builtin.make_clip(3), Path(folder) / "clip.mp4")
        server = Running(VideoQA.builtin(), mount, name="builtin")
        driver = started(Path(folder) / "profile", (1240, 1240))
        try:
            page = Page(driver, server.address)
            page.upload(clip)
            page.wait("pv-status", "The clip is here")
            page.ask("what shape is the object that flashes last?")
            page.answered(1)
            page.ask("is there a pink triangle?")
            page.answered(2)
            page.picture()
            page.save(HERE / "page.png")
        finally:
            driver.quit()
            server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
