# SPDX-License-Identifier: Apache-2.0
"""`lookm`, which shrinks every layer's cache head by head, against plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.loops import best, cosine
from prunevid import methods
from prunevid.methods import LayerCache

HEADS, WIDTH = 3, 5
MERGES = ["pivotal", "averaged", "weighted", "none"]


def make_layer(videos: Sequence[int], quota: list[int], text: int = 4, seed: int = 0) -> LayerCache:
    """Two tokens of text, videos with a token between them, and `text` more."""
    video = [-1, -1]
    for number, size in enumerate(videos):
        video += [number] * size + [-1]
    video += [-1] * (text - 1)
    generator = torch.Generator().manual_seed(seed)
    shape = HEADS, len(video), WIDTH
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    scores = torch.rand(HEADS, len(video), generator=generator)
    owners = torch.tensor(video)
    return LayerCache(keys, values, scores, owners >= 0, owners, quota, layer=0)


def held_places(layer: LayerCache, head: int, recent: int) -> list[int]:
    """All text; of each video its quota: those at the prompt's end, then those that were attended to most."""
    owners, scores = layer.video.tolist(), layer.scores[head].tolist()
    found = [place for place, owner in enumerate(owners) if owner < 0]
    for number, allowed in enumerate(layer.quota):
        own = [place for place, owner in enumerate(owners) if owner == number]
        late = [place for place in own if place >= len(owners) - recent][:allowed]
        rest = {place: scores[place] for place in own if place not in late}
        found += late + best(rest, allowed - len(late))
    return sorted(found)


def shrunk(layer: LayerCache, recent: int, merge_by: str) -> tuple[list, list]:
    """Head by head: the held tokens, each the mean of itself and of what the others hand to it."""
    keys, values = [], []
    for head in range(HEADS):
        own = layer.keys[head].double().tolist()
        held = held_places(layer, head, recent)
        gone = [place for place in range(len(own)) if place not in held]
        nearest = {place: max(held, key=lambda h: cosine(own[place], own[h])) for place in gone}
        alike = {place: cosine(own[place], own[nearest[place]]) for place in gone}
        mean = sum(alike.values()) / len(gone) if gone else 0.0
        for states, result in ((own, keys), (layer.values[head].double().tolist(), values)):
            rows = []
            for place in held:
                parts = [states[place]]
                for other in gone:
                    if nearest[other] != place or merge_by == "none":
                        continue
                    if merge_by == "pivotal":
                        parts.append([(a + b) / 2 for a, b in zip(states[other], states[place])])
                    elif alike[other] >= mean:
                        factor = alike[other] if merge_by == "weighted" else 1.0
                        parts.append([factor * a for a in states[other]])
                rows.append([sum(column) / len(parts) for column in zip(*parts)])
            result.append(rows)
    return keys, values


@pytest.mark.parametrize("merge_by", MERGES)
@pytest.mark.parametrize("recent", [0, 3, 9, 30])
@pytest.mark.parametrize(("videos", "quota"), [((16,), [5]), ((16,), [1]), ((9, 12), [3, 12]), ((6, 1, 8), [2, 1, 1])])
def test_every_head_holds_its_own_tokens(videos: tuple[int, ...], quota: list[int], recent: int, merge_by: str) -> None:
    layer = make_layer(videos, quota, seed=sum(videos))
    found = methods.get("lookm", recent=recent, merge_by=merge_by).shrink(layer)
    for states, expected in zip(found, shrunk(layer, recent, merge_by)):
        torch.testing.assert_close(states, torch.tensor(expected))
    if recent == 0 and max(videos) > 1:
        assert held_places(layer, 0, 0) != held_places(layer, 1, 0)


@pytest.mark.parametrize("merge_by", MERGES)
def test_nothing_to_forget_changes_nothing(merge_by: str) -> None:
    layer = make_layer((7, 5), [7, 5])
    keys, values = methods.get("lookm", merge_by=merge_by).shrink(layer)
    assert torch.equal(keys, layer.keys) and torch.equal(values, layer.values)


def test_half_way_points_by_hand() -> None:
    """One head, one text token and three of a video, of which the first is held; both others are most like it."""
    keys = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [3.0, 0.0], [5.0, 0.1]]])
    video = torch.tensor([-1, 0, 0, 0])
    layer = LayerCache(keys, 10 * keys, torch.tensor([[0.1, 0.9, 0.5, 0.2]]), video >= 0, video, [1], 0)
    held, values = methods.get("lookm", recent=0).shrink(layer)
    expected = torch.tensor([[[0.0, 1.0], [(1 + 2 + 3) / 3, 0.05 / 3]]])
    torch.testing.assert_close(held, expected)
    torch.testing.assert_close(values, 10 * expected)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_quota_is_met(data: st.DataObject) -> None:
    videos = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    quota = [data.draw(st.integers(1, size)) for size in videos]
    layer = make_layer(videos, quota, seed=len(videos))
    method = methods.get("lookm", recent=data.draw(st.integers(0, 12)), merge_by=data.draw(st.sampled_from(MERGES)))
    text = int((~layer.visual).sum())
    for states in method.shrink(layer):
        assert states.shape == (HEADS, text + sum(quota), WIDTH) and states.isfinite().all()


@pytest.mark.parametrize(
    ("options", "held"),
    [({}, 8), ({"keep": 0.01}, 1), ({"retention_ratio": 0.3}, 30), ({"retention_tokens": 500}, 100)],
)
def test_the_share_counts_from_what_is_left_and_a_budget_from_the_video(options: dict, held: int) -> None:
    assert methods.get("lookm", **options).cache_budget(100, 40) == held
