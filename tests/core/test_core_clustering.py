# SPDX-License-Identifier: Apache-2.0
"""`dpc_knn` against the loop of the reference, in every shape it takes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import reference
from core.clips import tokens
from prunevid.core import dpc_knn
from prunevid.errors import ConfigError, InputError


@pytest.mark.parametrize("k", [1, 5, 7, 50])
@pytest.mark.parametrize("count", [1, 2, 6, 30, 300])
def test_one_set_equals_the_loop(count: int, k: int) -> None:
    for clusters in {1, max(1, count // 2), count}:
        points = tokens(count, seed=count + k)
        expected, _ = reference.dpc(points, clusters, k)
        assert dpc_knn(points, clusters, k).tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), k=st.integers(1, 12))
def test_a_masked_batch_equals_its_sets_one_by_one(seed: int, sizes: list[int], k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    width = max(sizes) + 3
    points = torch.randn(len(sizes), width, 8, generator=generator)
    mask = torch.zeros(len(sizes), width, dtype=torch.bool)
    for row, size in zip(mask, sizes):
        row[torch.randperm(width, generator=generator)[:size]] = True
    clusters = [max(1, size // 2) for size in sizes]
    labels = dpc_knn(points, clusters, k, mask)
    assert (labels[~mask] == -1).all()
    for i, count in enumerate(clusters):
        expected, _ = reference.dpc(points[i, mask[i]], count, k)
        assert labels[i, mask[i]].tolist() == expected.tolist()


def test_masked_out_tokens_have_no_say() -> None:
    points, mask = tokens(40).view(2, 20, 16), torch.rand(2, 20) > 0.4
    spoiled = points.masked_fill(~mask[:, :, None], 1e6)
    assert torch.equal(dpc_knn(points, 3, mask=mask), dpc_knn(spoiled, 3, mask=mask))


def test_a_batch_without_mask() -> None:
    points = tokens(90).view(3, 30, 16)
    labels = dpc_knn(points, [4, 9, 30])
    for i, count in enumerate((4, 9, 30)):
        assert labels[i].tolist() == reference.dpc(points[i], count, 7)[0].tolist()


def test_labels_count_down_the_scores_and_centres_keep_theirs() -> None:
    points = tokens(50)
    _, centres = reference.dpc(points, 12, 7)
    assert dpc_knn(points, 12)[centres].tolist() == list(range(12))


@pytest.mark.parametrize("count", [20, 300])
def test_equal_tokens_go_to_the_first_cluster_and_centres_to_themselves(count: int) -> None:
    """All scores tie, so the first tokens are the centres; every distance is exactly 0."""
    points = tokens(1).expand(count, -1) * 3.7
    expected = [*range(5), *[0] * (count - 5)]
    assert dpc_knn(points, 5).tolist() == expected


def test_far_groups_are_found() -> None:
    groups = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor([9, 12, 15]))
    points = tokens(36) * 0.1 + 8 * torch.eye(3, 16)[groups]
    labels = dpc_knn(points, 3)
    assert len(set(zip(groups.tolist(), labels.tolist()))) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_cluster_in_float32(dtype: torch.dtype) -> None:
    points = tokens(40).to(dtype)
    assert torch.equal(dpc_knn(points, 9), dpc_knn(points.float(), 9))


def test_autocast_and_gradients_change_nothing() -> None:
    points = tokens(300)
    expected = dpc_knn(points, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dpc_knn(points.requires_grad_(), 40), expected)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"num_clusters": 0}, ConfigError, "num_clusters is 0"),
        ({"num_clusters": 11}, ConfigError, "from 1 to 10"),
        ({"num_clusters": [2, 2]}, InputError, "num_clusters has 2 entries"),
        ({"k": 0}, ConfigError, "k is 0"),
        ({"tokens": torch.zeros(0, 4)}, InputError, "no empty axis"),
        ({"tokens": torch.zeros(10)}, InputError, "shape"),
        ({"tokens": torch.zeros(10, 4, dtype=torch.long)}, InputError, "floating-point"),
        ({"mask": torch.zeros(10, dtype=torch.bool)}, InputError, "False everywhere"),
        ({"mask": torch.ones(9, dtype=torch.bool)}, InputError, "mask is"),
        ({"mask": torch.arange(10) < 1}, ConfigError, "from 1 to 1"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dpc_knn(**{"tokens": tokens(10), "num_clusters": 2, **change})
