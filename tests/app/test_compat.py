# SPDX-License-Identifier: Apache-2.0
"""`PruneVidQwen25VL`, as its users call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import tiny_qwen
from app.conftest import QUESTION
from app.test_stats import KEYS
from prunevid import PruneVidConfig
from prunevid.compat import PruneVidQwen25VL
from prunevid.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def wrapped(folder: Path, settings: PruneVidConfig) -> PruneVidQwen25VL:
    return PruneVidQwen25VL(model_path=str(folder), config=settings, device="cpu")


def test_a_video_and_its_stats(wrapped: PruneVidQwen25VL, clip_file: Path, settings: PruneVidConfig) -> None:
    text = wrapped.generate(video_path=str(clip_file), question=QUESTION, max_new_tokens=4)
    result = wrapped.generate(video_path=clip_file, question=QUESTION, max_new_tokens=4, return_stats=True)
    assert isinstance(text, str) and isinstance(result, dict)
    assert set(result) == {"answer", "stats"}
    assert result["answer"] == text
    assert {name: set(part) for name, part in result["stats"].items()} == KEYS
    # 8 frames in pairs, 4 x 5 visual tokens each
    assert result["stats"]["stage1"]["original_tokens"] == 4 * 20
    assert text == wrapped.qa.ask(clip_file, QUESTION, max_new_tokens=4).text


def test_images_instead_of_a_video(wrapped: PruneVidQwen25VL) -> None:
    result = wrapped.generate(images=list(tiny_qwen.frames(4)), question=QUESTION, max_new_tokens=2, return_stats=True)
    assert isinstance(result, dict)
    assert result["stats"]["stage1"]["original_tokens"] == 2 * 20


def test_wrong_use(wrapped: PruneVidQwen25VL, folder: Path, clip_file: Path) -> None:
    with pytest.raises(InputError, match="not both"):
        wrapped.generate(question=QUESTION)
    with pytest.raises(InputError, match="not both"):
        wrapped.generate(video_path=clip_file, images=[tiny_qwen.frames(1)[0]], question=QUESTION)
    with pytest.raises(InputError, match="question is empty"):
        wrapped.generate(video_path=clip_file)
    with pytest.raises(ConfigError, match="pruning_layer is 10"):
        PruneVidQwen25VL(folder, PruneVidConfig(pruning_layer=10), device="cpu")
