# SPDX-License-Identifier: Apache-2.0
"""What every method that merges with the help of the vision tower has to satisfy, over random shapes and budgets."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.tower_videos import make_video
from prunevid import methods
from prunevid.errors import ConfigError, InputError, UnsupportedError

NAMES = ["prumerge", "prumerge+", "visionzip", "fastvid", "holitom", "flashvid"]
VARIANTS = [(name, {}) for name in NAMES] + [
    ("visionzip", {"dominant": 0.3, "contextual": 0.6}),
    ("fastvid", {"anchors": 1.0, "segments": 1, "tau": -1.0}),
    ("holitom", {"contextual": 0.5, "tau": 0.2, "max_window": 3}),
    ("holitom", {"contextual": 1.0, "tau": -1.0}),
    ("flashvid", {"alpha": 0.2, "tau": 0.1, "segments": 1, "segment_tau": -1.0}),
    ("flashvid", {"alpha": 0.0, "tau": -1.0, "segments": 2, "segment_tau": -1.0}),
]


@st.composite
def videos(draw, budgeted: bool = True):
    frames = draw(st.integers(1, 9))
    positions = draw(st.integers(1, 12))
    budget = draw(st.integers(1, frames * positions)) if budgeted else None
    return make_video(
        frames,
        positions,
        draw(st.sampled_from([1, 4, 9])),
        budget,
        draw(st.integers(0, 2**31)),
        draw(st.sampled_from([0.0, 0.3, 1.0, 3.0])),
        draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
    )


def check(video, merged) -> None:
    """The description fits the video and itself."""
    frames, positions, channels = video.features.shape
    count = len(merged.features)
    assert merged.features.shape == (count, channels) and merged.features.dtype == video.features.dtype
    assert merged.features.isfinite().all()
    assert merged.assignment.shape == (frames * positions,) and merged.assignment.dtype == torch.int64
    assert int(merged.assignment.min()) >= -1 and int(merged.assignment.max()) == count - 1
    assert merged.assignment[merged.representative].tolist() == list(range(count))
    assert (merged.representative.diff() > 0).all()
    assert merged.group.tolist() == (merged.representative // positions).tolist()
    assert merged.static_sizes == [0] and merged.dynamic_sizes == [count] and merged.scene_lengths == [frames]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@settings(max_examples=40, deadline=None)
@given(video=videos())
def test_a_budget_is_met_exactly(name: str, options: dict, video) -> None:
    merged = methods.get(name, **options).merge(video)
    assert len(merged.features) == video.budget
    check(video, merged)
    if video.budget == video.features.shape[0] * video.features.shape[1] and name not in ("prumerge", "prumerge+"):
        assert torch.equal(merged.features, video.features.flatten(0, 1))  # nothing is merged


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@settings(max_examples=20, deadline=None)
@given(video=videos(budgeted=False))
def test_the_published_options_decide_without_a_budget(name: str, options: dict, video) -> None:
    method = methods.get(name, **options)
    merged, again = method.merge(video), method.merge(video)
    check(video, merged)
    assert torch.equal(merged.features, again.features) and torch.equal(merged.assignment, again.assignment)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_stay_as_they_are_and_no_gradient_is_kept(name: str) -> None:
    video = make_video(6, 10, budget=23)
    video.features.requires_grad_()
    before = [x.clone() for x in (video.features, video.tower.salience, video.tower.keys)]
    merged = methods.get(name).merge(video)
    assert not merged.features.requires_grad
    for old, new in zip(before, (video.features, video.tower.salience, video.tower.keys)):
        assert torch.equal(old, new)


@pytest.mark.parametrize("name", NAMES)
def test_huge_numbers_stay_in_range(name: str) -> None:
    video = make_video(4, 12, budget=10, dtype=torch.float16)
    video = dataclasses.replace(video, features=torch.full_like(video.features, 60000))
    assert methods.get(name).merge(video).features.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_or_wrong_tower_is_refused(name: str) -> None:
    video = make_video(3, 4, budget=5)
    with pytest.raises(UnsupportedError, match=re.escape(f"{name!r} needs the vision tower's attention")):
        methods.get(name).merge(dataclasses.replace(video, tower=None))
    other = make_video(3, 5).tower
    with pytest.raises(InputError, match=re.escape("salience has shape (3, 5), but the video has 3 frames of 4")):
        methods.get(name).merge(dataclasses.replace(video, tower=other))


@pytest.mark.parametrize("name", NAMES)
def test_slots(name: str) -> None:
    method = methods.get(name)
    assert method.merges and not method.compresses_cache
    assert method.tower == methods.TowerRequest(-2 if name == "visionzip" else -1, not name.startswith("prumerge"))
    assert method.natural_positions == ("keep" if name == "fastvid" else "renumber")
    assert method.selection_layers == {"holitom": (17,), "flashvid": (19,)}.get(name, ())


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("prumerge", "neighbours", 0),
        ("prumerge", "fallback", 0.0),
        ("prumerge", "whisker", -1.0),
        ("prumerge+", "spacing", 0),
        ("prumerge+", "salient", 1.5),
        ("visionzip", "dominant", 0.0),
        ("visionzip", "dominant", 0.99),
        ("visionzip", "contextual", -0.1),
        ("fastvid", "keep", 0),
        ("fastvid", "anchors", 1.1),
        ("fastvid", "beta", -0.5),
        ("fastvid", "tau", float("nan")),
        ("fastvid", "segments", 0),
        ("fastvid", "period", 1.5),
        ("fastvid", "k", 0),
        ("holitom", "keep", 2),
        ("holitom", "beta", 1.5),
        ("holitom", "contextual", -1),
        ("holitom", "tau", float("nan")),
        ("holitom", "max_window", 0),
        ("holitom", "layer", 0),
        ("holitom", "inner_keep", 0),
        ("flashvid", "keep", 0),
        ("flashvid", "alpha", 1.2),
        ("flashvid", "expansion", 0.9),
        ("flashvid", "expansion", float("nan")),
        ("flashvid", "segments", 0),
        ("flashvid", "layer", 2.5),
        ("flashvid", "inner_keep", 1.2),
    ],
)
def test_bad_options_are_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option} (is )?{re.escape(str(value))}"):
        methods.get(name, **{option: value})
