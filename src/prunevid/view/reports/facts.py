# SPDX-License-Identifier: Apache-2.0
"""How a report was made, in words: model, method, settings, clip and versions."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunevid.answers import ClipInfo
    from prunevid.qa import VideoQA

PACKAGES = ("prunevid", "transformers", "torch")


def facts_of(qa: VideoQA, model: str | None = None) -> dict[str, str]:
    """What a page can't learn from an answer: the model, the method's settings and the versions.

    Args:
        qa: that answered.
        model: what to call it; None: the name of its class.
    """
    from prunevid.comparing import options_of

    kind = type(qa.model).__name__
    dtype = str(qa.model.dtype).removeprefix("torch.")
    facts = {"Model": f"{model} ({kind}, {dtype}, {qa.model.device})" if model else f"{kind} ({dtype})"}
    facts["Method"] = qa.method.label
    facts["Settings"] = settings(options_of(qa.method))
    facts["Versions"] = versions()
    return facts


def settings(options: dict[str, Any]) -> str:
    """Options as "name = value", one a line, those that are not set left out; nested ones follow their owner's name."""
    lines: list[str] = []
    for name, value in options.items():
        if isinstance(value, dict):
            lines += [f"{name}.{line}" for line in settings(value).splitlines()]
        elif value is not None:
            lines.append(f"{name} = {value if isinstance(value, str) else json.dumps(value, default=str)}")
    return "\n".join(lines)


def versions() -> str:
    """Of the packages that decide what comes out."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # run from a folder that was never installed
            continue
    return ", ".join(found)


def clip_facts(clip: ClipInfo) -> dict[str, str]:
    """What was seen of a clip: its name without the folders, which are nobody else's business."""
    count = len(clip.times)
    seen = f"{count} frame" if count == 1 else f"{count} frames"
    if count > 1:
        seen += f" from {clip.times[0]:.2f} s to {clip.times[-1]:.2f} s"
    facts = {"Clip": Path(clip.source).name, "Frames seen": f"{seen}, {clip.width} x {clip.height} pixels"}
    if clip.duration > 0:
        facts["Length"] = f"{clip.duration:.2f} s at {clip.fps:g} frames a second"
    return facts
