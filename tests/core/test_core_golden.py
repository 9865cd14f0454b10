# SPDX-License-Identifier: Apache-2.0
"""Parity with arrays recorded from the original implementation (`shared/golden`, beside the checkout)."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid.core import dpc_knn, merge_video, question_scores, scene_lengths, select_by_group
from prunevid.core._cells import frame_means_and_norms, lay_out, mean_unit_norms
from prunevid.core.scenes import frame_labels, refine

CASES = ("mha_default", "mha_noise", "all_static", "all_dynamic", "no_prune_knobs")
K = 7


class Recorded:
    """One case: its arrays, its hyper-parameters, and the features that stage 1 got, (T, N, C)."""

    def __init__(self, folder: Path, name: str) -> None:
        self.arrays = np.load(folder / f"{name}.npz")
        self.knobs: dict[str, Any] = json.loads((folder / "meta.json").read_text())["cases"][name]["prune"]
        positions = self.arrays["frames_sim"].shape[1]
        self.features = self["image_features"][0].unflatten(0, (-1, positions))

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `merge_video`."""
        return {
            "tau": self.knobs["tau"],
            "cluster_ratio": self.knobs["cluster_ratio"],
            "segment_ratio": self.knobs["temporal_segment_ratio"],
            "k": K,
        }


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, shared: Callable[..., Path]) -> Recorded:
    shared("golden", f"{request.param}.npz")
    return Recorded(shared("golden"), request.param)


def test_scenes(case: Recorded) -> None:
    ratio = case.knobs["temporal_segment_ratio"]
    frames = case.features.mean(1)
    raw = case["temporal_labels_raw"][0].tolist()
    if (
        len(frames.unique(dim=0)) > 1
    ):  # where all frames are equal all scores tie, and the original orders ties otherwise
        assert frame_labels(frames, ratio, K) == raw
    refined = case["temporal_labels_refined"][0].tolist()
    assert [label for label, length in refine(raw) for _ in range(length)] == refined
    assert scene_lengths(frames, ratio, K) == case["window_sizes"].tolist()
    assert [len(list(run)) for _, run in groupby(refined)] == case["window_sizes"].tolist()


def test_similarities(case: Recorded) -> None:
    """The norm of the sum of unit vectors gives the mean over the pairs."""
    lengths = case["window_sizes"]
    cells = case.features.flatten(0, 1)
    _, norms = frame_means_and_norms(cells, case.features.shape[1])
    sums = mean_unit_norms(lay_out(cells, lengths.tolist(), case.features.shape[1]), norms)
    w = lengths[:, None]
    torch.testing.assert_close((sums.square() - w) / (w * (w - 1)), case["frames_sim"], atol=2e-6, rtol=0)


def test_labels_of_every_clustering(case: Recorded) -> None:
    """The sets that the original clustered, one by one and all in one masked batch."""
    sizes, counts = case["dpc_call_n"].tolist()[1:], case["dpc_call_clusters"].tolist()[1:]
    recorded = case["dpc_labels_flat"].split(case["dpc_call_n"].tolist())[1:]
    sets = [tokens for tokens in _sets(case) if len(tokens) > 14]
    assert [len(tokens) for tokens in sets] == sizes
    batch = torch.nn.utils.rnn.pad_sequence(sets, batch_first=True)
    mask = torch.arange(batch.shape[1]) < torch.tensor(sizes)[:, None]
    together = dpc_knn(batch, counts, K, mask)
    for tokens, count, labels, row in zip(sets, counts, recorded, together):
        assert dpc_knn(tokens, count, K).tolist() == labels.tolist()
        assert row[: len(tokens)].tolist() == labels.tolist()


def test_merged_video(case: Recorded) -> None:
    merged = merge_video(case.features, **case.settings)
    assert merged.scene_lengths == case["window_sizes"].tolist()
    assert merged.static_sizes == case["static_sizes"].tolist()
    assert merged.dynamic_sizes == case["dynamic_sizes"].tolist()
    torch.testing.assert_close(merged.features, case["merged_features"][0], atol=1e-5, rtol=0)
    assert merged.assignment.tolist() == _recorded_assignment(case)


def test_scores_from_the_recorded_attention(case: Recorded) -> None:
    """Queries and keys that give the recorded map back: its logarithm, one key a column."""
    attention = case["stage2_attn_text_to_image"][0]  # (H, q, N1), columns of the visual tokens alone
    rest = (1 - attention.double().sum(2, keepdim=True)).clamp(min=1e-30)
    logits = torch.cat([attention.double(), rest], 2).log().clamp(min=-80).float()
    heads, _, length = logits.shape
    queries, keys = logits * length**0.5, torch.eye(length).expand(heads, -1, -1)
    visual = torch.arange(length) < length - 1
    scores = question_scores(queries, keys, visual)
    torch.testing.assert_close(scores, case["stage2_scores"], atol=1e-5, rtol=0)


def test_kept_tokens(case: Recorded) -> None:
    group = merge_video(case.features, **case.settings).group
    kept = select_by_group(case["stage2_scores"], group, case.knobs["alpha"])
    assert kept.tolist() == sorted(case["stage2_topk_image_indices"].tolist())


def _sets(case: Recorded) -> list[Tensor]:
    """Every set in the order in which the original clusters: per scene the static one, then frame by frame."""
    sets = []
    scenes = case.features.split(case["window_sizes"].tolist())
    for scene, similarity in zip(scenes, case["frames_sim"]):
        static = similarity > case.knobs["tau"]
        sets += [scene[:, static].mean(0), *(frame[~static] for frame in scene)]
    return sets


def _recorded_assignment(case: Recorded) -> list[int]:
    """The merged token of every cell, from the recorded labels."""
    calls = iter(case["dpc_labels_flat"].split(case["dpc_call_n"].tolist())[1:])
    frames, positions, _ = case.features.shape
    assignment = torch.full((frames, positions), -1)
    start = total = 0
    for length, similarity in zip(case["window_sizes"].tolist(), case["frames_sim"]):
        static = similarity > case.knobs["tau"]
        for span, where in [(slice(start, start + length), static)] + [
            (slice(t, t + 1), ~static) for t in range(start, start + length)
        ]:
            size = int(where.sum())
            labels = next(calls).long() if size > 14 else torch.arange(size)
            assignment[span, where] = labels + total
            total += int(labels.max()) + 1 if size else 0
        start += length
    return assignment.flatten().tolist()
