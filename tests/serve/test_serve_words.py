# SPDX-License-Identifier: Apache-2.0
"""What the page says about a reply."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunevid.answers import Answer, ClipInfo
from prunevid.qa import VideoQA
from prunevid.serve import words
from prunevid.serve.engine import Reply

EVIL = "<script>alert(\"x\")</script><img src=x onerror='y'>&amp;"
STATS = {
    "stage1": {"original_tokens": 40},
    "total": {"retained_ratio": 0.25, "flops_ratio": 0.053},
    "stage3": {"original_bytes": 4096, "compressed_bytes": 1024},
    "milliseconds": {"decode_video": 12.4, "vision": 3.0, "merge": 0.1, "prefill": 2.0, "decode": 1.0, "other": 99.0},
}


@pytest.fixture(scope="module")
def clip(qa: VideoQA, clip_file: Path) -> Any:
    return qa.load_clip(clip_file, max_frames=4)


def reply_of(clip: Any, text: str = "yes", method: str = "prunevid", stats: dict[str, Any] | None = None) -> Reply:
    stats = STATS if stats is None else stats
    answer = Answer(text, stats, "why?", ClipInfo.of(clip))
    return Reply(text, "stop", answer, clip, method, 60, 30, 40, 10, 1)


def texts(html: str) -> list[str]:
    """What is between the tags."""
    return [part for part in re.split(r"<[^>]*>", html) if part.strip()]


@pytest.mark.parametrize(
    "made",
    [
        lambda clip: words.talk([(EVIL, EVIL)]),
        lambda clip: words.note(EVIL),
        lambda clip: words.note(EVIL, "error"),
        lambda clip: words.table([(EVIL, reply_of(clip, EVIL)), (EVIL, EVIL)]),
        lambda clip: words.figures(reply_of(clip, EVIL, method=EVIL)),
        lambda clip: words.picture({"light": b"png"}, EVIL),
    ],
    ids=["talk", "note", "error", "table", "figures", "picture"],
)
def test_nothing_that_was_said_is_markup(clip: Any, made: Any) -> None:
    html = made(clip)
    assert "<script" not in html and "<img src=x" not in html and "onerror='" not in html
    assert "&lt;script&gt;" in html and "&amp;amp;" in html


def test_figures_tell_tokens_cost_cache_and_time(clip: Any) -> None:
    said = texts(words.figures(reply_of(clip)))
    assert said[:2] == ["10 of 40", "visual tokens (25%) kept by prunevid, of 4 frames"]
    assert said[2].startswith("5.3%") and said[4:6] == ["1 KiB", "of KV cache instead of 4 KiB"]
    assert said[6] == "18 ms" and said[7] == "reading the clip 12, vision tower 3, prompt 2, answer 1"


@pytest.mark.parametrize(
    ("method", "stats", "said"),
    [
        ("none", STATS, ["40", "visual tokens and nothing pruned, of 4 frames", "1 KiB"]),
        ("fastv", {}, ["10 of 40", "visual tokens (25%) kept by fastv, of 4 frames"]),
        ("fastv", {"stage3": {"original_bytes": 3 << 20, "compressed_bytes": 3 << 20}}, ["3.0 MiB", "of KV cache"]),
    ],
)
def test_figures_leave_out_what_is_not_known(clip: Any, method: str, stats: dict[str, Any], said: list[str]) -> None:
    found = texts(words.figures(reply_of(clip, method=method, stats=stats)))
    assert [part for part in found if part in said] == said
    assert not any("FLOPs" in part for part in found)


@pytest.mark.parametrize(("kept", "share"), [(40, "100%"), (10, "25%"), (4, "10%"), (1, "2.5%"), (0, "0.0%")])
def test_shares(clip: Any, kept: int, share: str) -> None:
    assert words.share(replace(reply_of(clip), visual_tokens_kept=kept)) == share


def test_a_table_has_a_row_for_each_side(clip: Any) -> None:
    html = words.table([("prunevid", reply_of(clip)), ("evs", "It can't run here.")])
    rows = [texts(row) for row in re.findall(r"<tr>.*?</tr>", html)]
    assert rows[1:] == [["prunevid", "yes", "10 of 40 (25%)", "5.3%", "3 ms"], ["evs", "It can&#x27;t run here."]]
    assert "pv-error" in html


def test_a_picture_is_part_of_the_page() -> None:
    html = words.picture({"light": b"one", "dark": b"two"}, "frames")
    found = re.findall(r'class="pv-picture pv-(\w+)".*?base64,([^"]*)"', html)
    assert [(theme, base64.b64decode(data)) for theme, data in found] == [("light", b"one"), ("dark", b"two")]


def test_an_answer_that_has_not_begun_is_dots() -> None:
    assert texts(words.talk([("why?", "")])) == ["why?", "&hellip;"] and words.talk([]) == "" == words.note("")
