# SPDX-License-Identifier: Apache-2.0
"""Frame choices against plain loops on exact fractions, and real files whose frames show their number."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunevid.errors import InputError
from prunevid.evaluation.frames import LMMS, PAPER, paper_folder, paper_gif, paper_video, read_clip, spread
from prunevid.evaluation.items import VideoSource
from prunevid.video import load_clip

LENGTHS = (1, 2, 3, 15, 16, 17, 24, 31, 33, 90, 101, 750, 5401)
RATES = (3.0, 23.976, 25.0, 29.97002997002997, 30.0)
BOUNDS = (None, (0.0, 0.2), (0.5, 1.5), (0.1, 1.9), (0.0, 1e4))


def half_even(value: Fraction) -> int:
    """The nearest whole number, of two the even one."""
    low = math.floor(value)
    rest = value - low
    if rest == Fraction(1, 2):
        return low if low % 2 == 0 else low + 1
    return low if rest < Fraction(1, 2) else low + 1


def reference(last: int, fps: float, bound: tuple[float, float] | None, first: int) -> list[int]:
    """The sixteen frames as the protocol's description has them; products with seconds are of floats, as there."""
    begin, end = bound or (-100000, 100000)
    low = half_even(Fraction(begin * fps))
    low = low if low > first else first
    high = half_even(Fraction(end * fps))
    high = high if high < last else last
    found = []
    for place in range(16):
        part = Fraction(high - low, 16)
        found.append(math.trunc(low + part / 2 + half_even(part * place)))
    return found


@pytest.mark.parametrize("total", LENGTHS)
def test_files_and_folders_are_sampled_as_published(total: int) -> None:
    for fps, bound in itertools.product(RATES, BOUNDS):
        for choose, last, first in ((paper_video, total - 1, 0), (paper_folder, total, 1)):
            expected = reference(last, fps, bound, first)
            if all(first <= number <= last for number in expected):
                assert choose(total, fps, 16, bound) == [number - first for number in expected], (fps, bound)
            else:
                with pytest.raises(InputError, match="lies outside"):
                    choose(total, fps, 16, bound)


@given(st.integers(1, 4000), st.sampled_from(RATES), st.floats(0, 50), st.floats(0, 50))
def test_any_bound_is_sampled_as_published(total: int, fps: float, begin: float, end: float) -> None:
    expected = reference(total - 1, fps, (begin, end), 0)
    if all(0 <= number < total for number in expected):
        assert paper_video(total, fps, 16, (begin, end)) == expected
    else:
        with pytest.raises(InputError, match="lies outside"):
            paper_video(total, fps, 16, (begin, end))


@pytest.mark.parametrize(
    ("total", "fps", "bound", "expected"),
    [
        (161, 25.0, None, [5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 105, 115, 125, 135, 145, 155]),
        (9, 10.0, None, [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8]),  # halves go to the even number
        (1, 10.0, None, [0] * 16),
        (400, 10.0, (2.0, 5.2), [21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51]),
        (400, 1.0, (0.5, 16.5), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),  # 0.5 to 0 and 16.5 to 16
        (400, 1.0, (1.5, 34.5), [3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33]),
    ],
)
def test_by_hand(total: int, fps: float, bound: tuple[float, float] | None, expected: list[int]) -> None:
    assert paper_video(total, fps, 16, bound) == expected


@pytest.mark.parametrize(
    ("total", "expected"),
    [(1, [0] * 16), (3, [0, 1, 2] * 5 + [0]), (500, reference(499, 25.0, None, 0))],
)
def test_short_gifs_are_repeated_in_order(total: int, expected: list[int]) -> None:
    assert paper_gif(total, 10.0, 16) == expected


@pytest.mark.parametrize("total", LENGTHS)
@pytest.mark.parametrize("count", [1, 2, 16, 32])
def test_lmms_takes_cut_linspace(total: int, count: int) -> None:
    exact = [Fraction((total - 1) * place, max(1, count - 1)) for place in range(count)]
    assert spread(total, 30.0, count) == [math.floor(number) for number in exact]


def test_lmms_stays_in_the_bound() -> None:
    assert spread(100, 10.0, 4, (2.0, 5.0)) == [20, 30, 40, 50]
    assert spread(40, 10.0, 3, (2.0, 50.0)) == [20, 29, 39]
    with pytest.raises(InputError, match="lies outside"):
        spread(40, 10.0, 3, (20.0, 50.0))


def picture(number: int) -> np.ndarray:
    """A frame that says its number in three blocks of one of six greys each."""
    frame = np.zeros((48, 48, 3), np.uint8)
    for place in range(3):
        frame[:, 16 * place : 16 * place + 16] = 20 + 40 * (number // 6**place % 6)
    return frame


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that frames say."""
    greys = [frames[:, 8:40, 16 * place + 4 : 16 * place + 12].mean((1, 2, 3)) for place in range(3)]
    return [int(sum(6**place * round((grey[row] - 20) / 40) for place, grey in enumerate(greys)))
            for row in range(len(frames))]  # fmt: skip


def write(path: Path, count: int, codec: str = "libx264", rate: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = 48
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.gop_size = 12
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_folder(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(1, count + 1):
        Image.fromarray(picture(number)).save(path / f"{number:05d}.jpg", quality=95)
    return path


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(("count", "bound"), [(100, None), (100, (2.0, 5.2)), (7, None), (1, None)])
def test_the_frames_of_a_file_are_the_chosen_ones(
    codec: str, count: int, bound: tuple[float, float] | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.mp4", count, codec)
    for choices, shown in ((PAPER, 16), (LMMS, 32)):
        clip = read_clip(VideoSource(path, "video", bound), choices, shown)
        expected = choices["video"](count, 10.0, shown, bound)
        assert numbers(clip.frames) == expected == list(clip.indices)
        assert clip.times == pytest.approx([number / 10 for number in expected])
        assert (clip.total_frames, clip.fps, clip.source) == (count, 10.0, str(path))


@pytest.mark.parametrize(("count", "bound"), [(40, None), (40, (2.0, 9.0)), (4, None)])
def test_the_frames_of_a_folder_are_the_chosen_ones(
    count: int, bound: tuple[float, float] | None, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "pictures", count)
    (folder / "notes.txt").write_text("no picture")
    clip = read_clip(VideoSource(folder, "frames", bound), PAPER, 16)
    expected = reference(count, 3.0, bound, 1)
    assert numbers(clip.frames) == expected
    assert clip.times == pytest.approx([(number - 1) / 3 for number in expected])
    assert clip.source == str(folder)


def test_a_gif_is_repeated(tmp_path: Path) -> None:
    clip = read_clip(VideoSource(write(tmp_path / "a.gif", 5, "gif"), "gif"), PAPER, 16)
    assert list(clip.indices) == [0, 1, 2, 3, 4] * 3 + [0]
    for number, frame in zip(clip.indices, clip.frames):
        assert np.array_equal(frame, clip.frames[number])
    assert clip.times == pytest.approx([number / 10 for number in clip.indices])


def test_a_picture_missing_in_between_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pictures", 5)
    (folder / "00003.jpg").unlink()
    with pytest.raises(InputError, match=r"00003\.jpg"):
        read_clip(VideoSource(folder, "frames"), PAPER, 16)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("none.mp4", "video", "There is no file"),
        ("none", "frames", "There is no folder"),
        ("empty", "frames", "holds no pictures"),
        ("text.mp4", "video", "text.mp4"),
    ],
)
def test_clips_that_cannot_be_read(name: str, kind: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no clip")
    with pytest.raises(InputError, match=message):
        read_clip(VideoSource(tmp_path / name, kind), PAPER, 16)


def test_a_bound_behind_the_end_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 20)
    with pytest.raises(InputError, match="from 30 to 40 s lies outside a clip of 20 frames at 10 a second"):
        read_clip(VideoSource(path, "video", (30.0, 40.0)), PAPER, 16)


ORDERS = [[3, 3, 0, 9], [9, 0], [5], [4, 4, 4]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["mp4", "avi", "list", "array"])
def test_the_reader_gives_frames_in_the_order_of_a_function(kind: str, order: list[int], tmp_path: Path) -> None:
    """Also through the fallback that decodes in order: avi with B-frames has no times to rely on."""
    frames = np.stack([picture(number) for number in range(10)])
    told: list[tuple[int, float]] = []

    def choose(total: int, fps: float) -> list[int]:
        told.append((total, fps))
        return order

    sources = {"list": list(frames), "array": frames}
    source = sources[kind] if kind in sources else write(tmp_path / f"a.{kind}", 10)
    clip = load_clip(source, sampling=choose, **({"source_fps": 10.0} if kind in sources else {}))
    assert numbers(clip.frames) == order == list(clip.indices)
    assert set(told) == {(10, 10.0)}
    assert clip.times == pytest.approx([number / 10 for number in order])
    apart = max(order) - min(order)
    expected = (len(order) - 1) * 10 / apart if apart else len(order) * 10 / 1
    assert clip.sampled_fps == pytest.approx(expected)
    assert clip.metadata()["frames_indices"] == order


@pytest.mark.parametrize("wrong", [[], [10], [-1], [0, 99]])
def test_frames_that_are_not_there_are_refused(wrong: list[int]) -> None:
    frames = np.zeros((10, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="has the frames 0 to 9"):
        load_clip(frames, sampling=lambda total, fps: wrong)


@pytest.mark.parametrize("extra", [{"fps": 2.0}, {"start": 1.0}, {"end": 2.0}])
def test_a_function_is_not_mixed_with_other_requests(extra: dict[str, float]) -> None:
    with pytest.raises(InputError, match="where sampling is a function"):
        load_clip(np.zeros((10, 8, 8, 3), np.uint8), sampling=lambda total, fps: [0], **extra)
