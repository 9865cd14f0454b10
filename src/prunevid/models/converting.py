# SPDX-License-Identifier: Apache-2.0
"""From the weights of a published checkpoint to a folder that transformers loads.

Strict about every name, and with one tensor in memory at a time. A converter says which new tensor is made of which old
ones (`Target`), and which old ones are left out and why (`Plan`). What is missing or left over, in the checkpoint or in
the model, is refused before anything is written.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from prunevid.errors import InputError

SHARD_BYTES = 4 << 30  # of a file that is written
_SAFE_INDEX, _PICKLE_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_NUMBERED = re.compile(r"(model|pytorch_model)-(\d+)-of-(\d+)\.(safetensors|bin)")
_WRAPPERS = ("model", "state_dict")  # under which training code keeps the weights of a file
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {code: dtype for dtype, code in _CODES.items()}


@dataclass(frozen=True)
class Stored:
    """What a file says of one of its tensors."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path


# ---- reading ---------------------------------------------------------------------------------------------------------


class Checkpoint:
    """The tensors of several files, read one at a time.

    safetensors files are mapped, not read. Files of pickled tensors are read by `torch.load(weights_only=True)`, which
    runs no code from them; they are mapped too, where they were written by torch 1.6 or newer, and else one is held.

    Args:
        files: safetensors files (`.safetensors`) or pickled plain tensors (any other suffix), at most one of which has
            a name.

    Attributes:
        entries: `Stored` by name, file after file.

    Raises:
        InputError: a file can't be read, holds something else than tensors, or repeats a name.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [Path(file) for file in files]
        self.entries: dict[str, Stored] = {}
        self._mapped: dict[Path, Any] = {}
        self._held: tuple[Path, dict[str, Tensor]] | None = None
        for file in self.files:
            for name, stored in self._list(file).items():
                if name in self.entries:
                    other = self.entries[name].file.name
                    raise InputError(f"{name} is in {other} and in {file.name}; leave only one set of weight files.")
                self.entries[name] = stored

    @classmethod
    def of_folder(cls, folder: Path) -> Checkpoint:
        """The checkpoint of a folder as its index says, or, without one, of its `model*` files.

        Raises:
            InputError: there are no weights, files of a set are missing, the index and the files differ, or see above.
        """
        index = next((folder / name for name in (_SAFE_INDEX, _PICKLE_INDEX) if (folder / name).is_file()), None)
        if index is None:
            return cls(_unlisted_files(folder))
        try:
            placed: dict[str, str] = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{str(index)!r} is no index of weight files; download it again.") from error
        files = sorted(set(placed.values()))
        for name in files:
            if Path(name).name != name or not (folder / name).is_file():
                raise InputError(f"{index.name} names {name!r}, which is not in {str(folder)!r}; download it.")
        checkpoint = cls([folder / name for name in files])
        listed = {name: stored.file.name for name, stored in checkpoint.entries.items()}
        wrong = [name for name in {**listed, **placed} if listed.get(name) != placed.get(name)]
        if wrong:
            raise InputError(
                f"{index.name} and the files of {str(folder)!r} disagree about {_some(wrong)}; download both again."
            )
        return checkpoint

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name."""
        return {name: stored.shape for name, stored in self.entries.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, as it is stored; nothing keeps it but the caller."""
        file = self.entries[name].file
        if file.suffix == ".safetensors":
            tensor: Tensor = self._mapped[file].get_tensor(name)
            return tensor
        return self._pickled(file)[name]

    def _list(self, file: Path) -> dict[str, Stored]:
        if file.suffix != ".safetensors":
            tensors = self._pickled(file)
            return {name: Stored(tuple(value.shape), value.dtype, file) for name, value in tensors.items()}
        from safetensors import SafetensorError, safe_open

        try:
            opened: Any = safe_open(str(file), framework="pt", device="cpu").__enter__()
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary
            found = {
                name: Stored(tuple(part.get_shape()), _TYPES[part.get_dtype()], file) for name, part in slices.items()
            }
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"{str(file)!r} can't be read as safetensors ({error}); download it again.") from error
        self._mapped[file] = opened
        return found

    def _pickled(self, file: Path) -> dict[str, Tensor]:
        if file in self._mapped:
            mapped: dict[str, Tensor] = self._mapped[file]
            return mapped
        if self._held is not None and self._held[0] == file:
            return self._held[1]
        self._held = None
        try:
            try:
                tensors = _plain(torch.load(file, map_location="cpu", weights_only=True, mmap=True), file)
            except RuntimeError:  # written before torch 1.6, or damaged: the next call says which
                tensors = _plain(torch.load(file, map_location="cpu", weights_only=True), file)
                self._held = (file, tensors)
                return tensors
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise InputError(
                f"{str(file)!r} can't be read as plain tensors, and nothing else is taken from a pickle, for that "
                "would run code of its author; download it again, or ask for safetensors files."
            ) from error
        self._mapped[file] = tensors
        return tensors


class Joined(Checkpoint):
    """Several checkpoints as one; every name has its part's prefix before it.

    Args:
        parts: checkpoints by prefix.
    """

    def __init__(self, parts: Mapping[str, Checkpoint]) -> None:
        super().__init__([])
        self.files = [file for part in parts.values() for file in part.files]
        self._places: dict[str, tuple[Checkpoint, str]] = {}
        for prefix, part in parts.items():
            self.entries |= {prefix + name: stored for name, stored in part.entries.items()}
            self._places |= {prefix + name: (part, name) for name in part.entries}

    def read(self, name: str) -> Tensor:
        """See `Checkpoint.read`."""
        part, own = self._places[name]
        return part.read(own)


def _unlisted_files(folder: Path) -> list[Path]:
    """The weight files of a folder without an index.

    Raises:
        InputError: there are none, several sets of them, or a set is not complete.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {str(folder)!r}; give the folder of the downloaded checkpoint.")
    sets: dict[tuple[str, ...], list[Path]] = {}
    for file in sorted(folder.iterdir()):
        numbered = _NUMBERED.fullmatch(file.name)
        if numbered:
            sets.setdefault((numbered[1], numbered[3], numbered[4]), []).append(file)
        elif file.name in ("model.safetensors", "pytorch_model.bin"):
            sets[(file.name,)] = [file]
    if not sets:
        raise InputError(f"There are no weights in {str(folder)!r} (no model*.safetensors, no pytorch_model*.bin).")
    if len(sets) > 1:
        found = ", ".join(files[0].name for files in sets.values())
        raise InputError(f"{str(folder)!r} holds several sets of weights ({found}) and no index; leave one of them.")
    (key, files), *_ = sets.items()
    if len(key) == 3 and len(files) != int(key[1]):
        raise InputError(f"{str(folder)!r} holds {len(files)} of {int(key[1])} weight files; download the others.")
    return files


def _plain(loaded: Any, file: Path) -> dict[str, Tensor]:
    """The tensors of an unpickled file by name.

    Raises:
        InputError: it holds anything else.
    """
    if isinstance(loaded, dict) and len(loaded) == 1 and next(iter(loaded)) in _WRAPPERS:
        (loaded,) = loaded.values()
    if not isinstance(loaded, dict):
        raise InputError(f"{str(file)!r} holds a {type(loaded).__name__}, but must hold tensors by name.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{str(file)!r} holds a {type(value).__name__} under {name!r}, but must hold tensors by name only."
            )
    return dict(loaded)


# ---- accounting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """One tensor of the new folder.

    name: its name; sources: names of the tensors that it is made of; dtype: its type; make: from the sources, in their
    order, to it, in any type (None: the only source as it is).
    """

    name: str
    sources: tuple[str, ...]
    dtype: torch.dtype
    make: Callable[..., Tensor] | None = None


@dataclass
class Plan:
    """What becomes of every tensor of a checkpoint.

    targets: what is written; dropped: why a tensor is left out, by name.
    """

    targets: list[Target] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    def check(self, available: Iterable[str], wanted: Iterable[str], model: str) -> None:
        """Compares the plan with both sides.

        Args:
            available: names in the checkpoint.
            wanted: names of the model's weights.
            model: what it is called in messages.

        Raises:
            InputError: a tensor of the checkpoint is neither used nor dropped, or is not there; a weight of the model
                is made twice or not at all, or something is made that it has not.
        """
        there, needed = set(available), set(wanted)
        used = {name for target in self.targets for name in target.sources} | set(self.dropped)
        made = [target.name for target in self.targets]
        twice = sorted({name for name in made if made.count(name) > 1}) if len(set(made)) < len(made) else []
        problems = {
            "the checkpoint lacks": used - there,
            f"{model} needs, and nothing in the checkpoint gives,": needed - set(made),
            "the checkpoint holds, and nothing takes,": there - used,
            f"{model} has no place for": set(made) - needed,
            "several tensors of the checkpoint give": twice,
        }
        for problem, names in problems.items():
            if names:
                raise InputError(
                    f"This is no checkpoint of {model}: {problem} {_some(sorted(names))}; nothing was written."
                )


def expected_shapes(build: Callable[[], torch.nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shape by name of every weight of a model that `build` makes, without memory for it.

    Buffers that are not saved don't count, and of tied weights only the first name does.
    """
    with torch.device("meta"):
        model = build()
    seen: dict[int, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen[id(tensor)] = name
            shapes[name] = tuple(tensor.shape)
    return shapes


def _some(names: Sequence[str], most: int = 4) -> str:
    """The first few of many names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name only when everything in it is done.

    Raises:
        InputError: there is something at the destination.
    """
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise InputError(f"{str(destination)!r} is there already; give a new folder, or remove it first.")
    partial = destination.with_name(destination.name + ".partial")
    if partial.exists():
        raise InputError(f"{str(partial)!r} is left from a conversion that did not end; remove it first.")
    partial.mkdir(parents=True)
    try:
        yield partial
        if destination.is_dir():
            destination.rmdir()
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_weights(
    folder: Path,
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    shapes: Mapping[str, tuple[int, ...]],
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    stem: str = "model",
) -> list[Path]:
    """Writes the targets as safetensors files, with an index where there are several.

    A file's header is written first and then tensor after tensor, so that no more than one target and its sources are
    in memory. Targets are written in the order in which their first sources lie in the checkpoint.

    Args:
        folder: an existing folder.
        checkpoint: where the sources are.
        targets: what to write.
        shapes: shape of every target by name.
        shard_bytes: of a file at most, unless a single tensor is larger.
        progress: called with the bytes that are written and those of all targets.
        stem: how the files' names start.

    Returns:
        The weight files.

    Raises:
        InputError: the disk is too small, or a target gets another shape than it should.
    """
    order = {name: place for place, name in enumerate(checkpoint.entries)}
    targets = sorted(targets, key=lambda target: order[target.sources[0]])
    sizes = {target.name: _bytes(shapes[target.name], target.dtype) for target in targets}
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if total > free:
        raise InputError(
            f"The weights take {total / 2**30:.1f} GiB, but {str(folder)!r} has {free / 2**30:.1f} GiB left; free "
            "some space or give another folder."
        )
    shards = _shards(targets, sizes, shard_bytes)
    files, done = [], 0
    for number, shard in enumerate(shards, start=1):
        number_of = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        files.append(folder / f"{stem}{number_of}.safetensors")
        with files[-1].open("wb") as file:
            _write_header(file, shard, shapes, sizes)
            for target in shard:
                _write_tensor(file, _made(target, checkpoint, shapes[target.name]))
                done += sizes[target.name]
                if progress is not None:
                    progress(done, total)
    if len(shards) > 1:
        placed = {target.name: file.name for file, shard in zip(files, shards) for target in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return files


def _shards(targets: Sequence[Target], sizes: Mapping[str, int], most: int) -> list[list[Target]]:
    """The targets of each file; wide types first in a file, so that every tensor starts at a multiple of its width."""
    shards: list[list[Target]] = [[]]
    room = most
    for target in targets:
        if shards[-1] and sizes[target.name] > room:
            shards.append([])
            room = most
        shards[-1].append(target)
        room -= sizes[target.name]
    return [sorted(shard, key=lambda target: -target.dtype.itemsize) for shard in shards]


def _write_header(
    file: BinaryIO, shard: Sequence[Target], shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]
) -> None:
    """The head of a safetensors file: its length in 8 bytes, then names, types, shapes and offsets as JSON."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for target in shard:
        end = start + sizes[target.name]
        place = {"shape": list(shapes[target.name]), "data_offsets": [start, end]}
        header[target.name] = {"dtype": _CODES[target.dtype], **place}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _made(target: Target, checkpoint: Checkpoint, shape: tuple[int, ...]) -> Tensor:
    """The target from its sources.

    Raises:
        InputError: its shape is not that of the model's weight.
    """
    sources = [checkpoint.read(name) for name in target.sources]
    tensor = sources[0] if target.make is None else target.make(*sources)
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"{target.sources[0]} gives {target.name} the shape {tuple(tensor.shape)}, but the model's is {shape}; it "
            "belongs to a model of another size."
        )
    return tensor.to(target.dtype)


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    count = 1
    for side in shape:
        count *= side
    return count * dtype.itemsize
