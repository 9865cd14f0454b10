# SPDX-License-Identifier: Apache-2.0
"""`merge_video` against the loop of the reference, and what must hold for any video."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core import reference
from core.clips import clip, regular
from prunevid.core import MergedVideo, _cells, merge_video, merging
from prunevid.errors import ConfigError, InputError

SHAPES = st.tuples(st.integers(1, 20), st.sampled_from([1, 3, 14, 15, 16, 29, 48]), st.sampled_from([8, 24]))
KNOBS = st.fixed_dictionaries(
    {
        "tau": st.sampled_from([-2.0, 0.5, 0.8, 0.95, 1.5]),
        "cluster_ratio": st.sampled_from([0.05, 0.33, 0.5, 1.0]),
        "segment_ratio": st.sampled_from([0.1, 0.25, 0.5, 1.0]),
        "k": st.sampled_from([1, 5, 7, 20]),
        "static_frame": st.sampled_from(["middle", "first"]),
    }
)
SEEDS = st.integers(0, 10**6)


def same_map(one: MergedVideo, other: MergedVideo | reference.Merged) -> bool:
    """Whether two results agree in everything but the features."""
    tensors = all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("assignment", "representative", "group")
    )
    lists = ("scene_lengths", "static_sizes", "dynamic_sizes")
    return tensors and all(getattr(one, name) == getattr(other, name) for name in lists)


def means(features: Tensor, merged: MergedVideo) -> Tensor:
    """(n, C) float64: the means of the cells that are assigned to each merged token."""
    cells = features.flatten(0, 1).double()
    sums = torch.zeros(len(merged.features), cells.shape[1], dtype=torch.float64)
    return sums.index_add_(0, merged.assignment, cells) / merged.assignment.bincount()[:, None]


@settings(deadline=None, max_examples=120)
@given(seed=SEEDS, shape=SHAPES, knobs=KNOBS)
def test_equals_the_loop(seed: int, shape: tuple[int, int, int], knobs: dict) -> None:
    features = clip(*shape, seed)
    merged, expected = merge_video(features, **knobs), reference.merge(features, **knobs)
    assert same_map(merged, expected)
    torch.testing.assert_close(merged.features, expected.features, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, shape=SHAPES, knobs=KNOBS)
def test_what_holds_for_any_video(seed: int, shape: tuple[int, int, int], knobs: dict) -> None:
    frames, positions, channels = shape
    features = clip(*shape, seed)
    merged = merge_video(features, **knobs)
    count = len(merged.features)
    assert sum(merged.scene_lengths) == frames
    assert merged.features.shape == (count, channels)
    # The assignment is a partition: every cell has a token, every token a cell.
    assert merged.assignment.shape == (frames * positions,)
    assert merged.assignment.unique().tolist() == list(range(count))
    torch.testing.assert_close(merged.features.double(), means(features, merged), atol=1e-5, rtol=1e-5)
    # A representative is a member of its own cluster.
    assert merged.assignment[merged.representative].tolist() == list(range(count))
    # Groups run 0, 1, … in sequence order, and sizes add up.
    assert merged.group.unique_consecutive().tolist() == list(range(int(merged.group.max()) + 1))
    assert sum(merged.static_sizes) + sum(merged.dynamic_sizes) == count
    # Frames of a scene have the same number of dynamic tokens.
    for length, size in zip(merged.scene_lengths, merged.dynamic_sizes):
        assert size % length == 0
    # A token of one cell is that cell, bit for bit.
    alone = (merged.assignment.bincount() == 1).nonzero()[:, 0]
    assert torch.equal(merged.features[alone], features.flatten(0, 1)[merged.representative[alone]])


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, shape=SHAPES)
def test_the_order_of_channels_does_not_matter(seed: int, shape: tuple[int, int, int]) -> None:
    features = clip(*shape, seed)
    order = torch.randperm(shape[2], generator=torch.Generator().manual_seed(seed))
    merged, shuffled = merge_video(features), merge_video(features[:, :, order])
    assert same_map(merged, shuffled)
    torch.testing.assert_close(merged.features[:, order], shuffled.features, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.37])
@pytest.mark.parametrize(("frames", "positions"), [(1, 1), (1, 40), (8, 1), (8, 14), (8, 40), (30, 300)])
def test_all_equal_tokens(frames: int, positions: int, value: float) -> None:
    merged = merge_video(torch.full((frames, positions, 6), value))
    assert merged.scene_lengths == [frames]
    torch.testing.assert_close(merged.features, torch.full_like(merged.features, value))
    left = positions if positions <= 14 else positions // 2
    still = frames > 1 and value != 0  # no frames to compare, or no direction to compare: dynamic
    assert merged.static_sizes == [left if still else 0]
    assert merged.dynamic_sizes == [0 if still else frames * left]


def test_all_tokens_apart() -> None:
    """Orthogonal tokens everywhere: nothing is static, and equal distances leave the order of the page."""
    features = torch.eye(40).view(2, 20, 40)
    merged = merge_video(features)
    assert same_map(merged, reference.merge(features))
    assert merged.static_sizes == [0] and merged.dynamic_sizes == [20]


def test_repeated_frames_and_tokens() -> None:
    """Exact ties within sets that are not all equal."""
    features = clip(6, 10, 16).repeat_interleave(2, dim=0).repeat_interleave(3, dim=1)
    assert same_map(merge_video(features), reference.merge(features))


def test_one_frame_scenes_are_dynamic_whatever_tau() -> None:
    merged = merge_video(clip(1, 30, 8), tau=-5.0)
    assert merged.static_sizes == [0] and merged.dynamic_sizes == [15]


def test_tau_is_a_strict_bound() -> None:
    """Unit vectors at 60 degrees: a cosine of 0.5 up to rounding; the bound itself is no static token."""
    angle = torch.tensor([0.0, torch.pi / 3])
    features = torch.stack([angle.cos(), angle.sin()], 1)[:, None]  # (2, 1, 2)
    assert merge_video(features, tau=0.49).static_sizes == [1]
    assert merge_video(features, tau=0.51).static_sizes == [0]
    assert merge_video(torch.ones(4, 1, 8), tau=1.0).static_sizes == [0]


def test_zero_vectors_are_unlike_everything() -> None:
    features = torch.ones(4, 3, 8)
    features[:2, 0] = 0
    features[:, 1] = 0
    merged = merge_video(features, segment_ratio=0.25)
    assert merged.scene_lengths == [4] and merged.static_sizes == [1]
    assert torch.isfinite(merged.features).all()


def test_static_frame_names_the_stand_in() -> None:
    features = regular(1, 20, 16, still=20)
    assert (merge_video(features).representative // 20).unique().tolist() == [0]
    assert (merge_video(features, static_frame="middle").representative // 20).unique().tolist() == [2]


def test_ratio_one_permutes_and_loses_nothing() -> None:
    """The published meaning: a set is clustered into as many clusters as it has tokens, in the order of scores."""
    features = clip(4, 30, 8)
    merged = merge_video(features, tau=1.5, cluster_ratio=1.0)
    assert len(merged.features) == 120
    assert torch.equal(merged.features[merged.assignment], features.flatten(0, 1))
    assert merged.assignment.tolist() != list(range(120))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    features = regular(3, 40, 16, still=20).to(dtype)
    merged = merge_video(features)
    wide = merge_video(features.float())
    assert merged.features.dtype == dtype and same_map(merged, wide)
    exact = means(features, merged).to(dtype)
    torch.testing.assert_close(merged.features, exact, atol=1e-6, rtol=torch.finfo(dtype).eps)
    alone = merged.assignment.bincount() == 1
    cells = features.flatten(0, 1)[merged.representative]
    assert torch.equal(merged.features[alone], cells[alone])


def test_many_frames_in_half_precision_do_not_overflow() -> None:
    merged = merge_video(torch.full((300, 2, 4), 1000.0, dtype=torch.float16))
    assert merged.features.unique().tolist() == [1000.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.8, 1.5, -2.0])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tau: float) -> None:
    features = clip(24, 60, 32, seed=4).to(dtype)
    whole = merge_video(features, tau)
    monkeypatch.setattr(merging, "_GATHER_BYTES", {"cpu": 4 * 32 * 100})
    monkeypatch.setattr(merging, "_DISTANCE_ELEMENTS", 5 * 60**2)
    monkeypatch.setattr(merging, "_CUT_PRODUCTS", 0)
    monkeypatch.setattr(_cells, "_SLICE_ELEMENTS", 24 * 60 * 7)
    chunked = merge_video(features, tau)
    assert same_map(whole, chunked)
    torch.testing.assert_close(whole.features, chunked.features)


def test_input_is_left_alone_and_the_result_repeats() -> None:
    features = clip(12, 40, 16).requires_grad_()
    before = features.detach().clone()
    one, two = merge_video(features), merge_video(features)
    assert torch.equal(features, before) and not one.features.requires_grad
    assert same_map(one, two) and torch.equal(one.features, two.features)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        three = merge_video(before.transpose(0, 1).contiguous().transpose(0, 1))
    assert same_map(one, three) and torch.equal(one.features, three.features)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"features": torch.zeros(4, 8)}, InputError, "shape"),
        ({"features": torch.zeros(0, 4, 8)}, InputError, "no empty axis"),
        ({"features": torch.zeros(2, 0, 8)}, InputError, "no empty axis"),
        ({"features": torch.zeros(2, 3, 4, dtype=torch.int32)}, InputError, "floating-point"),
        ({"features": [[1.0]]}, InputError, "list"),
        ({"tau": float("nan")}, ConfigError, "tau is nan"),
        ({"cluster_ratio": 0.0}, ConfigError, "cluster_ratio is 0.0"),
        ({"cluster_ratio": 1.2}, ConfigError, "at most 1"),
        ({"segment_ratio": -0.1}, ConfigError, "segment_ratio"),
        ({"k": 0}, ConfigError, "k is 0"),
        ({"static_frame": "last"}, ConfigError, "'first' or 'middle'"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        merge_video(**{"features": clip(4, 16, 8), **change})
