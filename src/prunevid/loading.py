# SPDX-License-Identifier: Apache-2.0
"""Finding and loading a model with its processor, through transformers' own auto classes.

A folder is loaded with local files only; only a name that is no path is looked up on the model hub.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prunevid import models
from prunevid.errors import ConfigError, InputError, PruneVidError, UnsupportedModelError, one_line

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FETCHING = (
    "revision",
    "trust_remote_code",
    "token",
    "cache_dir",
    "subfolder",
    "local_files_only",
    "force_download",
)
_DTYPES = ("auto", "float32", "float16", "bfloat16")


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best there is: cuda, mps, cpu.

    Raises:
        ConfigError: there is no such device here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is {device!r}, but must be cpu, cuda, cuda:<number> or mps.") from error
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, True):
        raise ConfigError(f"device is {str(device)!r}, but torch sees no such device here; use cpu.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {str(device)!r}, but there are {torch.cuda.device_count()} such devices here.")
    return chosen


def check_dtype(dtype: str | torch.dtype | None) -> str | torch.dtype:
    """`dtype` in the form that `from_pretrained` takes ("auto": as the weights were saved).

    Raises:
        ConfigError: it is no floating type that models run in.
    """
    if dtype is None:
        return "auto"
    if isinstance(dtype, torch.dtype) or dtype in _DTYPES:
        return dtype
    raise ConfigError(f"dtype is {dtype!r}, but must be one of {', '.join(_DTYPES)} or a torch dtype.")


def locate(model: str | os.PathLike[str]) -> tuple[str, bool]:
    """The name for `from_pretrained`, and whether it is a folder on this machine.

    A name counts as a path, and is never looked up on the hub, when it is a path object, starts with `.`, `/`
    or `~`, can't be a hub id, or lies in a folder that exists here.

    Raises:
        InputError: it is a path, and there is nothing.
        UnsupportedModelError: it is a file, or a folder without config.json.
    """
    name = os.fspath(model)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UnsupportedModelError(
                f"{name!r} is no model folder, for it holds no config.json; give the folder of a model of type "
                f"{', '.join(models.supported())}."
            )
        return str(path), True
    if path.is_file():
        raise UnsupportedModelError(f"{name!r} is a file; give the folder that holds the model's config.json.")
    in_folder = os.sep in name and path.parent.is_dir()
    if not isinstance(model, str) or not _HUB_ID.fullmatch(name) or in_folder:
        raise InputError(f"There is no model folder {name!r}; give an existing folder or the id of a model on the hub.")
    return name, False


def load(
    model: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = "auto",
    processor_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Loads a model and its processor.

    Args:
        model: a folder, or a hub id.
        device: where the model goes (None: cuda, mps or cpu, whatever there is); leave it out together with
            `device_map` or `quantization_config`, which place the model themselves.
        dtype: "auto", a name or a torch dtype.
        processor_kwargs: for `AutoProcessor.from_pretrained` alone (picture sizes, say).
        kwargs: for `AutoModelForImageTextToText.from_pretrained` (`lora_alpha` for PLLaVA with adapters apart); those
            that say where files come from (revision, token, trust_remote_code, ...) go to the processor as well.

    Returns:
        The model in eval mode, and the processor.

    Raises:
        InputError: the model can't be found or read.
        UnsupportedModelError: no adapter for its family, or no video processor.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    models.register_ports()
    name, local = locate(model)
    if local:
        kwargs["local_files_only"] = True
    dtype = kwargs.pop("torch_dtype", dtype)
    fetching = {key: kwargs[key] for key in _FETCHING if key in kwargs}
    placed = kwargs.get("device_map") is not None or kwargs.get("quantization_config") is not None
    if placed and device is not None:
        raise ConfigError("device can't be given together with device_map or quantization_config; leave it out.")
    target = None if placed else pick_device(device)
    dtype = check_dtype(dtype)
    with _quiet_when_piped():
        _check_family(name, local, fetching)
        try:
            processor = AutoProcessor.from_pretrained(name, **fetching, **(processor_kwargs or {}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnsupportedModelError(f"{name!r} has no processor that can be loaded: {_brief(error)}") from error
        try:
            loaded = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **kwargs)
        except PruneVidError:  # of a model that this package brings
            raise
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(f"The model {name!r} can't be loaded: {_brief(error)}") from error
    loaded = loaded.eval()
    return (loaded if target is None else loaded.to(target)), processor


def _check_family(name: str, local: bool, fetching: dict[str, Any]) -> None:
    """Refuses what can't be pruned before its weights are read."""
    from transformers import AutoConfig

    try:
        family = AutoConfig.from_pretrained(name, **fetching).model_type
    except (OSError, ValueError, KeyError) as error:
        message = f"The configuration of the model {name!r} can't be read: {_brief(error)}"
        raise (UnsupportedModelError if local else InputError)(message) from error
    if family not in models.supported():
        raise models.unknown(family, repr(name))


def _brief(error: BaseException) -> str:
    """The first sentence of a message that may be a page, on one line."""
    return re.split(r"(?<=[.!?]) ", one_line(error), maxsplit=1)[0][:300]


@contextmanager
def _quiet_when_piped() -> Iterator[None]:
    """transformers' progress bars, only where somebody can see them."""
    from transformers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
