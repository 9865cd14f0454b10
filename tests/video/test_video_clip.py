# SPDX-License-Identifier: Apache-2.0
"""What a clip tells processors, and what the user sees while it is read."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.video_utils import VideoMetadata

from prunevid.video import load_clip, progress
from video import written
from video.written import BY_NAME

REQUESTS: list[dict[str, Any]] = [
    {},
    {"max_frames": 5},
    {"max_frames": 1},
    {"max_frames": 6, "start": 0.5, "end": 1.3},
    {"sampling": "fps", "fps": 4.0},
    {"sampling": "fps", "fps": 4.0, "start": 0.7},
    {"max_frames": 1000},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
@pytest.mark.parametrize("name", ["gop12b3.mp4", "late.ts", "plain.mkv", "varying.mp4", "varying.mkv", "mpeg2.ts"])
def test_processors_read_true_times_and_rates(name: str, request_: dict[str, Any], tmp_path: Path) -> None:
    clip = load_clip(written.write(BY_NAME[name], tmp_path), **request_)
    metadata = VideoMetadata(**clip.metadata())
    assert metadata.timestamps == pytest.approx(list(clip.times), abs=1.1e-3)
    assert metadata.sampled_fps == pytest.approx(clip.sampled_fps, rel=0.5 / metadata.total_num_frames)
    if len(clip) > 3:
        spacing = (clip.times[-1] - clip.times[0]) / (len(clip) - 1)
        assert 1 / metadata.sampled_fps == pytest.approx(spacing, rel=0.2)


def test_metadata_of_a_whole_clip_counts_its_frames(tmp_path: Path) -> None:
    clip = load_clip(written.write(BY_NAME["gop12b3.mp4"], tmp_path), max_frames=7)
    assert clip.metadata() == {
        "total_num_frames": 60,
        "fps": 30.0,
        "width": 64,
        "height": 48,
        "duration": 2.0,
        "frames_indices": [4, 12, 21, 30, 38, 47, 55],
        "video_backend": "pyav",
    }
    assert len(clip) == 7
    assert clip.sampled_fps == pytest.approx(3.5)


@pytest.mark.parametrize("kind", ["file", "by order", "array"])
def test_a_callback_hears_of_every_frame(kind: str, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    name = {"file": "gop12b3.mp4", "by order": "raw.h264"}.get(kind)
    source = written.write(BY_NAME[name], tmp_path) if name else np.zeros((9, 4, 5, 3), np.uint8)
    load_clip(source, max_frames=4, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_a_callback_raises_gets_out(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_clip(written.write(BY_NAME["gop12b3.mp4"], tmp_path), progress=stop)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, path: Path, option: Any, patience: float) -> str:
    monkeypatch.setattr(progress, "_PATIENCE", patience)
    monkeypatch.setattr(sys, "stderr", stream)
    load_clip(path, progress=option)
    return stream.getvalue()


def test_a_bar_only_on_a_terminal_only_when_it_takes_long_only_when_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    path = written.write(BY_NAME["gop12b3.mp4"], tmp_path)
    assert "Reading gop12b3.mp4" in seen(monkeypatch, Terminal(), path, None, 0.0)
    assert seen(monkeypatch, Terminal(), path, None, 1e9) == ""
    assert seen(monkeypatch, Terminal(), path, False, 0.0) == ""
    assert seen(monkeypatch, io.StringIO(), path, None, 0.0) == ""
    assert seen(monkeypatch, Terminal(), path, lambda done, total: None, 0.0) == ""
