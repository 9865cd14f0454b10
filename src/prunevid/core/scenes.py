# SPDX-License-Identifier: Apache-2.0
"""Scenes: runs of consecutive frames that look alike (docs/algorithm.md, "Stage 1", steps 1 and 2)."""

from __future__ import annotations

from itertools import groupby

from torch import Tensor

from prunevid.core._tensors import check_count, check_floats, check_ratio, plain, read
from prunevid.core.clustering import SetSizes, density_peaks, pairwise_squared


@plain
def scene_lengths(frame_features: Tensor, segment_ratio: float = 0.25, k: int = 7) -> list[int]:
    """Cut a video into scenes (Stage 1, steps 1 and 2): cluster its frames, then make the clusters contiguous.

    The host reads once (the label of every frame), and not at all for one frame.

    Args:
        frame_features: (T, C), one vector a frame: the mean of its tokens.
        segment_ratio: clusters per frame; int(T * segment_ratio) clusters, at least 1.
        k: neighbours of the clustering, capped at T.

    Returns:
        The lengths of the consecutive scenes, in frames; they sum to T.

    Raises:
        InputError: a wrong shape, or no frame.
        ConfigError: segment_ratio or k out of range.
    """
    check_floats("frame_features", frame_features, "T, C")
    check_ratio("segment_ratio", segment_ratio)
    check_count("k", k, 1)
    if len(frame_features) == 1:
        return [1]
    return [length for _, length in refine(frame_labels(frame_features, segment_ratio, k))]


def frame_labels(frame_features: Tensor, segment_ratio: float, k: int) -> list[int]:
    """(T, C) -> the cluster of every frame, before any refinement."""
    frames, channels = frame_features.shape
    clusters = max(1, int(frames * segment_ratio))
    squared = pairwise_squared(frame_features.float().unsqueeze(0))
    labels, _ = density_peaks(squared, channels, k, SetSizes(clusters, frames))
    return read(labels)[0]


def refine(labels: list[int]) -> list[tuple[int, int]]:
    """Frame labels -> scenes (label, frames).

    A label stays on its longest runs, where these have two frames or more. The frames in between join the longer
    neighbouring scene, from left to right; the left one on a tie. A video that keeps no label is one scene.
    """
    runs = [(label, len(list(members))) for label, members in groupby(labels)]
    longest: dict[int, int] = {}
    for label, length in runs:
        longest[label] = max(length, longest.get(label, 0))
    scenes: list[tuple[int, int]] = []
    lost = 0  # frames without a label since the last scene
    for label, length in runs:
        if length == 1 or length < longest[label]:
            lost += length
            continue
        total = length
        if lost and scenes and scenes[-1][1] >= length:
            scenes[-1] = (scenes[-1][0], scenes[-1][1] + lost)
        else:
            total += lost
        lost = 0
        if scenes and scenes[-1][0] == label:
            total += scenes.pop()[1]
        scenes.append((label, total))
    if not scenes:
        return [(0, len(labels))]
    scenes[-1] = (scenes[-1][0], scenes[-1][1] + lost)
    return scenes
