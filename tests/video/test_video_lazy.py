# SPDX-License-Identifier: Apache-2.0
"""Frames that are read when they are asked for are the frames that are read at once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from prunevid.errors import InputError
from prunevid.video import Clip, DamagedClipWarning, load_clip
from prunevid.video.lazy import FramesChanged, LazyFrames, in_chunks
from video import written
from video.written import BY_NAME

FILES = ("lossless.mkv", "intra.avi", "gop12b0.mp4", "vp8.webm")
REQUESTS: list[dict[str, Any]] = [
    {"max_frames": 9},
    {"max_frames": 1000},
    {"sampling": "fps", "fps": 9.0, "start": 0.3, "end": 1.1},
]


def _same(lazy: Clip, whole: Clip) -> None:
    assert {**lazy.__dict__, "frames": 0} == {**whole.__dict__, "frames": 0}
    assert (len(lazy), lazy.width, lazy.height) == (len(whole), whole.width, whole.height)
    assert lazy.metadata() == whole.metadata()
    frames: Any = lazy.frames
    assert np.array_equal(np.asarray(frames), whole.frames)
    assert np.array_equal(frames[-1], whole.frames[-1])
    assert np.array_equal(frames[2:5], whole.frames[2:5])
    assert np.array_equal(frames[[3, 0, 3]], whole.frames[[3, 0, 3]])
    sizes = [3] * (len(whole) // 3) + [len(whole) % 3] * (len(whole) % 3 > 0)
    for part, expected in zip(in_chunks(frames, sizes), in_chunks(whole.frames, sizes), strict=True):
        assert np.array_equal(part, expected)
    assert np.array_equal(lazy.in_memory().frames, whole.frames) and whole.in_memory() is whole


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: "-".join(map(str, request.values())))
@pytest.mark.parametrize("name", FILES)
def test_of_a_file(name: str, request_: dict[str, Any], tmp_path: Path) -> None:
    path = written.write(BY_NAME[name], tmp_path)
    lazy = load_clip(path, lazy=True, **request_)
    assert isinstance(lazy.frames, LazyFrames)
    _same(lazy, load_clip(path, **request_))


def test_of_a_folder_and_a_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    for source in (tmp_path, sorted(tmp_path.iterdir())):
        lazy = load_clip(source, max_frames=7, lazy=True)
        assert isinstance(lazy.frames, LazyFrames)
        _same(lazy, load_clip(source, max_frames=7))
    array = rng.integers(0, 255, (9, 6, 8, 3), dtype=np.uint8)
    assert isinstance(load_clip(array, lazy=True).frames, np.ndarray)
    Image.new("RGB", (4, 4)).save(tmp_path / "5.png")
    with pytest.raises(InputError, match="A frame is 4 x 4, but the first one was 8 x 6"):
        load_clip(tmp_path, lazy=True).in_memory()


def test_frames_in_an_order_of_their_own_are_read_at_once(tmp_path: Path) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    clip = load_clip(path, sampling=lambda frames, rate: [4, 2, 2], lazy=True)
    assert isinstance(clip.frames, np.ndarray) and clip.indices == (4, 2, 2)


def test_progress_is_told_frame_by_frame(tmp_path: Path) -> None:
    path, told = written.write(BY_NAME["gop12b0.mp4"], tmp_path), []
    clip = load_clip(path, max_frames=6, lazy=True, progress=lambda *counts: told.append(counts))
    assert not told
    clip.in_memory()
    assert told == [(done, 6) for done in range(1, 7)]


def test_a_damaged_file_gives_what_it_gives_as_a_whole(tmp_path: Path) -> None:
    whole = written.write(BY_NAME["lossless.mkv"], tmp_path)
    with av.open(str(whole)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    second = [number for number, key in enumerate(keys) if key][1]
    broken = written.spoil(whole, tmp_path / "broken.mkv", set(range(second, second + 4)))
    with pytest.warns(DamagedClipWarning):
        expected = load_clip(broken, max_frames=60)
    lazy = load_clip(broken, max_frames=60, lazy=True)
    with pytest.warns(DamagedClipWarning), pytest.raises(FramesChanged, match="lacks frames") as caught:
        lazy.in_memory()
    _same(caught.value.clip, expected)


def test_an_abandoned_reading_closes_the_file(tmp_path: Path) -> None:
    path = written.write(BY_NAME["gop12b0.mp4"], tmp_path)
    parts = in_chunks(load_clip(path, max_frames=12, lazy=True).frames, [4, 4, 4])
    next(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        parts.close()
    path.unlink()
    with pytest.raises(StopIteration):
        next(parts)
