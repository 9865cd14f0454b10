# SPDX-License-Identifier: Apache-2.0
"""Scenes: the refinement of frame labels by hand and against the loop, and the lengths they give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reference
from core.clips import clip, tokens
from prunevid.core import scene_lengths
from prunevid.core.scenes import refine
from prunevid.errors import ConfigError, InputError


@pytest.mark.parametrize(
    ("labels", "scenes"),
    [
        ("0000", [4]),
        ("0123", [4]),  # no label keeps a run: one scene
        ("0011", [2, 2]),
        ("0001", [4]),  # the lone frame joins its only neighbour
        ("1000", [4]),
        ("0000000003111220", [10, 3, 3]),  # as recorded from the original
        ("1113322020000000", [3, 2, 2, 9]),
        ("0012233", [3, 2, 2]),  # a tie goes left
        ("00122233", [2, 4, 2]),  # the longer side wins
        ("0010022", [5, 2]),  # two longest runs of one label meet again
        ("00112330", [2, 3, 3]),  # the lone 2 goes left on a tie, the lone 0 to its only neighbour
        ("0112", [4]),
        ("0001200", [7]),  # the short run of 0 loses its label as well
    ],
)
def test_refinement_by_hand(labels: str, scenes: list[int]) -> None:
    found = [length for _, length in refine([int(label) for label in labels])]
    assert found == scenes


@settings(deadline=None, max_examples=500)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_refinement_equals_the_loop(labels: list[int]) -> None:
    found = [label for label, length in refine(labels) for _ in range(length)]
    assert found == reference.refine(labels)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 40),
    ratio=st.sampled_from([0.05, 0.25, 0.5, 1.0]),
    k=st.integers(1, 9),
)
def test_lengths_sum_to_the_frames(seed: int, frames: int, ratio: float, k: int) -> None:
    features = clip(frames, 4, 16, seed).mean(1)
    lengths = scene_lengths(features, ratio, k)
    assert sum(lengths) == frames and min(lengths) >= 1
    assert lengths == reference.scene_lengths(features, ratio, k)


def test_cuts_are_where_the_picture_changes() -> None:
    base = 5 * tokens(3)[torch.tensor([0] * 6 + [1] * 4 + [2] * 6)]
    assert scene_lengths(base + 0.1 * tokens(16, seed=1), 0.2) == [6, 4, 6]


def test_equal_frames_are_one_scene() -> None:
    assert scene_lengths(tokens(1).expand(12, -1)) == [12]


def test_one_frame_is_one_scene() -> None:
    assert scene_lengths(tokens(1)) == [1]


def test_more_frames_than_are_compared_directly() -> None:
    base = 5 * tokens(4)[torch.arange(4).repeat_interleave(75)]
    assert scene_lengths(base + 0.1 * tokens(300, seed=1), 4 / 300) == [75] * 4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"segment_ratio": 0.0}, ConfigError, "segment_ratio is 0.0"),
        ({"segment_ratio": 1.1}, ConfigError, "at most 1"),
        ({"k": 1.5}, ConfigError, "k is 1.5"),
        ({"frame_features": torch.zeros(0, 8)}, InputError, "no empty axis"),
        ({"frame_features": torch.zeros(4, 3, 8)}, InputError, "shape"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        scene_lengths(**{"frame_features": tokens(8), **change})
