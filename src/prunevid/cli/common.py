# SPDX-License-Identifier: Apache-2.0
"""What several commands share: loading as the options say, tables of statistics, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from prunevid.cli.bundles import Loading, Pruning
from prunevid.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from prunevid.answers import ClipInfo
    from prunevid.config import PruneVidConfig
    from prunevid.qa import Answer, VideoQA

Number = TypeVar("Number", int, float)

STAGE_NAMES = {
    "decode_video": "reading the clip",
    "vision": "vision tower",
    "merge": "merging",
    "prefill": "prefill",
    "decode": "decoding",
}


def load(
    loading: Loading,
    pruning: Pruning | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> VideoQA:
    """The model that the options name: the embedded one without `--model`.

    Args:
        pruning: the method and its budget; None: the default.
        overrides: settings of PruneVid that were given one by one; None values are left out.
        options: of the method's own, whichever it is.

    Raises:
        PruneVidError: whatever is wrong with the options or the model.
    """
    from prunevid.loading import check_dtype, pick_device
    from prunevid.qa import VideoQA

    pruning = pruning or Pruning()
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    method = pruning.method or "prunevid"
    if given and "prunevid" not in method.split("|"):
        raise ConfigError(f"--{next(iter(given)).replace('_', '-')} belongs to the method prunevid, not to {method}.")
    chosen: dict[str, Any] = {
        **pruning.arguments(),
        "method": method,
        "method_options": {**given, **(options or {})},
    }
    if loading.model is None:
        import torch

        kind = check_dtype(loading.dtype)
        return VideoQA.builtin(
            **chosen,
            device=pick_device(loading.device or "cpu"),
            dtype=None if kind == "auto" else getattr(torch, str(kind)),
            attn_implementation=loading.attn_implementation or "sdpa",
        )
    if loading.attn_implementation is not None:
        chosen["attn_implementation"] = loading.attn_implementation
    return VideoQA.from_pretrained(loading.model, device=loading.device, dtype=loading.dtype, **chosen)


def limits(max_seconds: float | None, max_pixels: int | None) -> Any:
    """The limits of `prunevid.video` with those that were given changed."""
    from prunevid.video import Limits

    given = {"max_seconds": max_seconds, "max_pixels": max_pixels}
    return Limits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def frames(text: str | None) -> Any:
    """The value of `--max-frames`: a number, "auto" or None.

    Raises:
        ConfigError: it is none of these.
    """
    if text in (None, "auto"):
        return text
    try:
        return int(str(text))
    except ValueError:
        raise ConfigError(f"--max-frames is {text!r}, but must be a whole number or auto.") from None


def shares(text: str | None) -> list[float]:
    """The value of `--retention` where it may be several shares; empty for None.

    Raises:
        typer.BadParameter: it is no list of numbers.
    """
    return [] if text is None else numbers("--retention", text, float, "0.25,0.15,0.1")


def numbers(option: str, text: str, kind: Callable[[str], Number], example: str) -> list[Number]:
    """The numbers of an option, with commas between.

    Raises:
        typer.BadParameter: one is none.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        told = f"{text!r} is no list of numbers: must be numbers with commas between, such as {example}."
        raise typer.BadParameter(told, param_hint=option) from None


def chunk_frames(text: str) -> Any:
    """The value of `--vision-chunk-frames`.

    Raises:
        ConfigError: it is neither auto nor a whole number of at least 0.
    """
    from prunevid.vision_chunks import check_chunk_frames

    return check_chunk_frames(int(text) if text.isdecimal() else text)


def method_options(given: Iterable[str]) -> dict[str, Any]:
    """Options from their texts: {"keep_ratio": 0.3} of "keep_ratio=0.3"; a value that is no JSON is text.

    Raises:
        ConfigError: one has no name or no value, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise ConfigError(f"--setting is {text!r}, but must be NAME=VALUE, such as keep_ratio=0.3.")
        if name in found:
            raise ConfigError(f"--setting gives {name} twice; leave one out.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


def settings(config: PruneVidConfig | None) -> dict[str, Any] | None:
    """A config as a plain dictionary."""
    import dataclasses

    return None if config is None else dataclasses.asdict(config)


def as_dict(answer: Answer) -> dict[str, Any]:
    """An answer as JSON types."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "clip": clip_dict(answer.clip),
        "stats": answer.stats,
    }


def clip_dict(clip: ClipInfo) -> dict[str, Any]:
    """What was seen of a clip as JSON types."""
    return {
        "source": clip.source,
        "frames": len(clip.times),
        "times": [round(moment, 6) for moment in clip.times],
        "width": clip.width,
        "height": clip.height,
        "fps": clip.fps,
        "duration": clip.duration,
    }


def print_json(value: Any, lines: bool = False) -> None:
    """One JSON document on stdout; `lines`: on one line, as one of many."""
    typer.echo(json.dumps(value, indent=None if lines else 2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch, and paths, as JSON types."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in JSON.")


def stats_table(stats: Mapping[str, Mapping[str, Any]]) -> Table:
    """Two columns: what, and how much."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in stats_lines(stats):
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def stats_lines(stats: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The statistics of one answer in words."""
    first, second, third, total = (stats[name] for name in ("stage1", "stage2", "stage3", "total"))
    layer = "no choice" if second["layer"] is None else f"after layer {second['layer']}"
    lines = [
        ("visual tokens", f"{first['original_tokens']}"),
        (
            "stage 1, merged",
            f"{first['compressed_tokens']} (-{first['reduction_percentage']:.1f} %; {first['num_segments']} scenes, "
            f"{first['static_ratio']:.0%} static)",
        ),
        (
            "stage 2, chosen",
            f"{second['compressed_tokens']} (-{second['reduction_percentage']:.1f} %; {layer})",
        ),
        (
            "stage 3, KV cache",
            f"{third['original_bytes'] / 1024:.1f} -> {third['compressed_bytes'] / 1024:.1f} KiB "
            f"(-{100 * third['reduction_ratio']:.1f} %)",
        ),
        ("kept", f"{total['retained_ratio']:.1%} of the visual tokens"),
        ("prefill FLOPs", f"{total['flops_ratio']:.1%} of the unpruned model's, by formula"),
    ]
    if "flops_measured_ratio" in total:
        measured = f"{total['flops_measured_ratio']:.1%}, counted ({total['flops_measured'] / 1e9:.3g} GFLOP)"
        lines.append(("", measured))
    if "open" in stats:
        held = stats["open"]
        lines.append(("held open", held["why"] or f"{held['prefix_tokens']} prompt tokens were not run again"))
        lines.append(("", f"{held['bytes'] / 2**20:.1f} MiB held"))
    if (fit := stats.get("frame_budget")) is not None:
        lines.append(
            (
                "frame budget",
                f"{fit['spent']:.4g} of {fit['budget']:.4g} {fit['unit']} with {fit['adjusted_frames']} frames "
                f"({fit['measured']:.4g} with {fit['predicted_frames']}, {fit['predicted']:.4g} predicted)",
            )
        )
    if (chunks := stats.get("vision_chunks")) is not None:
        lines.append(("vision chunks", f"{chunks['count']} of {chunks['frames']} frames at most"))
    times = stats.get("milliseconds", {})
    lines += [(STAGE_NAMES[name], f"{times[name]:.1f} ms") for name in STAGE_NAMES if name in times]
    return lines


def console() -> Console:
    """Where results go: as wide as the terminal, or wide enough for the tables where there is none."""
    from rich.console import Console

    plain = Console()
    return plain if plain.is_terminal else Console(width=max(plain.width, 116))


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr that says what is being done, where somebody watches; nothing in a pipe.

    Yields:
        A function that changes the text.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield status.update


def reading(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """A `progress` callback of `load_clip` that tells how many frames were read."""

    def told(done: int, total: int) -> None:
        tell(f"Reading the clip: {done} of {total} frames" if done < total else "Answering")

    return told
