# SPDX-License-Identifier: Apache-2.0
"""What all methods keep to that decide from the features alone, before the language model."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.loops import kept_cells, make_video
from prunevid import methods
from prunevid.core import MergedVideo
from prunevid.errors import ConfigError
from prunevid.methods import Video

DROPPING = ["random", "uniform", "frames", "evs", "dtd", "vidcom2", "divprune", "dycoke"]
ALL = [*DROPPING, "tome"]
GROWING = ["random", "evs", "dtd", "vidcom2", "divprune"]  # a larger budget keeps all that a smaller one keeps
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@st.composite
def videos(draw: st.DrawFn) -> Video:
    """Any small video, with ties where its frames or tokens repeat."""
    frames, height, width = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    channels, seed = draw(st.integers(1, 6)), draw(st.integers(0, 99))
    features = make_video(frames, height, width, channels, seed).features
    kind = draw(st.sampled_from(["any", "still", "flat", "zero", "huge"]))
    if kind == "still":
        features = features[:1].repeat(frames, 1, 1)
    elif kind == "flat":
        features = features[:1, :1].repeat(frames, height * width, 1)
    elif kind == "zero":
        features = features * (features > 1)
    elif kind == "huge":
        features = features * 1e3
    budget = draw(st.integers(1, frames * height * width))
    return Video(features.to(draw(st.sampled_from(DTYPES))), height, width, budget)


def check(video: Video, merged: MergedVideo) -> None:
    """Shapes, ranges, provenance and means of a result."""
    frames, positions, channels = video.features.shape
    count = len(merged.features)
    assert merged.features.shape == (count, channels) and merged.features.dtype == video.features.dtype
    assert merged.assignment.shape == (frames * positions,) and merged.assignment.dtype == torch.int64
    assert merged.assignment.min() >= -1 and merged.assignment.max() == count - 1
    assert merged.assignment[merged.representative].tolist() == list(range(count))
    assert merged.representative.diff().gt(0).all()
    assert merged.group.tolist() == (merged.representative // positions).tolist()
    assert (merged.scene_lengths, merged.static_sizes, merged.dynamic_sizes) == ([frames], [0], [count])
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(video.features.dtype, 1e-5)
    cells = video.features.flatten(0, 1)
    for token in range(count):
        members = cells[merged.assignment == token]
        if len(members) == 1:
            assert torch.equal(merged.features[token], members[0])
        torch.testing.assert_close(
            merged.features[token].double(),
            members.double().mean(0),
            atol=tolerance * members.abs().max().item(),
            rtol=0,
        )


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(video=videos())
def test_any_video_and_any_budget(name: str, video: Video) -> None:
    method = methods.get(name)
    merged = method.merge(video)
    assert len(merged.features) == video.budget
    check(video, merged)
    if name in DROPPING:
        kept_cells(merged)
    again = method.merge(video)
    assert torch.equal(merged.assignment, again.assignment) and torch.equal(merged.features, again.features)
    check(video, method.merge(replace(video, budget=None)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 1, 1), (1, 3, 4), (7, 1, 1), (4, 2, 3), (6, 1, 3)])
def test_every_budget_is_met(name: str, frames: int, height: int, width: int) -> None:
    before: set[int] = set()
    for budget in range(1, frames * height * width + 1):
        merged = methods.get(name).merge(make_video(frames, height, width, 4, budget=budget))
        assert len(merged.features) == budget
        seen = set(merged.representative.tolist())
        thinned = name in ("evs", "dtd") and budget <= height * width  # part of the first frame
        assert name not in GROWING or thinned or before <= seen
        before = seen


@pytest.mark.parametrize("name", ["uniform", "vidcom2", "tome"])
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_every_frame_keeps_one_where_the_budget_allows(name: str, frames: int) -> None:
    for budget in range(frames, frames * 6 + 1):
        merged = methods.get(name).merge(make_video(frames, 2, 3, 4, budget=budget))
        assert merged.group.unique().tolist() == list(range(frames))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_whole_budget_changes_nothing(name: str, dtype: torch.dtype) -> None:
    video = make_video(5, 2, 3, 8, budget=30)
    video = replace(video, features=video.features.to(dtype))
    merged = methods.get(name).merge(video)
    assert torch.equal(merged.features, video.features.flatten(0, 1))
    assert merged.assignment.tolist() == list(range(30))


# 8 frames of 10 tokens: the number that is left without a budget, by each method's own options.
@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("random", {}, 20),
        ("random", {"keep": 0.001}, 1),
        ("uniform", {"keep": 0.4}, 32),
        ("frames", {}, 20),
        ("frames", {"keep": 0.01}, 10),
        ("evs", {}, 20),
        ("evs", {"keep": 0.01}, 10),
        ("dtd", {"keep": 0.4}, 32),
        ("dtd", {"keep": 0.01}, 10),
        ("dtd", {"threshold": -1.0}, 10),
        ("dtd", {"threshold": 1.0}, 80),
        ("divprune", {}, 8),
        ("tome", {}, 16),
        ("tome", {"keep": 0.01}, 8),
        ("dycoke", {}, 2 * 10 + 6 * 3),
        ("dycoke", {"k": 0.8}, 2 * 10 + 6 * 2),
        ("dycoke", {"k": 1}, 2 * 10),
        ("dycoke", {"k": 0}, 80),
    ],
)
def test_without_a_budget(name: str, options: dict[str, float], left: int) -> None:
    assert len(methods.get(name, **options).merge(make_video(8, 2, 5, 6)).features) == left


@pytest.mark.parametrize("name", ALL)
def test_gradients_and_autocast_stay_outside(name: str) -> None:
    video = make_video(6, 3, 3, 8, budget=20)
    plain = methods.get(name).merge(video)
    with torch.autocast("cpu", torch.bfloat16):
        merged = methods.get(name).merge(replace(video, features=video.features.requires_grad_()))
    assert not merged.features.requires_grad
    assert torch.equal(merged.assignment, plain.assignment) and torch.equal(merged.features, plain.features)


@pytest.mark.parametrize(
    ("name", "option", "value", "wanted"),
    [(name, "keep", value, "above 0 and at most 1") for name in ALL if name != "dycoke" for value in (0, 1.1, -1, True)]
    + [("uniform", "keep", value, "above 0 and at most 1") for value in ("all", float("nan"), None)]
    + [("dycoke", "k", value, "at least 0 and at most 1") for value in (-0.1, 1.5, "0.7", False)]
    + [("dtd", "threshold", value, "a number from -1 to 1") for value in (-1.5, 2, None, float("nan"))]
    + [("random", "seed", value, "a whole number of at least 0") for value in (-1, 0.5, True)]
    + [("tome", "r", value, "a whole number of at least 1") for value in (0, 2.0)],
)
def test_bad_options_are_refused(name: str, option: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{option} is {value!r}, but must be {wanted}.")):
        methods.get(name, **{option: value})


@pytest.mark.parametrize("name", ALL)
def test_each_is_registered_and_merges(name: str) -> None:
    method = methods.get(name, retention_ratio=0.5)
    assert method.merges and method.selection_layers == () and method.split(100, 4, 8).merged == 50
    assert method.natural_positions == ("keep" if name in ("evs", "dtd") else "renumber")
