# SPDX-License-Identifier: Apache-2.0
"""Which pruning method runs, from the several ways in which it can be named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunevid import methods
from prunevid.config import PruneVidConfig, get_preset
from prunevid.errors import ConfigError, UnsupportedError
from prunevid.methods import Method


def choose_method(
    method: str | Method | None = "prunevid",
    config: PruneVidConfig | None = None,
    preset: str | None = None,
    retention_ratio: float | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Method:
    """One method from the ways to name it.

    Args:
        method: a name, a method as it is, or None for "none".
        config: settings of "prunevid".
        preset: the name of a preset instead of a config.
        retention_ratio: not available yet.
        defaults: settings that suit the model; they replace the config's defaults, and in a preset what
            depends on the model (pruning_layer, max_frames). A config that was given stays as it is.

    Raises:
        ConfigError: an unknown name, or choices that contradict each other.
        UnsupportedError: `retention_ratio` was given.
    """
    if retention_ratio is not None:
        raise UnsupportedError(
            "retention_ratio is not available yet; use cluster_ratio and keep_ratio of the config instead."
        )
    if config is not None and preset is not None:
        raise ConfigError(f"Both a config and the preset {preset!r} were given; give one of them.")
    if (config is not None or preset is not None) and method != "prunevid":
        raise ConfigError(f"A config or preset belongs to the method 'prunevid', but the method is {method!r}.")
    if method is None or isinstance(method, Method):
        return method or methods.get("none")
    if method != "prunevid":
        return methods.get(method)
    defaults = dict(defaults or {})
    if config is None and preset is not None:
        fitting = {name: defaults[name] for name in ("pruning_layer", "max_frames") if name in defaults}
        config = get_preset(preset).replace(**fitting)
    elif config is None:
        config = PruneVidConfig().replace(**defaults)
    return methods.resolve(config)
