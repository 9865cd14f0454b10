# SPDX-License-Identifier: Apache-2.0
"""`evs` and `dtd` against plain loops, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from methods.loops import best, cosine, kept_cells, make_video, rows
from prunevid import methods
from prunevid.methods import Video, dropping

SHAPES = [(2, 3, 3, 5), (7, 2, 4, 16), (5, 1, 1, 3), (3, 4, 4, 2)]


def similarity_to_the_frame_before(video: Video) -> dict[int, float]:
    """Of every cell beyond the first frame."""
    features = rows(video.features)
    found = {}
    for frame in range(1, len(features)):
        for place, token in enumerate(features[frame]):
            found[frame * len(features[0]) + place] = cosine(token, features[frame - 1][place])
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_quota_goes_to_the_first_frame_and_to_what_changed_most(shape: tuple[int, ...], seed: int) -> None:
    video = make_video(*shape, seed=seed)
    frames, positions = video.features.shape[:2]
    difference = {cell: 1 - value for cell, value in similarity_to_the_frame_before(video).items()}
    for budget in {positions, positions + 1, frames * positions // 2, frames * positions - 1}:
        if budget < positions:
            continue
        wanted = [*range(positions), *best(difference, budget - positions)]
        for method in (methods.get("evs"), methods.get("dtd"), methods.get("dtd", threshold=0.9, keep=0.1)):
            assert kept_cells(method.merge(replace(video, budget=budget))) == wanted


@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.5, 0.8])
@pytest.mark.parametrize("shape", SHAPES)
def test_dtd_drops_what_is_more_alike_than_its_threshold(shape: tuple[int, ...], threshold: float) -> None:
    video = make_video(*shape, seed=4)
    similarity = similarity_to_the_frame_before(video)
    wanted = [*range(video.features.shape[1]), *(cell for cell, value in similarity.items() if value <= threshold)]
    assert kept_cells(methods.get("dtd", threshold=threshold).merge(video)) == wanted


def test_by_hand() -> None:
    """Three frames of two tokens: the left one turns by 90 degrees, then stays; the right one turns by 45 twice."""
    features = torch.tensor([[[1.0, 0], [2, 0]], [[0, 1], [3, 3]], [[0, 5], [0, 1]]])
    video = Video(features, 1, 2)
    assert kept_cells(methods.get("evs").merge(replace(video, budget=3))) == [0, 1, 2]
    assert kept_cells(methods.get("evs").merge(replace(video, budget=5))) == [0, 1, 2, 3, 5]
    assert kept_cells(methods.get("dtd", threshold=0.5).merge(video)) == [0, 1, 2]
    assert kept_cells(methods.get("dtd", threshold=0.8).merge(video)) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_still_video_keeps_its_first_frame_and_then_the_lowest_cells(dtype: torch.dtype) -> None:
    """Equal tokens are at distance 0 exactly, so that ties are decided by place and not by rounding."""
    features = torch.randn(1, 12, 33).mul(3).to(dtype).repeat(4, 1, 1)
    assert dropping.change(features).eq(0).all()
    assert kept_cells(methods.get("evs").merge(Video(features, 3, 4, 17))) == list(range(17))
    assert kept_cells(methods.get("dtd", threshold=0.999).merge(Video(features, 3, 4))) == list(range(12))


@pytest.mark.parametrize("name", ["evs", "dtd"])
def test_a_budget_below_one_frame_thins_the_first(name: str) -> None:
    assert kept_cells(methods.get(name).merge(make_video(3, 3, 3, 4, budget=3))) == [0, 4, 8]


def test_long_videos_are_compared_a_few_frames_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_video(9, 2, 3, 7).features
    later, sooner = list(range(1, 9)), list(range(8))
    whole = dropping.change(features)
    assert whole.shape == (8, 6)
    for limit in (2**26, 90, 42, 1):  # all frames at a time, two, one, and one
        monkeypatch.setattr(dropping, "_COPY_ELEMENTS", limit)
        assert torch.equal(dropping.change(features), whole)
        assert torch.equal(dropping.change_between(features, later, sooner), whole)
