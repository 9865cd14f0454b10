# SPDX-License-Identifier: Apache-2.0
"""The pruning methods by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from prunevid.config import PruneVidConfig
from prunevid.errors import ConfigError
from prunevid.methods.base import (
    Attention,
    Choice,
    Choosing,
    Method,
    TowerRequest,
    TowerView,
    Video,
    keep_cells,
    merge_cells,
    top_tokens,
)
from prunevid.methods.fastvid import FastVid
from prunevid.methods.flashvid import FlashVid
from prunevid.methods.holitom import HoliTom
from prunevid.methods.prumerge import PruMerge, PruMergePlus
from prunevid.methods.prunevid import PruneVid
from prunevid.methods.visionzip import VisionZip

_METHODS: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Makes a method known under its `name` (usable as a class decorator).

    Raises:
        ConfigError: the name is taken by another class.
    """
    known = _METHODS.get(method.name)
    if known is not None and known is not method:
        raise ConfigError(f"A method named {method.name!r} exists already; give yours another name.")
    _METHODS[method.name] = method
    return method


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(_METHODS)


def get(name: str, **options: Any) -> Method:
    """A method by name, with options of its own.

    Raises:
        ConfigError: there is no such method (the message lists them), or an option that it does not have.
    """
    if name not in _METHODS:
        raise ConfigError(f"{name!r} is no pruning method; choose one of {', '.join(names())}.")
    return _METHODS[name]().replace(**options)


def resolve(choice: PruneVidConfig | Method | str, **overrides: Any) -> Method:
    """A method from a config, a method or a name, with overrides applied.

    Raises:
        ConfigError: `choice` is none of these, or an override does not fit.
    """
    if isinstance(choice, PruneVidConfig):
        return PruneVid(choice).replace(**overrides)
    if isinstance(choice, Method):
        return choice.replace(**overrides) if overrides else choice
    if isinstance(choice, str):
        return get(choice, **overrides)
    raise ConfigError(f"{choice!r} is neither a PruneVidConfig nor a method nor a method's name.")


def replace_options(method: Method, overrides: dict[str, Any]) -> Method:
    """`dataclasses.replace` with an error that names the unknown option."""
    options = [field.name for field in dataclasses.fields(method)]
    unknown = sorted(set(overrides) - set(options))
    if unknown:
        known = f"its options are {', '.join(options)}" if options else "it has none"
        raise ConfigError(f"{unknown[0]!r} is no option of the method {method.name!r}; {known}.")
    return dataclasses.replace(method, **overrides)


register(Method)
register(PruneVid)
register(PruMerge)
register(PruMergePlus)
register(VisionZip)
register(FastVid)
register(HoliTom)
register(FlashVid)

__all__ = [
    "Attention",
    "Choice",
    "Choosing",
    "Method",
    "PruneVid",
    "TowerRequest",
    "TowerView",
    "Video",
    "get",
    "keep_cells",
    "merge_cells",
    "names",
    "register",
    "resolve",
    "top_tokens",
]
