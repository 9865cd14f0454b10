# SPDX-License-Identifier: Apache-2.0
"""PLLaVA's adapters: low-rank changes of the query and value projections, whose scale is a setting of each run."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from prunevid.errors import ConfigError, InputError, UnsupportedError

ADAPTER_FILE = "adapters.safetensors"
DOWN, UP = ".lora_A", ".lora_B"  # behind the weight's name
_FETCHING = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")


def check_alpha(alpha: float) -> float:
    """The alpha as it is.

    Raises:
        ConfigError: it is no finite number of at least 0.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha) or alpha < 0:
        raise ConfigError(f"lora_alpha is {alpha!r}, but must be a number of at least 0 (published: 4, 14, 32).")
    return alpha


def merged(weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """weight + alpha / rank * up @ down, computed in float32.

    Args:
        weight: (out, in); down: (rank, in); up: (out, rank).

    Returns:
        (out, in) in the weight's type.
    """
    change = (up.float() @ down.float()).mul_(alpha / down.shape[0])
    return change.add_(weight.float()).to(weight.dtype)


def fits(weight: tuple[int, ...], down: tuple[int, ...], up: tuple[int, ...]) -> bool:
    """Whether adapters of these shapes belong to a weight of that shape."""
    if not len(weight) == len(down) == len(up) == 2:
        return False
    return (up[0], down[1]) == weight and down[0] == up[1] > 0


def check_settings(config: Any, name: str | os.PathLike[str], alpha: float | None) -> None:
    """Compares the alpha that was asked for with a folder's configuration.

    Args:
        config: a `PLLaVAConfig`.
        name: the folder or hub id that it came from.
        alpha: see `PLLaVAForConditionalGeneration.from_pretrained`.

    Raises:
        ConfigError: see `PLLaVAForConditionalGeneration.from_pretrained`.
    """
    if alpha is not None:
        check_alpha(alpha)
    if config.pllava_adapters is None and alpha not in (None, config.pllava_lora_alpha):
        raise ConfigError(
            f"lora_alpha is {alpha}, but the weights of {os.fspath(name)!r} were merged with "
            f"{config.pllava_lora_alpha}; convert the checkpoint again with --lora-alpha {alpha:g} or --keep-adapters."
        )
    if config.pllava_adapters is not None and alpha is None:
        raise ConfigError(
            f"{os.fspath(name)!r} holds its adapters apart, so lora_alpha must be given (published: 14 for MVBench, "
            "Video-MME and EgoSchema, 4 for VideoChatGPT-Bench)."
        )


def merge_adapters(model: Any, name: str | os.PathLike[str], alpha: float | None, kwargs: dict[str, Any]) -> Any:
    """Merges the adapters that lie beside the weights of a model that was just loaded.

    Args:
        model: a `PLLaVAForConditionalGeneration`, whose config says whether there are any.
        name, alpha: see `check_settings`.
        kwargs: of `from_pretrained`; what says where files come from is used.

    Returns:
        The model, whose config says with which alpha they were merged.

    Raises:
        ConfigError, InputError: see `PLLaVAForConditionalGeneration.from_pretrained`.
        UnsupportedError: the weights are quantised or not in memory.
    """
    config = model.config
    check_settings(config, name, alpha)
    if config.pllava_adapters is not None and alpha is not None:
        _merge_file(model, _find(name, config.pllava_adapters, kwargs), alpha)
        config.pllava_lora_alpha, config.pllava_adapters = alpha, None
    return model


def _find(name: str | os.PathLike[str], file: str, kwargs: dict[str, Any]) -> str:
    """The path of the file with the adapters.

    Raises:
        InputError: it is not there.
    """
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file, **{key: kwargs[key] for key in _FETCHING if key in kwargs})
    except OSError as error:
        raise InputError(f"{os.fspath(name)!r} has no {file}, which its config names; convert it again.") from error
    return str(found)


@torch.no_grad()
def _merge_file(model: Any, path: str, alpha: float) -> None:
    """Merges a file of adapters into a model's weights, one weight after the other, after all were checked."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        names = set(file.keys())
        targets = sorted({name.removesuffix(DOWN).removesuffix(UP) for name in names})
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        for target in targets:
            weight = _weight(model, target)
            down, up = shapes.get(target + DOWN, ()), shapes.get(target + UP, ())
            if weight is None or not fits(tuple(weight.shape), down, up):
                raise InputError(f"The adapters of {target} in {path!r} don't fit the model; convert it again.")
            if weight.device.type == "meta" or not weight.is_floating_point():
                raise UnsupportedError(
                    f"{target} is quantised or not in memory, so its adapters can't be merged; convert the checkpoint "
                    "with --lora-alpha instead of --keep-adapters."
                )
        for target in targets:
            weight = _weight(model, target)
            down, up = (file.get_tensor(target + part).to(weight.device) for part in (DOWN, UP))
            weight.copy_(merged(weight, down, up, alpha))


def _weight(model: Any, name: str) -> Any:
    """A weight of the model by name, or None."""
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None
