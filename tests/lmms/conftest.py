# SPDX-License-Identifier: Apache-2.0
"""What the tests of the lmms-eval integration share. They are left out where lmms-eval is not installed.

`make test-lmms` sets PRUNEVID_TEST_LMMS, and then its absence is an error.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("lmms_eval") is None:
    if os.environ.get("PRUNEVID_TEST_LMMS"):
        raise RuntimeError("lmms-eval is not installed; run `make test-lmms`, or install '.[lmms,dev]'.")
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No data set of the tests goes into the user's caches (datasets reads this when it is imported, in a test)."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a task "made_clips" with six questions about three made clips."""
    from lmms import local_task

    return local_task.write(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a Qwen2.5-VL folder."""
    from prunevid import builtin

    path = tmp_path_factory.mktemp("models") / "embedded"
    for part in builtin.load():
        part.save_pretrained(path)
    return path


@pytest.fixture
def run(task: Path) -> Callable[..., dict[str, Any]]:
    """Runs lmms-eval's evaluator on the task: `run(model, "key=value,...", force_simple=...)` gives its results."""
    from lmms import local_task

    def evaluate(model: str, model_args: str, **options: Any) -> dict[str, Any]:
        return local_task.evaluate(task, model, model_args, **options)

    return evaluate
