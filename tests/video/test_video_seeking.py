# SPDX-License-Identifier: Apache-2.0
"""Sampled frames are the frames of a full decode, with their times; and less is decoded than the whole clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid.video import load_clip
from prunevid.video.decoding import Decoder
from video import written
from video.written import BY_NAME, CLOSED, RECIPES, X264, Recipe

REQUESTS: list[dict[str, Any]] = [
    {"max_frames": 1},
    {"max_frames": 4},
    {"max_frames": 7, "start": 0.4},
    {"max_frames": 1000},
    {"sampling": "fps", "fps": 3.0},
    {"sampling": "fps", "fps": 9.0, "start": 0.3, "end": 1.1},
    {"sampling": "fps", "fps": 1000.0, "max_frames": 5},
]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda recipe: recipe.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    path = written.write(request.param, tmp_path_factory.mktemp("clips"))
    images, times = written.decoded(path)
    assert len(images) == request.param.frames
    return path, images, times


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: "-".join(map(str, request.values())))
def test_sampled_frames_are_those_of_a_full_decode(pair: tuple[Path, Any, Any], request_: dict[str, Any]) -> None:
    path, images, times = pair
    if request_.get("start", 0) > times[-1]:
        pytest.skip("the clip is shorter than that")
    clip, _ = written.read(path, **request_)
    assert clip.total_frames == len(images)
    assert clip.times == pytest.approx([times[number] for number in clip.indices], abs=1e-9)
    assert np.array_equal(clip.frames, np.stack([images[number] for number in clip.indices]))
    assert len(clip) == min(request_.get("max_frames", 16), len(clip))
    if "start" not in request_ and request_.get("sampling") is None:
        assert len(clip) == min(request_["max_frames"], len(images))


def test_every_frame_can_be_asked_for_alone(pair: tuple[Path, Any, Any]) -> None:
    path, images, times = pair
    for number in range(0, len(images), 7):
        clip, _ = written.read(path, max_frames=1, start=times[number], end=times[number] + 1e-3)
        assert clip.indices == (number,)
        assert np.array_equal(clip.frames[0], images[number])


def test_shared_clips(shared: Any) -> None:
    for name, count, fps in (("flower.mp4", 150, 30000 / 1001), ("friday.mp4", 185, 30.0)):
        path = shared("videos", name)
        images, times = written.decoded(path)
        clip, work = written.read(path, max_frames=6)
        assert (clip.total_frames, clip.fps) == (count, pytest.approx(fps))
        assert clip.times == pytest.approx([times[number] for number in clip.indices])
        assert np.array_equal(clip.frames, np.stack([images[number] for number in clip.indices]))
        assert work.packets <= count


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("long.mp4", X264, bframes=3, frames=600, width=32, height=32, options=CLOSED),
        Recipe("long.mkv", X264, bframes=3, frames=600, width=32, height=32, options=CLOSED),
        Recipe("long.avi", "mpeg4", frames=600, width=32, height=32),
        Recipe("long.ts", "mpeg2video", bframes=2, frames=600, width=32, height=32, rate=25),
        Recipe("long.webm", "libvpx", frames=600, width=32, height=32),
    ],
    ids=lambda recipe: recipe.name,
)
def test_seeking_decodes_little(recipe: Recipe, tmp_path: Path) -> None:
    path = written.write(recipe, tmp_path)
    clip, work = written.read(path, max_frames=4)
    assert work.seeks == 4
    # Each of the four: up to its group of 12, what the decoder holds back (threads, order), and a container that
    # lands a group early.
    assert work.packets <= 4 * (2 * recipe.gop + 20)
    assert work.packets < recipe.frames / 2
    last, work = written.read(path, max_frames=1, start=clip.duration - 0.1)
    assert last.indices[0] >= 595
    assert work.packets <= 2 * recipe.gop + 20


def test_intra_coded_clips_decode_only_what_is_wanted(tmp_path: Path) -> None:
    path = written.write(Recipe("intra.avi", "mjpeg", frames=200, pixels="yuvj420p"), tmp_path)
    _, work = written.read(path, max_frames=5)
    assert work.seeks == 5
    assert work.frames == 5


@pytest.mark.parametrize("name", ["gop5b3.mp4", "plain.mkv", "late.ts", "plain.avi"])
def test_taking_all_frames_decodes_each_once(name: str, tmp_path: Path) -> None:
    path = written.write(BY_NAME[name], tmp_path)
    _, work = written.read(path, max_frames=1000)
    assert (work.packets, work.seeks) == (60, 0)


def test_nothing_is_decoded_behind_the_part_that_is_sampled(tmp_path: Path) -> None:
    path = written.write(
        Recipe("one-group.mp4", X264, gop=600, frames=600, width=32, height=32, options=CLOSED), tmp_path
    )
    _, work = written.read(path, max_frames=3, end=1.0)
    assert work.packets <= 30 + 20


@pytest.mark.parametrize("name", ["gop12b3.mp4", "late.ts", "varying.mkv"])
def test_a_container_that_cant_seek_gives_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written.write(BY_NAME[name], tmp_path)
    sought, work = written.read(path, max_frames=4)
    assert work.seeks > 0
    monkeypatch.setattr(Decoder, "seek", lambda self, offset: None)
    straight, work = written.read(path, max_frames=4)
    assert work.seeks == 0
    assert straight.times == sought.times
    assert np.array_equal(straight.frames, sought.frames)


def test_a_container_that_always_lands_at_its_start_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written.write(BY_NAME["gop12b3.mp4"], tmp_path)
    expected, _ = written.read(path, max_frames=4)
    asked: list[int] = []
    seek = Decoder.seek
    monkeypatch.setattr(Decoder, "seek", lambda self, offset: asked.append(offset) or seek(self, 0))
    clip, work = written.read(path, max_frames=4)
    assert np.array_equal(clip.frames, expected.frames)
    assert len(asked) <= 2
    assert work.packets <= 120


def test_frames_have_their_true_times_when_the_rate_varies(tmp_path: Path) -> None:
    path = written.write(BY_NAME["varying.mp4"], tmp_path)
    clip = load_clip(path, max_frames=60)
    gaps = [(20 + (number * 37) % 50) / 1000 for number in range(59)]
    assert clip.times == pytest.approx(np.concatenate([[0], np.cumsum(gaps)]), abs=1e-3)
    assert clip.fps == pytest.approx(60 / clip.duration, rel=0.02)
