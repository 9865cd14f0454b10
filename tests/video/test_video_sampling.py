# SPDX-License-Identifier: Apache-2.0
"""Which frames are taken: arithmetic, without files."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunevid.errors import InputError
from prunevid.video.sampling import Request, select, thin

RATE = 30.0


def even(count: int, rate: float = RATE) -> list[float]:
    return [number / rate for number in range(count)]


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (16, 16, list(range(16))),
        (32, 4, [4, 12, 20, 28]),
        (100, 1, [50]),
        (10, 3, [1, 5, 8]),
        (3, 8, [0, 1, 2]),
        (1, 1, [0]),
        (150, 4, [18, 56, 93, 131]),
    ],
)
def test_centres_of_equal_segments(count: int, most: int, expected: list[int]) -> None:
    assert thin(count, most) == expected
    assert list(select(even(count), count / RATE, RATE, Request(most), "x").indices) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fps": 1.0}, (0, 30, 60)),
        ({"fps": 2.0}, (0, 15, 30, 45, 60, 75)),
        ({"fps": None}, (0, 30, 60)),
        ({"fps": 2.0, "start": 1.0}, (30, 45, 60, 75)),
        ({"fps": 2.0, "start": 1.0, "end": 2.0}, (30, 45)),
        ({"fps": 2.0, "max_frames": 3}, (15, 45, 75)),
        ({"fps": 0.01}, (0,)),
        ({"fps": 1e308, "max_frames": 90}, tuple(range(90))),
    ],
)
def test_fps_takes_what_is_on_screen(fields: dict[str, float], expected: tuple[int, ...]) -> None:
    assert select(even(90), 3.0, RATE, Request(sampling="fps", **fields), "x").indices == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, (0, 89)),
        (1.0, None, (30, 89)),
        (None, 1.0, (0, 29)),
        (1.0, 2.0, (30, 59)),
        (0.999, 2.001, (30, 60)),
        (2.99, None, (89, 89)),
        (1.001, 1.002, (30, 30)),
        (1.0, 99.0, (30, 89)),
    ],
)
def test_the_window_is_half_open(start: float, end: float, expected: tuple[int, int]) -> None:
    chosen = select(even(90), 3.0, RATE, Request(1000, start=start, end=end), "x").indices
    assert (chosen[0], chosen[-1]) == expected
    assert len(chosen) == expected[1] - expected[0] + 1


@pytest.mark.parametrize("start", [3.0, 3.5, 1e9])
def test_a_start_behind_the_end_of_the_clip_is_refused(start: float) -> None:
    with pytest.raises(InputError, match=r"clip\.mp4 lasts 3\.000 s"):
        select(even(90), 3.0, RATE, Request(start=start), "clip.mp4")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_frames": 0}, "max_frames is 0"),
        ({"max_frames": -3}, "max_frames is -3"),
        ({"max_frames": 2.5}, "max_frames is 2.5"),
        ({"max_frames": True}, "max_frames is True"),
        ({"max_frames": "8"}, "max_frames is '8'"),
        ({"sampling": "random"}, "sampling is 'random'"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": -1.0}, "fps is -1.0"),
        ({"fps": math.nan}, "fps is nan"),
        ({"fps": math.inf}, "fps is inf"),
        ({"fps": "2"}, "fps is '2'"),
        ({"start": -0.1}, "start is -0.1"),
        ({"end": -2}, "end is -2"),
        ({"start": math.nan}, "start is nan"),
        ({"end": math.inf}, "end is inf"),
        ({"start": 2.0, "end": 1.0}, "start is 2 s and end is 1 s"),
        ({"start": 2.0, "end": 2.0}, "must be before the end"),
    ],
)
def test_requests_out_of_range_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        Request(**fields)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


gaps = st.lists(st.floats(0.004, 0.5), min_size=0, max_size=60)


def shown(spaces: list[float]) -> tuple[list[float], float, float]:
    times = [0.0]
    for space in spaces:
        times.append(times[-1] + space)
    duration = times[-1] + 0.03
    return times, duration, len(times) / duration


@given(gaps, st.integers(1, 40), st.floats(0, 0.99), st.floats(0.001, 1.2))
def test_uniform_is_even_and_stays_in_its_window(spaces: list[float], most: int, low: float, part: float) -> None:
    times, duration, rate = shown(spaces)
    start, end = low * duration, low * duration + part * duration
    if not start < end:
        return
    chosen = select(times, duration, rate, Request(most, start=start, end=end), "x").indices
    inside = [number for number, time in enumerate(times) if start <= time < end]
    assert len(chosen) <= most
    assert len(set(chosen)) == len(chosen)
    assert list(chosen) == sorted(chosen)
    if inside:
        assert abs(len(chosen) - min(most, len(inside))) <= 2  # frames within the tolerance of an edge
        steps = [after - before for before, after in pairwise(chosen)]
        assert not steps or max(steps) - min(steps) <= 1
    else:
        assert len(chosen) <= 2


@given(gaps, st.floats(0.05, 400.0), st.floats(0, 0.9))
def test_fps_equals_looking_at_the_screen_at_every_instant(spaces: list[float], fps: float, low: float) -> None:
    times, duration, rate = shown(spaces)
    start = low * duration
    slack = min(5e-4, 0.25 / rate)
    chosen = select(times, duration, rate, Request(10_000, "fps", fps, start=start), "x").indices
    first = next((n for n, time in enumerate(times) if time >= start - slack), len(times) - 1)
    expected = []
    step = 0
    while start + step / fps <= times[-1] + slack or not expected:
        on_screen = max(n for n, time in enumerate(times) if time <= start + step / fps + slack or n == 0)
        expected.append(max(first, on_screen))
        step += 1
    assert list(chosen) == sorted(set(expected))


@given(st.integers(1, 500), st.integers(1, 64), st.floats(0.2, 240))
def test_sampled_rate_of_uniform_is_frames_by_time(count: int, most: int, rate: float) -> None:
    selection = select(even(count, rate), count / rate, rate, Request(most), "x")
    assert selection.span == pytest.approx(count / rate)
    assert selection.sampled_fps == pytest.approx(len(selection.indices) * rate / count)
