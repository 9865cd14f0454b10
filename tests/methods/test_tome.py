# SPDX-License-Identifier: Apache-2.0
"""`tome` against plain loops over lists of cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from methods.loops import cosine, make_video, mean, rows
from prunevid import methods
from prunevid.methods import Video, tome

SHAPES = [(1, 4, 5, 8), (3, 3, 3, 6), (2, 1, 2, 4), (4, 2, 5, 16)]


def merged_frame(tokens: list[list[float]], wanted: int, r: int) -> list[tuple[int, set[int]]]:
    """(the place that stands for it, its places) of every merged token of a frame."""
    left = [(place, {place}) for place in range(len(tokens))]
    while len(left) > wanted:
        values = [mean([tokens[place] for place in members]) for _, members in left]
        even, odd = range(0, len(left), 2), range(1, len(left), 2)
        edges = []
        for a in even:
            b = max(odd, key=lambda b, a=a: cosine(values[a], values[b]))
            edges.append((-cosine(values[a], values[b]), a, b))
        gone = set()
        for _, a, b in sorted(edges)[: min(r, len(left) // 2, len(left) - wanted)]:
            left[b] = (left[b][0], left[b][1] | left[a][1])
            gone.add(a)
        left = [token for i, token in enumerate(left) if i not in gone]
    return left


def check_frames(video: Video, quota: list[int], r: int) -> None:
    """Compare the whole result, frame by frame."""
    merged = methods.get("tome", r=r, keep=quota[0] / video.features.shape[1]).merge(video)
    positions, done = video.features.shape[1], 0
    for frame, (tokens, share) in enumerate(zip(rows(video.features), quota)):
        labels = merged.assignment[frame * positions : (frame + 1) * positions]
        if share == 0:
            assert labels.eq(-1).all()
            continue
        for place, members in merged_frame(tokens, share, r):
            assert merged.representative[done] == frame * positions + place
            assert set(labels.eq(done).nonzero().flatten().tolist()) == members
            wanted = torch.tensor(mean([tokens[member] for member in members]))
            torch.testing.assert_close(merged.features[done], wanted, atol=1e-5, rtol=1e-5)
            done += 1
    assert done == len(merged.features)


@pytest.mark.parametrize("r", [1, 3, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_rounds_in_every_frame(shape: tuple[int, ...], r: int) -> None:
    video = make_video(*shape, seed=5)
    frames, positions = video.features.shape[:2]
    for share in {1, 2, positions // 2, positions - 1, positions}:
        check_frames(video, [share] * frames, r)
        spare = frames // 2 if share < positions else 0  # the first frames get one token more
        quota = [share + (frame < spare) for frame in range(frames)]
        check_frames(replace(video, budget=sum(quota)), quota, r)


def test_fewer_tokens_than_frames() -> None:
    check_frames(replace(make_video(5, 2, 3, 4), budget=2), [1, 0, 0, 0, 1], r=4)


def test_by_hand() -> None:
    """Five tokens in a row: 2 joins 3, with which it is equal; then 0, the more alike of 0 and 4, joins 1."""
    features = torch.tensor([[[1.0, 0.1], [1, 0], [0, 2], [0, 4], [1, 1]]])
    merged = methods.get("tome", r=1).merge(Video(features, 1, 5, 4))
    assert merged.assignment.tolist() == [0, 1, 2, 2, 3] and merged.representative.tolist() == [0, 1, 3, 4]
    assert merged.features[2].tolist() == [0, 3]
    merged = methods.get("tome", r=1).merge(Video(features, 1, 5, 3))
    assert merged.assignment.tolist() == [0, 0, 1, 1, 2] and merged.representative.tolist() == [1, 3, 4]


def test_sizes_weigh() -> None:
    """Three tokens that become one have equal weights, though two of them merged first."""
    features = torch.tensor([[[3.0, 0], [3, 0], [0, 3]]])
    merged = methods.get("tome").merge(Video(features, 1, 3, 1))
    torch.testing.assert_close(merged.features, torch.tensor([[2.0, 1]]))


def test_few_frames_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    video = make_video(5, 3, 3, 6, budget=22)
    whole = methods.get("tome").merge(video)
    monkeypatch.setattr(tome, "_COPY_ELEMENTS", 1)
    parts = methods.get("tome").merge(video)
    assert torch.equal(whole.assignment, parts.assignment) and torch.equal(whole.features, parts.features)
