# SPDX-License-Identifier: Apache-2.0
"""Answers of the embedded model with every method, and token maps made by hand, for the tests of pictures."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunevid import builtin, methods
from prunevid.answers import Answer
from prunevid.core import MergedVideo
from prunevid.engine import TokenMap
from prunevid.models.base import VideoLayout
from prunevid.qa import VideoQA

NAMES = (*methods.names(), "tome|fastv")


@functools.cache
def embedded() -> VideoQA:
    """The embedded model."""
    return VideoQA.builtin()


@functools.cache
def clip() -> builtin.SyntheticClip:
    return builtin.make_clip(1)


@functools.cache
def clip_file() -> Path:
    """The clip as a file, for as long as the tests run."""
    folder = tempfile.TemporaryDirectory(prefix="prunevid-view-")
    _FOLDERS.append(folder)
    return builtin.write_clip(clip(), Path(folder.name) / "clip.mp4")


_FOLDERS: list[Any] = []  # removed when the program ends


@functools.cache
def answer_of(name: str) -> Answer:
    """The clip's first question, answered with a method that keeps a share of the tokens."""
    options: dict[str, Any] = {} if name == "none" else {"retention_ratio": 0.15}
    if name == "prunevid":
        options |= builtin.DEFAULTS
    method = methods.get(name, **options)
    return embedded().using(method).ask(clip_file(), clip().questions[0].text, max_new_tokens=1)


def white(count: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Frames without a mark."""
    return np.full((count, height, width, 3), 255, dtype=np.uint8)


def merged_map() -> TokenMap:
    """4 steps of 2 x 3 cells in scenes of 1 and 3; in the second a static token of four cells' places, and a loss.

    Token 0: all of frame 0. Token 1: the left column of frames 1 to 3 (static). Tokens 2, 3, 4: the rest of a frame
    each, but for the last cell of frame 3, which is dropped.
    """
    grid = torch.zeros(4, 2, 3, dtype=torch.long)
    for frame in (1, 2, 3):
        grid[frame] = frame + 1
        grid[frame, :, 0] = 1
    grid[3, 1, 2] = -1
    merged = MergedVideo(
        features=torch.zeros(5, 4),
        assignment=grid.flatten(),
        representative=torch.tensor([0, 6, 7, 13, 19]),
        group=torch.tensor([0, 1, 2, 3, 4]),
        scene_lengths=[1, 3],
        static_sizes=[0, 1],
        dynamic_sizes=[1, 3],
    )
    return TokenMap(VideoLayout(4, 2, 3, tail=1), merged)


def chosen_map() -> TokenMap:
    """The same after two choices: token 0 goes after layer 2, token 3 joins token 2 after layer 5."""
    item, none = merged_map(), -float("inf")
    item.choose(2, torch.tensor([-1, 1, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    item.choose(5, torch.tensor([-1, 1, 2, 2, 4]), torch.tensor([none, 0.5, 0.25, 0.0, 0.125]))
    return item
