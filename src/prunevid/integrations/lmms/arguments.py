# SPDX-License-Identifier: Apache-2.0
"""From `--model_args` to a pruning method: which arguments are ours, of which type, and which nobody knows."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from prunevid import methods
from prunevid.choice import choose_method
from prunevid.config import PruneVidConfig
from prunevid.errors import ConfigError
from prunevid.methods import Method

CHOICE = ("method", "preset", "retention_ratio", "retention_tokens", "average_over_layers")
"""Arguments of `prunevid.choice.choose_method` that can be given by name."""

_READING = ("max_frames", "video_sampling")  # settings of PruneVid that say which frames are read


def accepted(function: Callable[..., Any]) -> set[str]:
    """The names of the arguments that a function takes, without `self`, `*args` and `**kwargs`."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind in kinds} - {"self"}


def split(given: Mapping[str, Any], theirs: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(ours, theirs): the arguments that the model's own class takes go to it, all others are ours."""
    ours = {name: value for name, value in given.items() if name not in theirs}
    return ours, {name: value for name, value in given.items() if name in theirs}


def choose(
    ours: Mapping[str, Any], model_id: str, theirs: set[str], defaults: Mapping[str, Any] | None = None
) -> Method:
    """The method that the arguments name; "prunevid" where they name none.

    Args:
        ours: method, preset, retention_ratio, retention_tokens, average_over_layers, and any option of the method;
            values as lmms-eval parses them from `--model_args`, or plain ones.
        model_id: of our model, for errors.
        theirs: the arguments of the model's own class, for errors.
        defaults: settings that suit the model (`choose_method`).

    Raises:
        ConfigError: an argument that neither knows, or a value that the method does not take.
    """
    values = {name: typed(value) for name, value in ours.items()}
    choice = {name: values.pop(name) for name in CHOICE if name in values}
    method = choice.pop("method", "prunevid")
    values = {name: value for name, value in values.items() if value is not None}
    for name in values:
        _check(name, "none" if method is None else str(getattr(method, "label", method)), model_id, theirs)
    return choose_method(method, defaults=defaults, method_options=values, **choice)


def typed(value: Any) -> Any:
    """An argument's value with its type: true and false, none, whole numbers, numbers, lists in brackets, or text.

    lmms-eval reads every negative number and every exponent as a float; whole ones become whole numbers here.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = value.strip().strip("'\"")
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        found = json.loads(text)
    except ValueError:
        return text
    if isinstance(found, list):
        return tuple(found)
    return typed(found) if isinstance(found, float) else found


def _check(name: str, method: str, model_id: str, theirs: set[str]) -> None:
    """Refuses what is neither an option of the method nor an argument of the model's class."""
    if name in _READING:
        frames = ", ".join(sorted(known for known in theirs if "frames" in known)) or "its own arguments"
        raise ConfigError(f"{name!r} has no effect, for {model_id} reads frames as {frames} says; leave it out.")
    options = _options(method)
    if name in options:
        return
    known = [*CHOICE, *sorted(options), *sorted(theirs)]
    near = difflib.get_close_matches(name, known, n=1)
    nearest = f"do you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{name!r} is no argument of {model_id} ({nearest}ours are {', '.join(CHOICE)} and the options of the method "
        f"{method!r}: {', '.join(sorted(options)) or 'none'}; the model's own are {', '.join(sorted(theirs))})."
    )


def _options(method: str) -> set[str]:
    """The names of the options of a method, or of the parts of one joined by "|"."""
    found: set[str] = set()
    for part in (name.strip() for name in method.split("|")):
        kind = PruneVidConfig if part == "prunevid" else type(methods.get(part))
        found |= {field.name for field in dataclasses.fields(kind)}
    return found - {*CHOICE, *_READING}
