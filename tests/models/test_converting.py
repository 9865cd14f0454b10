# SPDX-License-Identifier: Apache-2.0
"""Reading, accounting and writing of checkpoints: every name on both sides, and nothing half-written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prunevid.errors import InputError
from prunevid.models.converting import Checkpoint, Plan, Target, expected_shapes, new_folder, write_weights

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(4, dtype=torch.float16),
    "c": torch.tensor(3.5, dtype=torch.bfloat16),
    "d": torch.arange(5, dtype=torch.uint8),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
SAME = [Target(name, (name,), tensor.dtype) for name, tensor in TENSORS.items()]


def stored(folder: Path, kind: str) -> Path:
    """TENSORS in two files of a folder, in each of the ways in which checkpoints come."""
    folder.mkdir(exist_ok=True)
    halves = [{name: TENSORS[name] for name in names} for names in ("ab", "cd")]
    suffix = "safetensors" if "safetensors" in kind else "bin"
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-{number:05d}-of-00002.{suffix}" for number in (1, 2)]
    for name, half in zip(names, halves):
        if suffix == "safetensors":
            save_file(half, folder / name)
        else:
            content: Any = {"model": half} if "wrapped" in kind else half
            torch.save(content, folder / name, _use_new_zipfile_serialization="old" not in kind)
    if "index" in kind:
        placed = {key: name for name, half in zip(names, halves) for key in half}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "safetensors index", "bin", "bin index", "bin wrapped", "bin old"])
@pytest.mark.parametrize("shard_bytes", [1, 30, 1 << 20])
def test_what_is_written_is_what_was_read(tmp_path: Path, kind: str, shard_bytes: int) -> None:
    checkpoint = Checkpoint.of_folder(stored(tmp_path / "from", kind))
    assert checkpoint.shapes() == SHAPES
    with new_folder(tmp_path / "to") as folder:
        files = write_weights(folder, checkpoint, SAME, SHAPES, shard_bytes)
        names = [file.name for file in files]
    again = Checkpoint.of_folder(tmp_path / "to")
    assert [file.name for file in again.files] == sorted(names)
    assert len(names) == {1: 4, 30: 2, 1 << 20: 1}[shard_bytes]
    found: dict[str, torch.Tensor] = {}
    for name in names:
        found |= load_file(tmp_path / "to" / name)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        assert torch.equal(again.read(name), tensor)


def test_targets_are_made_of_their_sources_in_order(tmp_path: Path) -> None:
    checkpoint = Checkpoint.of_folder(stored(tmp_path / "from", "safetensors"))
    target = Target("x", ("b", "d"), torch.float32, lambda b, d: torch.cat([b.float(), 10.0 * d]))
    write_weights(tmp_path, checkpoint, [target], {"x": (9,)})
    expected = torch.tensor([0, 1, 2, 3, 0, 10, 20, 30, 40.0])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["x"], expected)
    with pytest.raises(InputError, match=r"b gives x the shape \(9,\), but the model's is \(8,\)"):
        write_weights(tmp_path, checkpoint, [target], {"x": (8,)})


def _plan(drop: tuple[str, ...] = (), **names: str) -> Plan:
    return Plan([Target(new, (old,), torch.float32) for new, old in names.items()], dict.fromkeys(drop, "not used"))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (_plan(x="a", y="b"), "the checkpoint holds, and nothing takes, c, d"),
        (_plan(("c", "d"), x="a"), "the model needs, and nothing in the checkpoint gives, y"),
        (_plan(("c", "d"), x="a", y="e"), "the checkpoint lacks e"),
        (_plan(("c", "d"), x="a", y="b", z="b"), "the model has no place for z"),
    ],
    ids=["left over", "missing", "no source", "no place"],
)
def test_both_sides_are_counted(plan: Plan, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan.check(TENSORS, ["x", "y"], "the model")


def test_a_weight_that_is_made_twice_is_refused() -> None:
    plan = _plan(("c", "d"), x="a", y="b")
    plan.check(TENSORS, ["x", "y"], "the model")
    plan.targets.append(Target("x", ("b",), torch.float32))
    with pytest.raises(InputError, match="several tensors of the checkpoint give x"):
        plan.check(TENSORS, ["x", "y"], "the model")


class Ran(Exception):
    """A pickle ran code."""


class Code:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise RuntimeError('a pickle ran code')",)


@pytest.mark.parametrize("how", ["torch", "pickle", "number", "list", "garbage"])
def test_only_plain_tensors_are_taken_from_a_pickle(tmp_path: Path, how: str) -> None:
    file = tmp_path / "pytorch_model.bin"
    contents: dict[str, Any] = {"torch": {"a": Code()}, "number": {"a": TENSORS["a"], "step": 3}, "list": [1, 2]}
    if how == "pickle":
        file.write_bytes(pickle.dumps({"a": Code()}, protocol=2))
    elif how == "garbage":
        file.write_bytes(b"no weights at all")
    else:
        torch.save(contents[how], file)
    with pytest.raises(InputError, match=r"plain tensors|must hold tensors by name") as caught:
        Checkpoint.of_folder(tmp_path)
    assert "ran code" not in str(caught.value.__cause__)


def _without(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def _damaged(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:40])


def _moved(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | {"e": _FIRST}}))


def _outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


_FIRST = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("safetensors", _without, "holds 1 of 2 weight files"),
        ("safetensors index", _without, "names 'model-00002-of-00002.safetensors', which is not in"),
        ("safetensors", _damaged, "can't be read as safetensors"),
        ("safetensors index", _moved, "disagree about e"),
        ("safetensors index", _outside, r"names '\.\./x\.safetensors'"),
        ("safetensors", lambda folder: save_file(TENSORS, folder / "model.safetensors"), "several sets of weights"),
        ("safetensors index", lambda folder: save_file({"a": TENSORS["a"]}, folder / _FIRST), "disagree about b"),
    ],
)
def test_damaged_folders(tmp_path: Path, kind: str, change: Any, message: str) -> None:
    folder = stored(tmp_path / "from", kind)
    change(folder)
    with pytest.raises(InputError, match=message):
        Checkpoint.of_folder(folder)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights in"):
        Checkpoint.of_folder(tmp_path)
    with pytest.raises(InputError, match="There is no folder"):
        Checkpoint.of_folder(tmp_path / "nowhere")


def test_a_folder_takes_its_name_when_it_is_done(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "to"
    with pytest.raises(Ran), new_folder(destination) as folder:
        (folder / "half").write_text("")
        raise Ran
    assert not list((tmp_path / "deep").iterdir())
    with new_folder(destination) as folder:
        (folder / "whole").write_text("")
        assert not destination.exists()
    assert [file.name for file in destination.iterdir()] == ["whole"]
    with pytest.raises(InputError, match="is there already"), new_folder(destination):
        pass
    (tmp_path / "deep" / "other.partial").mkdir()
    with pytest.raises(InputError, match="did not end"), new_folder(tmp_path / "deep" / "other"):
        pass


def test_expected_shapes_count_tied_weights_once() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False), nn.BatchNorm1d(2))
        model[1].weight = model[0].weight
        return model

    shapes = expected_shapes(build)
    assert shapes["0.weight"] == (4, 3) and "1.weight" not in shapes and shapes["2.running_mean"] == (2,)
