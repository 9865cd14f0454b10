# SPDX-License-Identifier: Apache-2.0
"""The embedded model and a clip, for the tests of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunevid.builtin import make_clip, write_clip
from prunevid.qa import VideoQA
from serve.made import CLIP_SEED


@pytest.fixture(scope="session")
def qa() -> VideoQA:
    """The embedded model with the default method."""
    return VideoQA.builtin()


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the embedded model as a video file."""
    return write_clip(make_clip(CLIP_SEED), tmp_path_factory.mktemp("served") / "clip.mp4")
