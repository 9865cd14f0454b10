# SPDX-License-Identifier: Apache-2.0
"""The pruning methods by name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
from typing import Any

from prunevid.config import PruneVidConfig
from prunevid.errors import ConfigError
from prunevid.methods.base import (
    Attention,
    Choice,
    Choosing,
    LayerCache,
    Method,
    TowerRequest,
    TowerView,
    Video,
    keep_cells,
    merge_cells,
    top_tokens,
)
from prunevid.methods.composed import compose
from prunevid.methods.divprune import DivPrune
from prunevid.methods.dtd import Dtd
from prunevid.methods.dycoke import DyCoke
from prunevid.methods.evs import Evs
from prunevid.methods.fastv import FastV
from prunevid.methods.fastvid import FastVid
from prunevid.methods.flashvid import FlashVid
from prunevid.methods.frames import Frames
from prunevid.methods.holitom import HoliTom
from prunevid.methods.lookm import LookM
from prunevid.methods.prumerge import PruMerge, PruMergePlus
from prunevid.methods.prunevid import PruneVid
from prunevid.methods.pyramiddrop import PyramidDrop
from prunevid.methods.random import Random
from prunevid.methods.sparsevlm import SparseVLM
from prunevid.methods.tome import ToMe
from prunevid.methods.uniform import Uniform
from prunevid.methods.vidcom2 import VidCom2
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
    """The names of all methods, sorted; those of other packages too."""
    _load_plugins()
    return sorted(_METHODS)


def get(name: str, **options: Any) -> Method:
    """A method by name, with options of its own; several names joined by "|" are composed (see `compose`).

    Raises:
        ConfigError: there is no such method (the message names the nearest), or an option that it does not have.
    """
    if "|" in name:
        return compose(*(get(part.strip()) for part in name.split("|")), **options)
    _load_plugins()
    if name not in _METHODS:
        near = difflib.get_close_matches(str(name), names(), n=3, cutoff=0.5)
        nearest = f" (do you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise ConfigError(f"{name!r} is no pruning method{nearest}; choose one of {', '.join(names())}.")
    return _METHODS[name]().replace(**options)


@functools.cache
def _load_plugins() -> None:
    """Registers the methods that other packages offer under the entry point group "prunevid.methods"."""
    for entry in importlib.metadata.entry_points(group="prunevid.methods"):
        register(entry.load())


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
register(FastV)
register(LookM)
register(PyramidDrop)
register(SparseVLM)
register(DivPrune)
register(Dtd)
register(DyCoke)
register(Evs)
register(Frames)
register(Random)
register(ToMe)
register(Uniform)
register(VidCom2)
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
    "DivPrune",
    "Dtd",
    "DyCoke",
    "Evs",
    "Frames",
    "LayerCache",
    "Method",
    "PruneVid",
    "Random",
    "ToMe",
    "TowerRequest",
    "TowerView",
    "Uniform",
    "VidCom2",
    "Video",
    "compose",
    "get",
    "keep_cells",
    "merge_cells",
    "names",
    "register",
    "resolve",
    "top_tokens",
]
