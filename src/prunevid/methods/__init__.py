# SPDX-License-Identifier: Apache-2.0
"""The pruning methods by name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import warnings
from typing import Any

from prunevid.config import DefaultLayer, PruneVidConfig
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
    """Registers the methods that other packages offer under the entry point group "prunevid.methods".

    One that can't be loaded is named in a warning, so that the others can still be used.
    """
    for entry in importlib.metadata.entry_points(group="prunevid.methods"):
        try:
            method = entry.load()
            if not (isinstance(method, type) and issubclass(method, Method)):
                raise ConfigError(f"{method!r} is no subclass of prunevid.methods.Method.")
            register(method)
        except Exception as error:
            warnings.warn(
                f"The method {entry.name!r} of another package ({entry.value}) can't be used: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


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


def table() -> str:
    """The methods of this package as a table in Markdown (`docs/methods.md` holds it)."""
    lines = ["| method | where it acts | needs the tower | positions | defaults |", "|---|---|---|---|---|"]
    for name, kind in sorted(_METHODS.items()):
        method = kind()
        tower = "yes" if method.tower is not None else "no"
        cells = [f"[`{name}`](methods/{name.rstrip('+')}.md)", _places(method), tower, _positions(method)]
        lines.append(f"| {' | '.join([*cells, _defaults(method)])} |")
    return "\n".join(lines)


def _places(method: Method) -> str:
    """Which slots it fills."""
    layers = len(method.selection_layers)
    places = [
        ("before", method.merges),
        ("inside" if layers == 1 else f"inside, {layers} times", layers),
        ("cache", method.compresses_cache),
        ("cache, each head by itself", method.shrinks_cache),
        ("while it answers", method.revision_layer is not None),
    ]
    return "; ".join(label for label, used in places if used) or "nowhere"


def _positions(method: Method) -> str:
    """Of the tokens that are left, in families with positions on one axis."""
    return "counted anew" if method.merges and method.position_scheme != "keep" else "kept"


def _defaults(method: Method) -> str:
    """Its own options; "3 of 32": a layer that follows the model's depth."""
    budget = {field.name for field in dataclasses.fields(Method)}
    own = [field.name for field in dataclasses.fields(method) if field.name not in budget]
    return ", ".join(f"`{name}={_shown(getattr(method, name))}`" for name in own) or "none"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, DefaultLayer):
        return f"{int(value)} of {value.of}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value)


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
    "table",
    "top_tokens",
]
