# SPDX-License-Identifier: Apache-2.0
"""Subtitles: what is read of an SRT file, and which lines go with sampled frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import fixtures
from prunevid.errors import InputError
from prunevid.evaluation.subtitles import (
    MISSING,
    Subtitle,
    find_subtitles,
    lines_at_frames,
    lines_at_times,
    lmms_text,
    paper_text,
    read_srt,
)

USUAL = """1
00:00:01,000 --> 00:00:02,500
<font color="white" size=".72c">first</font>

2
00:01:02,003 --> 01:00:00,000
<font color="white" size=".72c">two</font>
lines

"""
READ = (
    Subtitle(1.0, 2.5, '<font color="white" size=".72c">first</font>'),
    Subtitle(62.003, 3600.0, '<font color="white" size=".72c">two</font>\nlines'),
)


@pytest.mark.parametrize(
    "text",
    [
        USUAL,
        USUAL.strip(),
        USUAL.replace("\n", "\r\n"),
        USUAL.replace("\n", "\r"),
        "\ufeff" + USUAL,
        USUAL.replace("\n\n", "\n"),
        USUAL.replace("\n\n", "\n\n\n \n"),
        USUAL.replace("1\n00:00", "00:00").replace("2\n00:01", "00:01"),
        USUAL.replace(",000", ".000").replace(",500", ".500").replace(",003", ".003"),
        USUAL.replace("02,500", "02,500 X1:10 X2:20 Y1:10 Y2:20"),
        USUAL.replace("00:00:01,000 --> 00:00:02,500", " 00:01,0-->0:00:02,5 "),
    ],
)
def test_untidy_files_read_like_tidy_ones(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(text.encode())
    assert read_srt(path) == READ


def test_other_encodings_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\ncafé\n".encode("cp1252"))
    assert read_srt(path)[0].text == "café"
    path.write_bytes(b"\n \n")
    assert read_srt(path) == ()
    path.write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\n\n2\n00:00:03,000 --> 00:00:04,000\n7\n")
    assert [entry.text for entry in read_srt(path)] == ["", "7"]


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"1\n00:00:01 to 00:00:02\nhello\n"])
def test_what_is_no_srt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.srt holds no line like"):
        read_srt(path)
    with pytest.raises(InputError, match="can't be read"):
        read_srt(tmp_path)


def test_markup_is_left_out_of_plain_text() -> None:
    text = r'{\an8}<font color="white" size=".72c">a  <i>very</i></font>' + "\nlong <image> 3 < 4 line"
    assert Subtitle(0, 1, text).plain == "a very long 3 < 4 line"


ENTRIES = (
    Subtitle(0.0, 1.0, "a"),
    Subtitle(1.0, 2.0, "b"),
    Subtitle(3.0, 4.0, "a"),
    Subtitle(2.5, 3.5, "<i>c</i>"),
    Subtitle(5.0, 6.0, " "),
    Subtitle(7.0, 6.5, "never"),
)


@pytest.mark.parametrize(
    ("times", "lines"),
    [
        ((0.0,), ["a"]),
        ((1.0,), ["b"]),
        ((0.999, 1.0), ["a", "b"]),
        ((2.2,), []),
        ((3.2,), ["c", "a"]),
        ((0.5, 3.2), ["a", "c"]),
        ((3.2, 0.5, 1.5), ["a", "b", "c"]),
        ((5.5, 6.7), []),
        ((), []),
    ],
)
def test_the_paper_protocol_takes_what_is_on_screen(times: tuple[float, ...], lines: list[str]) -> None:
    assert lines_at_times(ENTRIES, iter(times)) == lines


def font(text: str) -> str:
    return fixtures.FONT.format(text)


def by_definition(entries: list[Subtitle], indices: list[int], fps: float) -> list[str]:
    """The rule of lmms-eval, frame by frame."""
    kept: list[str] = []
    for entry in entries:
        holds = False
        for frame in indices:
            if frame >= int(entry.start * fps) and frame < int(entry.end * fps):
                holds = True
        if holds:
            kept.append(entry.text.split('size=".72c">')[1].split("</font>")[0])
    return kept


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=12),
    st.integers(1, 500),
    st.integers(1, 32),
    st.sampled_from([25.0, 29.97, 2.0, 0.5]),
)
def test_the_lmms_protocol_takes_entries_that_hold_a_sampled_frame(
    spans: list[tuple[int, int]], total: int, count: int, fps: float
) -> None:
    entries = [Subtitle(a / 10, (a + b) / 10, font(f"line {n}")) for n, (a, b) in enumerate(spans)]
    indices = np.linspace(0, total - 1, count, dtype=int).tolist()
    assert lines_at_frames(entries, indices, fps) == by_definition(entries, indices, fps)


def test_the_lmms_protocol_leaves_out_lines_without_the_font_tag() -> None:
    entries = [Subtitle(0, 1, "bare"), Subtitle(0, 1, font("a\nb")), Subtitle(0, 1, font("c") + font("d"))]
    assert lines_at_frames(entries, [0], 2.0) == ["a b", "c"]
    with pytest.raises(InputError, match="fps is 0"):
        lines_at_frames(entries, [0], 0.0)


@pytest.mark.parametrize("place", ["data/v.srt", "subtitle/v.srt", "subtitles/v.srt", "data/subtitle/v.srt"])
def test_subtitles_are_found_beside_the_clips(tmp_path: Path, place: str) -> None:
    video = tmp_path / "data" / "v.mp4"
    video.parent.mkdir()
    assert find_subtitles(video) is None
    assert paper_text(video, [1.0]) is None
    assert lmms_text(video, [1], 1.0) == MISSING == "No subtitles available"
    fixtures.write_subtitles(tmp_path / place)
    assert find_subtitles(video) == tmp_path / place
    assert paper_text(video, [1.0, 4.0]) == "look here\nit moves"
    assert paper_text(video, [3.0]) is None
    assert lmms_text(video, [1, 4], 1.0) == "look here\nit moves"
    assert lmms_text(video, [100], 1.0) == ""
