# SPDX-License-Identifier: Apache-2.0
"""Which pruning method runs, from the several ways in which it can be named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from prunevid import methods
from prunevid.config import PruneVidConfig, get_preset
from prunevid.errors import ConfigError
from prunevid.methods import Method

_COMMON = {field.name for field in dataclasses.fields(Method)}
_SETTINGS = {field.name for field in dataclasses.fields(PruneVidConfig)}


def choose_method(
    method: str | Method | PruneVidConfig | None = "prunevid",
    config: PruneVidConfig | None = None,
    preset: str | None = None,
    retention_ratio: float | None = None,
    defaults: Mapping[str, Any] | None = None,
    *,
    retention_tokens: int | None = None,
    average_over_layers: bool | None = None,
    method_options: Mapping[str, Any] | None = None,
) -> Method:
    """One method from the ways to name it.

    Args:
        method: a name, several joined by "|" (see `prunevid.methods.compose`), a method or config as it is, or None for
            "none".
        config: settings of "prunevid", alone or as a part.
        preset: the name of a preset instead of a config.
        retention_ratio: share of the unpruned visual tokens to keep, in (0, 1].
        defaults: settings that suit the model; they replace the config's defaults, and in a preset what
            depends on the model (pruning_layer, max_frames). A config that was given stays as it is.
        retention_tokens: the same as a number of tokens a video.
        average_over_layers: whether the budget is a mean over the decoder's layers.
        method_options: options of the method's own, by name. One of a part goes to the part that has it.

    Raises:
        ConfigError: an unknown name or option, a value out of range, or choices that contradict each other.
    """
    if config is not None and preset is not None:
        raise ConfigError(f"Both a config and the preset {preset!r} were given; give one of them.")
    given = {
        "retention_ratio": retention_ratio,
        "retention_tokens": retention_tokens,
        "average_over_layers": average_over_layers,
    }
    changes = {**(method_options or {}), **{name: value for name, value in given.items() if value is not None}}
    names = _names(method)
    if (config is not None or preset is not None) and "prunevid" not in names:
        what = "A config" if preset is None else f"The preset {preset!r}"
        shown = method.label if isinstance(method, Method) else method
        raise ConfigError(f"{what} belongs to the method 'prunevid', but the method is {shown!r}; leave one out.")
    if names:
        parts = [_named(name, config, preset, defaults or {}) for name in names]
        chosen = _composed(parts, changes) if len(parts) > 1 else methods.resolve(parts[0], **changes)
    else:
        chosen = methods.resolve("none" if method is None else method, **changes)
    if chosen.average_over_layers and chosen.retention_ratio is None and chosen.retention_tokens is None:
        raise ConfigError(
            "average_over_layers says how to count a budget; give retention_ratio or retention_tokens too."
        )
    return chosen


def _names(method: Any) -> list[str]:
    """The names in a method's name; none where it is no name."""
    return [name.strip() for name in method.split("|")] if isinstance(method, str) else []


def _named(name: str, config: PruneVidConfig | None, preset: str | None, defaults: Mapping[str, Any]) -> Method:
    """One method by name; "prunevid" with its config, its preset or the model's defaults."""
    if name != "prunevid":
        return methods.get(name)
    if config is None and preset is not None:
        fitting = {key: defaults[key] for key in ("pruning_layer", "max_frames") if key in defaults}
        config = get_preset(preset).replace(**fitting)
    elif config is None:
        config = PruneVidConfig().replace(**defaults)
    return methods.resolve(config)


def _composed(parts: list[Method], changes: dict[str, Any]) -> Method:
    """Several methods as one, each option with the part that has it.

    Raises:
        ConfigError: an option that no part has, or more than one; or two parts act at the same place.
    """
    label = "|".join(part.name for part in parts)
    whole = {name: value for name, value in changes.items() if name in _COMMON}
    own: list[dict[str, Any]] = [{} for _ in parts]
    for name in changes.keys() - whole.keys():
        owners = [index for index, part in enumerate(parts) if name in _options(part)]
        if not owners:
            raise ConfigError(f"{name!r} is no option of any part of {label!r}.")
        if len(owners) > 1:
            raise ConfigError(
                f"{name!r} is an option of several parts of {label!r}; set it on one of them with "
                "prunevid.methods.get, and compose them with prunevid.methods.compose."
            )
        own[owners[0]][name] = changes[name]
    return methods.compose(*(part.replace(**options) for part, options in zip(parts, own)), **whole)


def _options(method: Method) -> set[str]:
    """The names of a method's own options."""
    if method.name == "prunevid":
        return _SETTINGS
    return {field.name for field in dataclasses.fields(method)} - _COMMON
