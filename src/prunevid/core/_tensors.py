# SPDX-License-Identifier: Apache-2.0
"""The edges between host and device, and the checks that every function of the core makes on what it is given."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from prunevid.errors import ConfigError, InputError

P = ParamSpec("P")
R = TypeVar("R")


def plain(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` without gradients and outside autocast, which would turn its float32 products into bfloat16."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        device = given.device.type if given is not None else "cpu"
        with torch.no_grad():
            if not torch.amp.is_autocast_available(device):
                return function(*args, **kwargs)
            with torch.autocast(device, enabled=False):
                return function(*args, **kwargs)

    return wrapper


def read(values: Tensor) -> list[Any]:
    """Device to host. Every wait for the device that the core makes goes through here or through `nonzero`."""
    return values.tolist()


def upload(values: Sequence[int] | Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Host to device, in one copy that does not wait for the device."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def check_floats(name: str, tensor: Tensor, axes: str) -> None:
    """Raise InputError unless `tensor` holds floats, has as many axes as `axes` names, and none of them is empty."""
    wanted = len(axes.split(","))
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"{name} is {found}, but must be a tensor of floating-point numbers.")
    if tensor.dim() != wanted or 0 in tensor.shape:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, but must be ({axes}) with no empty axis.")


def check_ratio(name: str, value: float, zero: bool = False) -> None:
    """Raise ConfigError unless 0 < value <= 1, or value is 0 and `zero` allows it."""
    if not (0 < value <= 1 or (zero and value == 0)):
        low = "at least 0" if zero else "above 0"
        raise ConfigError(f"{name} is {value}, but must be {low} and at most 1.")


def check_count(name: str, value: int, low: int, high: int | None = None) -> None:
    """Raise ConfigError unless `value` is a whole number from `low` to `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} is {value}, but must be a whole number {allowed}.")


def check_number(name: str, value: float) -> None:
    """Raise ConfigError for a value that is not a number."""
    if math.isnan(value):
        raise ConfigError(f"{name} is {value}, but must be a number.")
