# SPDX-License-Identifier: Apache-2.0
"""Damaged files: what decodes is used with a warning, or one sentence says why not; never another exception."""

from __future__ import annotations

import random
import re
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from prunevid.errors import InputError
from prunevid.video import Clip, DamagedClipWarning, Limits, load_clip
from prunevid.video.opening import Opened
from video import written
from video.written import BY_NAME, CLOSED, X264, Recipe

FRONT = Recipe("front.mp4", X264, bframes=2, options=CLOSED)


def test_frames_that_decode_are_used_and_the_rest_is_warned_of(tmp_path: Path) -> None:
    whole = written.write(BY_NAME["lossless.mkv"], tmp_path)
    with av.open(str(whole)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    second = [number for number, key in enumerate(keys) if key][1]
    broken = written.spoil(whole, tmp_path / "broken.mkv", set(range(second, second + 4)))
    images, _ = written.decoded(whole)
    with pytest.warns(DamagedClipWarning, match=r"broken\.mkv is damaged \(a packet could not be decoded"):
        clip = load_clip(broken, max_frames=60)
    assert second + 4 <= len(clip) < 60
    found = [any(np.array_equal(frame, image) for image in images) for frame in clip.frames[:second]]
    assert all(found)
    assert clip.times == tuple(sorted(set(clip.times)))
    with pytest.warns(DamagedClipWarning):
        assert len(load_clip(broken, max_frames=8)) == 8


def test_damage_that_is_skipped_costs_nothing(tmp_path: Path) -> None:
    whole = written.write(Recipe("intra.avi", "mjpeg", pixels="yuvj420p"), tmp_path)
    broken = written.spoil(whole, tmp_path / "broken.avi", {10, 11, 12})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load_clip(broken, max_frames=4)
    assert np.array_equal(clip.frames, load_clip(whole, max_frames=4).frames)


@pytest.mark.parametrize("name", ["lossless.mkv", "intra.avi", "gop12b0.mp4", "vp8.webm"])
def test_nothing_decodable_is_an_error(name: str, tmp_path: Path) -> None:
    whole = written.write(BY_NAME[name], tmp_path)
    broken = written.spoil(whole, tmp_path / f"broken-{name}", None)
    with pytest.raises(InputError, match=re.escape(f"broken-{name}")) as caught:
        load_clip(broken)
    assert str(caught.value).endswith(".")


def test_an_mp4_cut_off_behind_its_index_gives_what_is_there(tmp_path: Path) -> None:
    whole = written.write(FRONT, tmp_path, {"movflags": "faststart"})
    assert whole.read_bytes().find(b"moov") < whole.read_bytes().find(b"mdat")
    images, times = written.decoded(whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: data.find(b"mdat") + (len(data) - data.find(b"mdat")) * 2 // 3])
    with pytest.warns(DamagedClipWarning, match=r"cut\.mp4 is damaged"):
        clip = load_clip(cut, max_frames=5)
    assert len(clip) == 5
    assert clip.duration < times[-1]
    assert np.array_equal(clip.frames[0], images[clip.indices[0]])


def test_an_mp4_cut_off_before_its_index_is_refused(tmp_path: Path) -> None:
    whole = written.write(FRONT, tmp_path)
    data = whole.read_bytes()
    assert data.find(b"moov") > data.find(b"mdat")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.mp4 is no clip .* truncated or damaged"):
        load_clip(cut)


@pytest.mark.parametrize("name", ["plain.mkv", "vp8.webm", "late.ts"])
@pytest.mark.parametrize("part", [0.4, 0.8])
def test_a_stream_that_was_cut_off_gives_its_beginning(name: str, part: float, tmp_path: Path) -> None:
    whole = written.write(BY_NAME[name], tmp_path)
    images, _ = written.decoded(whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: int(len(data) * part)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedClipWarning)
        clip = load_clip(cut, max_frames=3)
    assert clip.total_frames < len(images)
    assert np.array_equal(clip.frames[0], images[clip.indices[0]])


@pytest.mark.parametrize("name", ["gop12b3.mp4", "plain.mkv", "bframes.avi", "late.ts", "vp9.webm", "palette.gif"])
def test_any_damage_gives_frames_or_one_sentence(name: str, tmp_path: Path) -> None:
    whole = written.write(BY_NAME[name], tmp_path).read_bytes()
    dice = random.Random(name)
    outcomes: list[str] = []
    for round_ in range(24):
        data = bytearray(whole)
        if round_ % 3 == 0:
            del data[dice.randrange(1, len(data)) :]
        elif round_ % 3 == 1:
            place = dice.randrange(len(data))
            data[place : place + 400] = dice.randbytes(len(data[place : place + 400]))
        else:
            for _ in range(10):
                data[dice.randrange(len(data))] = dice.randrange(256)
        path = tmp_path / f"{round_}-{name}"
        path.write_bytes(data)
        outcomes.append(outcome(path))
    assert outcomes.count("clip") >= 5


def outcome(path: Path) -> str:
    """ "clip" or "refused"; anything else fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DamagedClipWarning)
            clip = load_clip(path, max_frames=5)
    except InputError as error:
        assert path.name in str(error)
        assert str(error).endswith(".")
        return "refused"
    assert isinstance(clip, Clip)
    check(clip)
    return "clip"


def check(clip: Clip) -> None:
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape[3] == 3
    assert 1 <= len(clip) == len(clip.times) == len(clip.indices) <= 5
    assert list(clip.times) == sorted(set(clip.times))
    assert clip.sampled_fps > 0
    assert clip.metadata()["total_num_frames"] >= 1


def test_a_stream_whose_frames_change_size_is_brought_to_the_first(tmp_path: Path) -> None:
    path = growing(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load_clip(path, max_frames=20)
    assert clip.frames.shape == (20, 48, 64, 3)


def growing(folder: Path) -> Path:
    """An avi that claims 64 x 48 and whose second half holds frames of 640 x 480."""
    path = folder / "growing.avi"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("mjpeg", rate=30)]
        streams[0].width, streams[0].height, streams[0].pix_fmt = 64, 48, "yuvj420p"
        large = av.CodecContext.create("mjpeg", "w")
        large.width, large.height, large.pix_fmt = 640, 480, "yuvj420p"
        large.time_base = Fraction(1, 30)
        for number in range(20):
            small = number < 10
            size = (64, 48) if small else (640, 480)
            frame = av.VideoFrame.from_ndarray(written.picture(number, *size), format="rgb24").reformat(
                format="yuvj420p"
            )
            frame.pts, frame.time_base = number, Fraction(1, 30)
            for packet in (streams[0] if small else large).encode(frame):
                packet.stream, packet.time_base = streams[0], Fraction(1, 30)
                container.mux(packet)
        container.mux(streams[0].encode())
    return path


def test_streams_that_begin_half_way_are_passed_over() -> None:
    class Container:
        """Like PyAV's at a stream that a transport stream announces late: demux fails once, and then goes on."""

        def __init__(self) -> None:
            self.left: list[int | None] = [1, 2, None, 3]

        def demux(self, stream: object) -> Any:
            while self.left:
                packet = self.left.pop(0)
                if packet is None:
                    raise IndexError("list index out of range")
                yield packet

    opened = Opened("clip.ts", Container(), None, Limits())  # type: ignore[arg-type]
    assert list(opened.packets()) == [1, 2, 3]
