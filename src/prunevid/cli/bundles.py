# SPDX-License-Identifier: Apache-2.0
"""Options that go together, as one parameter of a command: a dataclass whose fields Typer sees as options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from prunevid.cli import options


@dataclass(frozen=True)
class Loading:
    """Which model, and where it runs."""

    model: options.Model = None
    device: options.Device = None
    dtype: options.Dtype = "auto"
    attn_implementation: options.Kernel = None


@dataclass(frozen=True)
class Pruning:
    """A method and its budget."""

    method: options.Method = None
    preset: options.Preset = None
    retention: options.Retention = None
    tokens: options.Tokens = None
    average_over_layers: options.AverageOverLayers = False

    def arguments(self) -> dict[str, Any]:
        """The fields by their names in `prunevid.choice.choose_method`."""
        return {
            "method": self.method,
            "preset": self.preset,
            "retention_ratio": self.retention,
            "retention_tokens": self.tokens,
            "average_over_layers": self.average_over_layers or None,
        }


@dataclass(frozen=True)
class Reading:
    """Which frames of a clip; the fields are arguments of `VideoQA.load_clip`."""

    max_frames: options.MaxFrames = None
    sampling: options.Sampling = None
    fps: options.Fps = None
    start: options.Start = None
    end: options.End = None
    source_fps: options.SourceFps = None

    def arguments(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Reading)}


def bundled(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as Typer takes it: each parameter that is a dataclass gives way to an option for each of its fields.

    Args:
        command: its parameters beyond those are annotated as Typer wants them.
    """
    hints = get_type_hints(command, include_extras=True)
    bundles: dict[str, type[Any]] = {
        name: kind for name, kind in hints.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = bundles.get(parameter.name)
        own = inspect.signature(kind).parameters.values() if kind is not None else [parameter]
        known = get_type_hints(kind, include_extras=True) if kind is not None else hints
        # By name, so that what has no default may stand behind what has one.
        changed = {"kind": inspect.Parameter.KEYWORD_ONLY}
        parameters += [one.replace(annotation=known[one.name], **changed) for one in own]  # type: ignore[arg-type]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        for name, kind in bundles.items():
            fields = [field.name for field in dataclasses.fields(kind)]
            given[name] = kind(**{field: given.pop(field) for field in fields})
        return command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
