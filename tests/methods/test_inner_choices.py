# SPDX-License-Identifier: Apache-2.0
"""`fastv`, `pyramiddrop` and `sparsevlm`, which choose inside the language model, against plain loops."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reference
from methods.choosings import best_of_videos, make_choosing, mean_attention
from methods.loops import best
from prunevid import methods
from prunevid.errors import ConfigError
from prunevid.methods.sparsevlm import rated, raters, recycled

VIDEOS = [(20,), (14, 9), (5, 1, 12)]

# ---- fastv and pyramiddrop: what the last row attends to -----------------------------------------------------------


@pytest.mark.parametrize("videos", VIDEOS)
@pytest.mark.parametrize("keep", [0.05, 0.25, 0.5, 1.0])
def test_fastv_keeps_what_the_last_row_attends_to(keep: float, videos: tuple[int, ...]) -> None:
    choosing = make_choosing(videos, seed=len(videos))
    scores = mean_attention(choosing, [-1])
    choice = methods.get("fastv", keep=keep).choose(choosing)
    quota = [max(1, round(keep * size)) for size in videos]
    assert choice.kept.tolist() == best_of_videos(scores, choosing.video, quota)
    assert choice.target is None
    torch.testing.assert_close(choice.scores, torch.tensor(scores))


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
@pytest.mark.parametrize(
    ("videos", "quota"), [((20,), [7]), ((14, 9), [1, 8]), ((14, 9), [14, 30]), ((5, 1, 12), [2, 1, 3])]
)
def test_a_quota_replaces_the_share(videos: tuple[int, ...], quota: list[int], name: str) -> None:
    choosing = make_choosing(videos, quota=quota, seed=3)
    kept = methods.get(name).choose(choosing).kept.tolist()
    assert kept == best_of_videos(mean_attention(choosing, [-1]), choosing.video, quota)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_pyramiddrop_keeps_shares_of_the_first_number(step: int) -> None:
    choosing = make_choosing((14, 9), step=step, cells=[40, 17], seed=step)
    kept = methods.get("pyramiddrop", keep=(0.3, 0.2, 0.06)).choose(choosing).kept.tolist()
    quota = [[12, 5], [8, 3], [2, 1]][step]
    assert kept == best_of_videos(mean_attention(choosing, [-1]), choosing.video, quota)


def test_layers_count_from_one() -> None:
    """K layers see everything; the choice is made after the last of them, number K - 1 counted from 0."""
    assert methods.get("fastv").selection_layers == (2,)
    assert methods.get("pyramiddrop").selection_layers == (7, 15, 23)
    assert methods.get("sparsevlm", layers=(1, 4), keep=(0.5, 0.2)).selection_layers == (0, 3)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("fastv", {"layer": 0}, "layer is 0"),
        ("fastv", {"keep": 0}, "keep is 0"),
        ("pyramiddrop", {"layers": (8, 16)}, "must be tuples of the same length"),
        ("pyramiddrop", {"layers": (8, 8, 9)}, "must ascend"),
        ("pyramiddrop", {"keep": (0.5, 0.6, 0.1)}, "must not grow"),
        ("sparsevlm", {"layers": [3, 7, 16]}, "must be tuples"),
        ("sparsevlm", {"recycle": 1.5}, "recycle is 1.5"),
        ("sparsevlm", {"cluster": 0}, "cluster is 0"),
        ("lookm", {"merge_by": "mean"}, "merge_by is 'mean'"),
        ("lookm", {"recent": -1}, "recent is -1"),
        ("dycoke", {"p": 1}, "p is 1"),
    ],
)
def test_refused_options(name: str, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        methods.get(name, **options)


# ---- sparsevlm -----------------------------------------------------------------------------------------------------


def loop_raters(choosing) -> list[int]:
    """Rows whose mean share of the tokens' interest is above the mean of all rows."""
    hidden, text = choosing.hidden.double().tolist(), choosing.text.double().tolist()
    shares = [0.0] * len(text)
    for token in hidden:
        exponents = [math.exp(sum(a * b for a, b in zip(token, row)) / math.sqrt(len(row))) for row in text]
        for row, exponent in enumerate(exponents):
            shares[row] += exponent / sum(exponents) / len(hidden)
    return [row for row, share in enumerate(shares) if share > 1 / len(text)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("text", [2, 5])
def test_raters_and_rating(text: int, seed: int) -> None:
    choosing = make_choosing((14, 9), text=text, seed=seed)
    rows = loop_raters(choosing)
    assert raters(choosing).tolist() == rows and 0 < len(rows) < text
    scores = rated(choosing.attention, torch.tensor(rows))
    torch.testing.assert_close(scores, torch.tensor(mean_attention(choosing, rows)))


def test_a_single_row_rates() -> None:
    choosing = make_choosing((14,), text=1)
    assert raters(choosing).tolist() == [0]


def loop_recycled(tokens: int, allowed: int, share: float, cluster: int) -> tuple[int, int]:
    """The largest number of clusters that the share of what is then dropped supports."""
    fitting = [(0, 0)]
    for centres in range(1, allowed):
        pool = math.ceil(share * (tokens - (allowed - centres)))
        if centres <= pool // cluster + 1 and centres <= pool:
            fitting.append((centres, pool))
    return max(fitting)


def test_how_many_are_recycled() -> None:
    """100 tokens, 30 left: 27 by rank, 30 % of the other 73 (22) are clustered into 22 // 10 + 1 = 3."""
    assert recycled(100, 30, 0.3, 10) == (3, 22)
    assert recycled(576, 300, 0.3, 10) == (9, 86) and recycled(8, 1, 0.3, 10) == (0, 0)
    for tokens in range(1, 60, 7):
        for allowed in range(1, tokens + 1):
            assert recycled(tokens, allowed, 0.3, 3) == loop_recycled(tokens, allowed, 0.3, 3)


def loop_targets(choosing, quota: list[int], share: float, cluster: int, k: int) -> list[int]:
    """Where tokens go: the best to themselves, clusters of the next to their first member, the others nowhere."""
    scores, owners = mean_attention(choosing, loop_raters(choosing)), choosing.video.tolist()
    target = [-1] * len(owners)
    for number, allowed in enumerate(quota):
        own = [i for i, owner in enumerate(owners) if owner == number]
        centres, pool = loop_recycled(len(own), allowed, share, cluster)
        ranked = sorted(own, key=lambda i: (-scores[i], i))
        for i in ranked[: allowed - centres]:
            target[i] = i
        rest = sorted(ranked[allowed - centres :][:pool])
        if centres:
            labels, _ = reference.dpc(choosing.hidden[rest], centres, k)
            for i, label in zip(rest, labels.tolist()):
                target[i] = next(j for j, other in zip(rest, labels.tolist()) if other == label)
    return target


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("videos", "quota"), [((40,), [12]), ((40,), [2]), ((40,), [1]), ((30, 22), [10, 5])])
def test_sparsevlm_recycles(videos: tuple[int, ...], quota: list[int], seed: int) -> None:
    choosing = make_choosing(videos, quota=quota, seed=seed)
    method = methods.get("sparsevlm", recycle=0.5, cluster=4, k=3)
    choice = method.choose(choosing)
    expected = loop_targets(choosing, quota, 0.5, 4, 3)
    assert choice.target.tolist() == expected
    assert choice.kept.tolist() == [i for i, target in enumerate(expected) if target == i]
    assert len(choice.kept) == sum(quota)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_sparsevlm_as_published(step: int) -> None:
    """300, 200 and 110 of 576 tokens, those that clusters are made of included."""
    choosing = make_choosing((60,), step=step, cells=[72])
    choice = methods.get("sparsevlm").choose(choosing)
    assert len(choice.kept) == [37, 25, 13][step]
    assert choice.target.tolist() == loop_targets(choosing, [[37, 25, 13][step]], 0.3, 10, 5)


def test_without_recycling_it_is_a_ranking() -> None:
    choosing = make_choosing((14, 9), quota=[5, 3])
    choice = methods.get("sparsevlm", recycle=0.0).choose(choosing)
    scores = mean_attention(choosing, loop_raters(choosing))
    assert choice.kept.tolist() == best_of_videos(scores, choosing.video, [5, 3])
    assert choice.target.ge(0).sum() == 8


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sparsevlm_meets_every_quota(data: st.DataObject) -> None:
    videos = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    quota = [data.draw(st.integers(1, size)) for size in videos]
    share = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    choosing = make_choosing(videos, quota=quota, seed=sum(videos))
    choice = methods.get("sparsevlm", recycle=share, cluster=data.draw(st.integers(1, 12))).choose(choosing)
    assert torch.bincount(choosing.video[choice.kept], minlength=len(videos)).tolist() == quota
    alive = choice.target[choice.target >= 0]
    assert (choice.target[alive] == alive).all()  # nothing joins a token that is gone
    assert (choosing.video[alive] == choosing.video[choice.target >= 0]).all()  # nor one of another video


# ---- dycoke, while the answer is written ---------------------------------------------------------------------------


def test_dycoke_shows_what_the_new_token_attends_to() -> None:
    method = methods.get("dycoke", p=0.6)
    attention = torch.tensor([0.1, 0.5, 0.2, 0.2, 0.3])
    everything = torch.ones(5, dtype=torch.bool)
    shown = method.revise(attention, None, everything)
    assert shown.nonzero()[:, 0].tolist() == best(dict(enumerate(attention.tolist())), 2) == [1, 4]

    alike, other = 3 * attention, torch.tensor([0.5, 0.0, 0.2, 0.2, 0.0])
    assert method.revise(alike, attention, shown).tolist() == shown.tolist()  # cosine 1: nothing has turned
    assert method.revise(other, attention, shown).nonzero()[:, 0].tolist() == [0, 2]
    assert methods.get("dycoke", p=0.6, turned=-1.0).revise(other, attention, shown).tolist() == shown.tolist()


@pytest.mark.parametrize(("p", "count"), [(0.8, 2), (0.95, 1), (0.5, 5), (0.01, 10)])
def test_dycoke_shows_one_token_at_least(p: float, count: int) -> None:
    attention = torch.rand(10, generator=torch.Generator().manual_seed(0))
    shown = methods.get("dycoke", p=p).revise(attention, None, torch.ones(10, dtype=torch.bool))
    assert shown.nonzero()[:, 0].tolist() == best(dict(enumerate(attention.tolist())), count)


def test_dycoke_without_its_second_stage() -> None:
    assert methods.get("dycoke", p=0).revision_layer is None and methods.get("dycoke").revision_layer == 2
