# SPDX-License-Identifier: Apache-2.0
"""lmms-eval's command line in several processes, as a user starts it."""

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

GIVEN = "retention_ratio=0.2,tau=0.7"


def start(*command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A program of this environment, without a GPU or network."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env={**os.environ, **hidden})


@pytest.mark.timeout(900)  # two programs that import torch and read the list of all tasks
def test_two_processes_answer_as_one(task: Path, tmp_path: Path, run: Callable[..., dict[str, Any]]) -> None:
    alone, out = run("prunevid_builtin", GIVEN), tmp_path / "out"
    done = start(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_eval"),
        *(
            "--model",
            "prunevid_builtin",
            "--model_args",
            GIVEN,
            "--tasks",
            local_task.NAME,
            "--include_path",
            str(task),
        ),
        *("--batch_size", "1", "--device", "cpu", "--output_path", str(out), "--log_samples"),
        home=tmp_path / "hub",
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "Running on rank 0" in told and "Running on rank 1" in told
    assert told.count("prunevid_builtin, method prunevid: visual tokens") == 1
    (written,) = out.rglob("*_results.json")
    results = json.loads(written.read_text())
    assert results["config"]["model"] == "prunevid_builtin" and results["config"]["model_args"] == GIVEN
    ours = {name: value for name, value in alone["throughput"].items() if "prunevid" in name}
    assert len(ours) == 4
    assert {name: results["throughput"][name] for name in ours} == pytest.approx(ours)
    (listed,) = out.rglob("*_samples_*.jsonl")
    samples = sorted(map(json.loads, listed.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"] for sample in samples] == local_task.answers(alone)
    assert len(samples) == 6
