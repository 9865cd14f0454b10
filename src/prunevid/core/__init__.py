# SPDX-License-Identifier: Apache-2.0
"""The method in pure tensors: clustering, scenes, merging, scoring, selection. No model, no gradient, deterministic."""

from __future__ import annotations

from prunevid.core.clustering import dpc_knn
from prunevid.core.merging import MergedVideo, merge_video
from prunevid.core.scenes import scene_lengths
from prunevid.core.scoring import Mixing, mixed_scores, question_scores
from prunevid.core.selection import peak_scores, select_by_group, select_top
from prunevid.core.shares import share_out

__all__ = [
    "MergedVideo",
    "Mixing",
    "dpc_knn",
    "merge_video",
    "mixed_scores",
    "peak_scores",
    "question_scores",
    "scene_lengths",
    "select_by_group",
    "select_top",
    "share_out",
]
