# SPDX-License-Identifier: Apache-2.0
"""Training only: checkpoints as safetensors (weights, heads, optimiser states) and JSON (counters), written whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunevid.errors import PruneVidError


@dataclass
class Progress:
    """Counters of a run: step and seconds of each phase (0 vision, 1 end to end), clips and question-answer pairs
    seen end to end."""

    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    clips: int = 0
    pairs: int = 0
    total_steps: int = 0
    total_seconds: float = 0.0


def save(
    folder: Path, model: nn.Module, heads: nn.Module, optimizers: dict[str, torch.optim.Optimizer], progress: Progress
) -> None:
    """Writes a checkpoint; an interrupted write leaves the one before it whole."""
    tensors: dict[str, Tensor] = {}
    for part, module in (("model", model), ("heads", heads)):
        for name, tensor in module.state_dict().items():
            if name != "lm_head.weight":
                tensors[f"{part}/{name}"] = tensor.contiguous()
    for part, optimizer in optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"{part}/{number}/{key}"] = torch.as_tensor(value).contiguous()
    draft = folder / "checkpoint.draft"
    save_file(tensors, draft, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(draft, folder / "checkpoint.safetensors")
    (folder / "progress.json").write_text(json.dumps(asdict(progress), indent=1) + "\n")


def restore(folder: Path, model: nn.Module, heads: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> Progress:
    """Reads a checkpoint back into the parts of a run.

    Raises:
        PruneVidError: there is none in that folder.
    """
    from safetensors import safe_open

    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        raise PruneVidError(f"There is no checkpoint in {str(folder)!r}; start without --resume.")
    tensors = load_file(path)
    with safe_open(str(path), "pt") as file:
        progress = Progress(**json.loads(file.metadata()["progress"]))
    for part, module in (("model", model), ("heads", heads)):
        mine = {name.split("/", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{part}/")}
        module.load_state_dict(mine, strict=part == "heads")
    for part, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"{part}/"):
                _, number, key = name.split("/")
                state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def export(model: nn.Module, path: Path) -> None:
    """Writes the weights alone in bfloat16, as the package ships them."""
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, path, metadata={"format": "pt"})
