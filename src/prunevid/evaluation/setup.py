# SPDX-License-Identifier: Apache-2.0
"""From a request to a model with its pruning, and to the settings that a run's folder keeps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunevid import loading, models
from prunevid.choice import choose_method
from prunevid.errors import ConfigError, InputError
from prunevid.evaluation.items import Item
from prunevid.evaluation.request import Request
from prunevid.evaluation.runs import ANSWERS, SETTINGS, Settings, parts_of, read_settings
from prunevid.evaluation.writing import write_json
from prunevid.qa import VideoQA

_PLACING = ("device", "device_map", "dtype", "attn_implementation")  # of the loading arguments; they change no weight
_MISSING = object()


def with_published(request: Request, config: Any, defaults: Mapping[str, Any], lora_alpha: float) -> Request:
    """The request with what the benchmark's published run had, where the model is the paper's own and nothing is given.

    Args:
        request: as the user made it.
        config: of the model (`model_config`); None where it is not known.
        defaults, lora_alpha: of the published run: settings of PruneVid, and the scale of PLLaVA's adapters.

    Returns:
        For PLLaVA: with these settings where the method is "prunevid" and neither a preset nor options are given; with
        `lora_alpha` where the adapters lie apart and none is given. Any other model: as it was.
    """
    if getattr(config, "model_type", None) != "pllava":
        return request
    method = (request.method or "prunevid").split("|")
    if "prunevid" in method and request.preset is None and not request.method_options:
        request = dataclasses.replace(request, method_options=dict(defaults))
    if getattr(config, "pllava_adapters", None) is not None and request.loading.get("lora_alpha") is None:
        given = {**request.loading, "lora_alpha": lora_alpha}
        request = dataclasses.replace(request, loading=given)
    return request


def model_config(request: Request) -> Any:
    """The configuration of the model that is asked for; None for the embedded one, or where it can't be read.

    Raises:
        InputError, UnsupportedModelError: there is no such model.
    """
    from transformers import AutoConfig

    if request.model is None:
        return None
    models.register_ports()
    name, local = loading.locate(request.model)
    given = {key: request.loading[key] for key in ("revision", "token", "cache_dir") if key in request.loading}
    try:
        return AutoConfig.from_pretrained(name, **given, **({"local_files_only": True} if local else {}))
    except (OSError, ValueError, KeyError):
        return None  # loading says what is wrong with it


def open_model(request: Request, arguments: Mapping[str, Any], loaded: tuple[Any, Any] | None = None) -> VideoQA:
    """The model with its pruning.

    Args:
        request: what is asked for.
        arguments: of `prunevid.loading.load`, with the device of this process.
        loaded: a model and its processor that are there already; they are taken as they are.

    Raises:
        PruneVidError: whatever is wrong with the options or the model.
    """
    chosen: dict[str, Any] = {
        "method": request.method or "prunevid",
        "preset": request.preset,
        "retention_ratio": request.retention_ratio,
        "retention_tokens": request.retention_tokens,
        "average_over_layers": request.average_over_layers,
        "method_options": dict(request.method_options),
    }
    if loaded is not None:
        from prunevid import builtin

        fitting = builtin.DEFAULTS if request.model is None else None
        return VideoQA(*loaded, method=choose_method(**chosen, defaults=fitting))
    if request.model is not None:
        return VideoQA.from_pretrained(request.model, **chosen, **arguments)
    return _embedded(chosen, arguments)


def _embedded(chosen: Mapping[str, Any], arguments: Mapping[str, Any]) -> VideoQA:
    """The embedded model, which takes fewer loading arguments."""
    import torch

    given = {name: value for name, value in arguments.items() if value is not None}
    if unknown := sorted(given.keys() - {"device", "dtype", "attn_implementation"}):
        raise ConfigError(f"{unknown[0]} is nothing that the embedded model takes; leave it out, or give a model.")
    kind = loading.check_dtype(given.get("dtype"))
    return VideoQA.builtin(
        **chosen,
        device=loading.pick_device(given.get("device", "cpu")),
        dtype=None if kind == "auto" else kind if isinstance(kind, torch.dtype) else getattr(torch, kind),
        attn_implementation=given.get("attn_implementation", "sdpa"),
    )


def settings_of(
    request: Request, qa: VideoQA, protocol: Any, items: Sequence[Item], frames: int, max_new_tokens: int
) -> Settings:
    """What makes the run what it is."""
    config = qa.model.config
    return Settings(
        benchmark=request.benchmark,
        protocol=protocol.name,
        model=request.model or "builtin",
        family=config.model_type,
        method=qa.method.label,
        options=_plain(dataclasses.asdict(qa.method)),
        frames=frames,
        max_new_tokens=max_new_tokens,
        options_of_benchmark=_plain(
            {
                "tasks": list(request.tasks),
                "limit": request.limit,
                "subtitles": request.subtitles,
                "subtitles_before_video": request.subtitles_before_video,
                "questions": len(items),
                "annotations": digest(items),
                "lora_alpha": getattr(config, "pllava_lora_alpha", None),
                **{name: value for name, value in request.loading.items() if name not in (*_PLACING, "lora_alpha")},
            }
        ),
        dtype=str(qa.model.dtype).removeprefix("torch."),
        attention=str(getattr(config, "_attn_implementation", "")),
        versions=versions(qa.model),
    )


def digest(items: Sequence[Item]) -> str:
    """A short name of what is asked, which is another one when an annotation file has changed.

    Answers are left out: some become known later.
    """
    asked = [
        [item.key, item.task, item.question, list(item.candidates), item.video.kind, item.video.bound] for item in items
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def versions(model: Any) -> dict[str, str]:
    """What the run is made with: packages, Python, and the device."""
    import torch
    import transformers

    import prunevid

    device = torch.device(model.device)
    return {
        "prunevid": prunevid.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def keep_settings(folder: Path, settings: Settings) -> list[str]:
    """Writes the settings of a new run, or compares them with those of the run that the folder holds.

    Returns:
        What is another version now, as lines for people; the run may go on.

    Raises:
        InputError: the folder holds a run with other settings (which), or answers without settings.
        StoppedError: they can't be written.
    """
    path = folder / SETTINGS
    if not path.exists() and ((folder / ANSWERS).exists() or parts_of(folder)):
        raise InputError(f"{folder} holds answers but no {SETTINGS}; give another folder.")
    if not path.exists() and write_json(path, _plain(dataclasses.asdict(settings)), fresh=True):
        return []
    known, now = dataclasses.asdict(read_settings(folder)), _plain(dataclasses.asdict(settings))
    before, after = known.pop("versions"), now.pop("versions")
    if differing := differences(known, now):
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differing)}. Give another folder, or the settings "
            "of that run."
        )
    changed = differences(before, after)
    return [f"{folder} was begun with other versions: {'; '.join(changed)}."] if changed else []


def differences(known: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
    """What differs between two nested dictionaries: "options.keep_ratio is 0.4 there and 0.5 now", ..."""
    found = []
    for name in dict.fromkeys([*known, *now]):
        one, two = known.get(name, _MISSING), now.get(name, _MISSING)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            found += differences(one, two, f"{above}{name}.")
        elif one is _MISSING or two is _MISSING or json.dumps(one) != json.dumps(two):
            shown = ["not set" if value is _MISSING else json.dumps(value, ensure_ascii=False) for value in (one, two)]
            found.append(f"{above}{name} is {shown[0]} there and {shown[1]} now")
    return found


def _plain(value: Any) -> Any:
    """The value as JSON has it, whatever is no JSON type by its text."""
    return json.loads(json.dumps(value, default=str))
