# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that several commands share, so that they read alike in every `--help`.

Those that stand under different headings are made by a function of the heading. An option that one command alone has,
or that means something else there, is declared in that command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

MODEL, PRUNING, FRAMES, ANSWER, OUTPUT = "Model", "Pruning", "Frames", "Answer", "Output"
"""Headings in `--help`."""

KERNEL_HELP = "Attention kernel: sdpa, eager, flash_attention_2."


def retention(panel: str) -> Any:
    """`--retention`, of one budget."""
    return typer.Option(help="Share of the visual tokens to keep, above 0 to 1.", rich_help_panel=panel)


def tokens(panel: str) -> Any:
    """`--tokens`."""
    return typer.Option(help="The same as a number of tokens.", rich_help_panel=panel)


def new_tokens(panel: str) -> Any:
    """`--max-new-tokens`, of one answer."""
    told = "Length of the answer in tokens, at most. Default: 128; one word for the embedded model."
    return typer.Option(help=told, rich_help_panel=panel)


def as_json(panel: str) -> Any:
    """`--json`."""
    return typer.Option("--json", help="Print one JSON document.", rich_help_panel=panel)


Clip = Annotated[
    Path, typer.Argument(metavar="CLIP", help="A video file, or a folder of pictures in the order of their names.")
]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about the clip.")]

Model = Annotated[
    str | None,
    typer.Option(
        help="A model folder, or an id on the model hub (downloaded). Default: the embedded model.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps. Default: the best there is; cpu for the embedded model.", rich_help_panel=MODEL
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.", rich_help_panel=MODEL)]
Kernel = Annotated[str | None, typer.Option(help=KERNEL_HELP, rich_help_panel=MODEL)]

Method = Annotated[
    str | None,
    typer.Option(
        help="Pruning method: prunevid (default), fastv, visionzip, random, none, ... or several that act at "
        "different places, as 'tome|fastv'.",
        rich_help_panel=PRUNING,
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Pruning methods with commas between, or all; 'tome|fastv' is both at once.", rich_help_panel=PRUNING
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings of prunevid by name: paper, conservative (prunes most), aggressive (prunes least), "
        "stage1_only, diverse (ours: keeps what shows something new), baseline (prunes nothing).",
        rich_help_panel=PRUNING,
    ),
]
Retention = Annotated[float | None, retention(PRUNING)]
Retentions = Annotated[
    str | None,
    typer.Option(
        help="Shares of the visual tokens to keep, with commas between, as 0.25,0.15,0.1; each goes with every "
        "method. Default: the methods' own settings.",
        rich_help_panel=PRUNING,
    ),
]
Tokens = Annotated[int | None, tokens(PRUNING)]
AverageOverLayers = Annotated[
    bool,
    typer.Option(
        "--average-over-layers",
        help="The budget is a mean over the decoder's layers, not what is left at the end.",
        rich_help_panel=PRUNING,
    ),
]

MaxFrames = Annotated[int | None, typer.Option(help="Frames to look at, at most.", rich_help_panel=FRAMES)]
MaxFramesOrAuto = Annotated[
    str | None,
    typer.Option(
        help="Frames to look at, at most; auto: as many as --token-budget or --flops-budget carries after pruning.",
        rich_help_panel=FRAMES,
    ),
]
TokenBudget = Annotated[
    int | None,
    typer.Option(help="With --max-frames auto: visual tokens that are left at the end.", rich_help_panel=FRAMES),
]
FlopsBudget = Annotated[
    float | None, typer.Option(help="With --max-frames auto: FLOPs of the pruned prefill.", rich_help_panel=FRAMES)
]
VisionChunkFrames = Annotated[
    str,
    typer.Option(
        help="Frames that are read and encoded together, which bounds the memory of long clips: a number, 0 for all, "
        "or auto (all of a short clip).",
        rich_help_panel=FRAMES,
    ),
]
Sampling = Annotated[
    str | None, typer.Option(help="uniform (spread over the clip) or fps (so many a second).", rich_help_panel=FRAMES)
]
Fps = Annotated[float | None, typer.Option(help="Frames a second; implies --sampling fps.", rich_help_panel=FRAMES)]
Start = Annotated[float | None, typer.Option(help="Begin at this second.", rich_help_panel=FRAMES)]
End = Annotated[float | None, typer.Option(help="End at this second.", rich_help_panel=FRAMES)]
SourceFps = Annotated[
    float | None, typer.Option(help="Frames a second of a folder of pictures; 1 by default.", rich_help_panel=FRAMES)
]

NewTokens = Annotated[int | None, new_tokens(ANSWER)]
Json = Annotated[bool, as_json(ANSWER)]
