# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of this folder anew: `python docs/images/make.py` (report.png needs Chromium)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from prunevid import VideoQA, builtin, view

HERE = Path(__file__).parent
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
]


def main() -> int:
    """Draws the embedded model's answer about one clip; returns the exit status."""
    qa, clip = VideoQA.builtin(preset="diverse"), builtin.make_clip(3)
    with tempfile.TemporaryDirectory() as folder:
        path = builtin.write_clip(clip, Path(folder) / "clip.mp4")
        plain, pruned = qa.compare(path, clip.questions[0].text)
        pruned.show(HERE / "kept_tokens.png", columns=12)
        page = Path(folder) / "report.html"
        text = view.report(pruned, unpruned=plain, facts=view.facts_of(qa, "the embedded model"))
        page.write_text(text, encoding="utf-8")
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            print("report.png was not made: there is no Chromium on the PATH.", file=sys.stderr)
            return 1
        places = [f"--user-data-dir={folder}/profile", f"--screenshot={HERE / 'report.png'}", "--window-size=1200,1780"]
        subprocess.run([browser, *FLAGS, *places, page.as_uri()], check=True, capture_output=True, timeout=120)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
