# SPDX-License-Identifier: Apache-2.0
"""`prunevid ask CLIP QUESTION`: one question about one clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_MODEL = "Model"
_PRUNING = "Pruning"
_FRAMES = "Frames"
_ANSWER = "Answer"


def ask(
    clip: Annotated[
        Path, typer.Argument(metavar="CLIP", help="A video file, or a folder of pictures in the order of their names.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about the clip.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A model folder, or an id on the model hub (downloaded). Default: the embedded model.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps. Default: the best there is; cpu for the embedded model.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.", rich_help_panel=_MODEL)] = "auto",
    attn_implementation: Annotated[
        str | None,
        typer.Option(help="Attention kernel: sdpa, eager, flash_attention_2.", rich_help_panel=_MODEL),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Pruning method: prunevid (default), fastv, visionzip, random, none, ... or several that act at "
            "different places, as 'tome|fastv'.",
            rich_help_panel=_PRUNING,
        ),
    ] = None,
    retention: Annotated[
        float | None,
        typer.Option(help="Share of the visual tokens to keep, above 0 to 1.", rich_help_panel=_PRUNING),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="The same as a number of tokens.", rich_help_panel=_PRUNING)
    ] = None,
    average_over_layers: Annotated[
        bool,
        typer.Option(
            "--average-over-layers",
            help="The budget is a mean over the decoder's layers, not what is left at the end.",
            rich_help_panel=_PRUNING,
        ),
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Settings by name: paper, conservative (prunes most), aggressive (prunes least), stage1_only, "
            "baseline (prunes nothing).",
            rich_help_panel=_PRUNING,
        ),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(help="A place is static above this similarity over a scene.", rich_help_panel=_PRUNING),
    ] = None,
    cluster_ratio: Annotated[
        float | None,
        typer.Option(help="Share of tokens that merging leaves, above 0 to 1.", rich_help_panel=_PRUNING),
    ] = None,
    temporal_segment_ratio: Annotated[
        float | None, typer.Option(help="Scene clusters for each frame, above 0 to 1.", rich_help_panel=_PRUNING)
    ] = None,
    keep_ratio: Annotated[
        float | None,
        typer.Option(help="Share of merged tokens that the question keeps, 0 to 1.", rich_help_panel=_PRUNING),
    ] = None,
    pruning_layer: Annotated[
        int | None,
        typer.Option(
            help="Decoder layer (from 0) after which tokens go. Default: 10 of 32, scaled to the depth.",
            rich_help_panel=_PRUNING,
        ),
    ] = None,
    max_frames: Annotated[
        str | None,
        typer.Option(
            help="Frames to look at, at most; auto: as many as --token-budget or --flops-budget carries after pruning.",
            rich_help_panel=_FRAMES,
        ),
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(help="With --max-frames auto: visual tokens that are left at the end.", rich_help_panel=_FRAMES),
    ] = None,
    flops_budget: Annotated[
        float | None,
        typer.Option(help="With --max-frames auto: FLOPs of the pruned prefill.", rich_help_panel=_FRAMES),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="uniform (spread over the clip) or fps (so many a second).", rich_help_panel=_FRAMES),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; implies --sampling fps.", rich_help_panel=_FRAMES)
    ] = None,
    start: Annotated[float | None, typer.Option(help="Begin at this second.", rich_help_panel=_FRAMES)] = None,
    end: Annotated[float | None, typer.Option(help="End at this second.", rich_help_panel=_FRAMES)] = None,
    source_fps: Annotated[
        float | None,
        typer.Option(help="Frames a second of a folder of pictures; 1 by default.", rich_help_panel=_FRAMES),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Refuse clips longer than this; 4 hours by default.", rich_help_panel=_FRAMES),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(help="Refuse frames of more pixels; 4096 x 4096 by default.", rich_help_panel=_FRAMES),
    ] = None,
    vision_chunk_frames: Annotated[
        str,
        typer.Option(
            help="Frames that are read and encoded together, which bounds the memory of long clips: a number, 0 for "
            "all, or auto (all of a short clip).",
            rich_help_panel=_FRAMES,
        ),
    ] = "auto",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Length of the answer in tokens, at most. Default: 128; one word for the embedded model.",
            rich_help_panel=_ANSWER,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Sample with this temperature instead of greedy decoding.", rich_help_panel=_ANSWER),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", rich_help_panel=_ANSWER)] = 0,
    stats: Annotated[
        bool, typer.Option("--stats", help="Also print what was kept and what it cost.", rich_help_panel=_ANSWER)
    ] = False,
    flops: Annotated[
        bool,
        typer.Option("--flops", help="Also count the prefill's FLOPs (two more prefills).", rich_help_panel=_ANSWER),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=_ANSWER)] = False,
) -> None:
    """Ask one question about a clip, with a pruned model; greedy decoding unless --temperature is given."""
    from prunevid.cli import common

    if temperature is not None and temperature <= 0:
        raise typer.BadParameter("must be above 0 (leave it out for greedy decoding).", param_hint="--temperature")
    chunk_frames, most = common.chunk_frames(vision_chunk_frames), common.frames(max_frames)
    overrides = {
        "tau": tau,
        "cluster_ratio": cluster_ratio,
        "temporal_segment_ratio": temporal_segment_ratio,
        "keep_ratio": keep_ratio,
        "pruning_layer": pruning_layer,
    }
    qa = common.load(
        model,
        method=method,
        preset=preset,
        overrides=overrides,
        retention=retention,
        tokens=tokens,
        average_over_layers=average_over_layers,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    qa.vision_chunk_frames = chunk_frames
    import torch

    from prunevid.comparing import options_of

    torch.manual_seed(seed)
    chosen: dict[str, Any] = {} if temperature is None else {"do_sample": True, "temperature": temperature}
    with common.working("Reading the clip") as tell:
        answer = qa.ask(
            clip,
            question,
            max_new_tokens=max_new_tokens,
            max_frames=most,
            token_budget=token_budget,
            flops_budget=flops_budget,
            sampling=sampling,
            fps=fps,
            start=start,
            end=end,
            source_fps=source_fps,
            limits=common.limits(max_seconds, max_pixels),
            progress=common.reading(tell),
            measure_flops=flops,
            **chosen,
        )
    if as_json:
        document = common.as_dict(answer)
        document["model"] = model or "builtin"
        document["method"] = qa.method.label
        document["options"] = options_of(qa.method)
        document["config"] = common.settings(qa.config)
        common.print_json(document)
        return
    typer.echo(answer.text)
    if (stats or flops) and answer.stats:
        common.console().print(common.stats_table(answer.stats))
