# SPDX-License-Identifier: Apache-2.0
"""`prunevid ask CLIP QUESTION`: one question about one clip."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prunevid.cli import options


def ask(
    clip: options.Clip,
    question: options.Question,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    attn_implementation: options.Kernel = None,
    method: options.Method = None,
    retention: options.Retention = None,
    tokens: options.Tokens = None,
    average_over_layers: options.AverageOverLayers = False,
    preset: options.Preset = None,
    tau: Annotated[
        float | None,
        typer.Option(help="A place is static above this similarity over a scene.", rich_help_panel=options.PRUNING),
    ] = None,
    cluster_ratio: Annotated[
        float | None,
        typer.Option(help="Share of tokens that merging leaves, above 0 to 1.", rich_help_panel=options.PRUNING),
    ] = None,
    temporal_segment_ratio: Annotated[
        float | None, typer.Option(help="Scene clusters for each frame, above 0 to 1.", rich_help_panel=options.PRUNING)
    ] = None,
    keep_ratio: Annotated[
        float | None,
        typer.Option(help="Share of merged tokens that the question keeps, 0 to 1.", rich_help_panel=options.PRUNING),
    ] = None,
    pruning_layer: Annotated[
        int | None,
        typer.Option(
            help="Decoder layer (from 0) after which tokens go. Default: 10 of 32, scaled to the depth.",
            rich_help_panel=options.PRUNING,
        ),
    ] = None,
    max_frames: options.MaxFrames = None,
    sampling: options.Sampling = None,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    source_fps: options.SourceFps = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Refuse clips longer than this; 4 hours by default.", rich_help_panel=options.FRAMES),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(help="Refuse frames of more pixels; 4096 x 4096 by default.", rich_help_panel=options.FRAMES),
    ] = None,
    max_new_tokens: options.NewTokens = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Sample with this temperature instead of greedy decoding.", rich_help_panel=options.ANSWER),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", rich_help_panel=options.ANSWER)] = 0,
    stats: Annotated[
        bool, typer.Option("--stats", help="Also print what was kept and what it cost.", rich_help_panel=options.ANSWER)
    ] = False,
    flops: Annotated[
        bool,
        typer.Option(
            "--flops", help="Also count the prefill's FLOPs (two more prefills).", rich_help_panel=options.ANSWER
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Ask one question about a clip, with a pruned model; greedy decoding unless --temperature is given."""
    from prunevid.cli import common

    if temperature is not None and temperature <= 0:
        raise typer.BadParameter("must be above 0 (leave it out for greedy decoding).", param_hint="--temperature")
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
    import torch

    from prunevid.comparing import options_of

    torch.manual_seed(seed)
    chosen: dict[str, Any] = {} if temperature is None else {"do_sample": True, "temperature": temperature}
    with common.working("Reading the clip") as tell:
        answer = qa.ask(
            clip,
            question,
            max_new_tokens=max_new_tokens,
            max_frames=max_frames,
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
