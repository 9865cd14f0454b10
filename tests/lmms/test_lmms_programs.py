# SPDX-License-Identifier: Apache-2.0
"""lmms-eval's command line, and several processes, as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmms import local_task

pytestmark = pytest.mark.timeout(900)  # several programs that import torch
GIVEN = "retention_ratio=0.2"


def start(*command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A program of this environment, without a GPU or network."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **hidden, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


def test_command_line(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--tasks", local_task.NAME, "--include_path", str(task), "--batch_size", "1", "--device", "cpu"]
    done = start(
        *("-m", "lmms_eval", "--model", "prunevid_builtin", "--model_args", GIVEN, *options),
        *("--output_path", str(out), "--log_samples", "--limit", "2"),
        home=tmp_path / "hub",
    )
    assert done.returncode == 0, done.stderr
    assert "visual tokens 128.0 -> 26.0 a prompt" in done.stdout + done.stderr
    (written,) = out.rglob("*_results.json")
    results = json.loads(written.read_text())
    assert results["config"]["model"] == "prunevid_builtin" and results["config"]["model_args"] == GIVEN
    assert results["throughput"]["avg_prunevid_visual_tokens_kept"] == 26


def test_two_processes_answer_as_one(task: Path, tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    alone, out = run("prunevid_builtin", GIVEN), tmp_path / "two.json"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    program = (str(Path(local_task.__file__)), str(task), "prunevid_builtin", GIVEN, str(out))
    done = start(*launcher, *program, home=tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    both = json.loads(out.read_text())
    assert both["processes"] == 2
    assert both["answers"] == local_task.answers(alone)
    ours = {name: value for name, value in alone["throughput"].items() if "prunevid" in name}
    assert len(ours) == 4
    assert {name: both["throughput"][name] for name in ours} == pytest.approx(ours)
