# SPDX-License-Identifier: Apache-2.0
"""Models and clips that the tests of the application share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from app import tiny_qwen
from prunevid import PruneVidConfig
from prunevid.cli import run
from prunevid.qa import VideoQA

QUESTION = "what colour moves ?"
OTHER = "who is the circle ?"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Qwen2.5-VL with its processor."""
    return tiny_qwen.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames at 8 a second."""
    return tiny_qwen.write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")


@pytest.fixture(scope="session")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames at 5 a second, other pictures."""
    return tiny_qwen.write_clip(tmp_path_factory.mktemp("clips") / "b.mp4", count=40, rate=5, seed=3)


@pytest.fixture(scope="session")
def settings() -> PruneVidConfig:
    """Settings under which all three stages drop something in a model of four layers."""
    return PruneVidConfig(pruning_layer=1, keep_ratio=0.5, max_frames=8)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line: (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def qa(settings: PruneVidConfig) -> VideoQA:
    """A pruned tiny model."""
    return VideoQA(tiny_qwen.model(), tiny_qwen.processor(), config=settings)


@pytest.fixture(autouse=True)
def _numbers_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM2's processor writes the number of frames in words, by an optional package."""
    module = importlib.import_module("transformers.models.smolvlm.processing_smolvlm")
    if module.num2words is None:
        words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
        monkeypatch.setattr(module, "num2words", lambda number: words[number] if number < len(words) else str(number))
