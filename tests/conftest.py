# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: no network, few threads, fixed seeds, and `shared/` beside the checkout."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

_CHECKOUT = Path(__file__).resolve().parents[1]


def shared(*parts: str) -> Path:
    """A path inside the folder `shared/` beside the checkout; skips the calling test where it is missing.

    Raises:
        pytest.skip.Exception: there is no such file or folder.
    """
    path = _CHECKOUT.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(_CHECKOUT.parent)} beside the checkout")
    return path


@pytest.fixture(name="shared", scope="session")
def _shared_fixture() -> object:
    """The function `shared`, as a fixture: `shared("golden", "mha_default.npz")`."""
    return shared


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line of `prunevid`: (exit status, stdout, stderr)."""
    from prunevid.cli import run

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run([str(argument) for argument in arguments]), *capsys.readouterr()

    return call
