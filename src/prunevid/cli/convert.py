# SPDX-License-Identifier: Apache-2.0
"""`prunevid convert`: from a published checkpoint to a folder that `VideoQA.from_pretrained` loads.

One sub-command a family; each is a function here that calls the family's converter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Convert a published checkpoint to a folder that transformers loads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def writing(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """A `progress` callback of a converter that tells how much is written."""

    def told(done: int, total: int) -> None:
        tell(f"Writing: {done / 2**30:.1f} of {total / 2**30:.1f} GiB")

    return told


@app.command("pllava")
def pllava(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the downloaded PLLaVA checkpoint.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")],
    lora_alpha: Annotated[
        float | None,
        typer.Option("--lora-alpha", help="Scale of the adapters: 14 or 4 at test time, 32 in training, 0 for none."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", help="Folder of the LLaVA-NeXT checkpoint, where SRC holds only what was trained."),
    ] = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Leave the adapters apart; the alpha is then given at loading.")
    ] = False,
) -> int:
    """Convert PLLaVA (ermu2001/pllava-7b, -13b, -34b): merge its adapters, or keep them apart."""
    from prunevid.cli import common
    from prunevid.models.pllava.conversion import convert

    with common.working("Reading the checkpoint") as tell:
        report = convert(
            source,
            destination,
            lora_alpha=lora_alpha,
            base=base,
            keep_adapters=keep_adapters,
            progress=writing(tell),
        )
    how = "no adapters"
    if report.adapters:
        how = f"{report.adapters} adapters " + ("apart" if report.alpha is None else f"merged, alpha {report.alpha:g}")
    typer.echo(f"{report.folder}: {report.weights} weights, {how}.")
    for why in sorted(set(report.dropped.values())):
        names = sorted(name for name, reason in report.dropped.items() if reason == why)
        typer.echo(f"  not among the weights: {names[0]}{' ...' if len(names) > 1 else ''} ({len(names)}): {why}")
    return 0


@app.command("stllm")
def stllm(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the downloaded ST-LLM checkpoint.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")],
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="qa or conversation; without it, qa where there is a BT-Adapter."),
    ] = None,
    vit: Annotated[
        Path | None, typer.Option("--vit", help="eva_vit_g.pth, where SRC does not hold the vision tower.")
    ] = None,
    qformer: Annotated[
        Path | None,
        typer.Option("--qformer", help="instruct_blip_vicuna7b_trimmed.pth, where SRC does not hold the Q-Former."),
    ] = None,
    bert: Annotated[Path | None, typer.Option("--bert", help="Folder with the tokenizer of bert-base-uncased.")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, float16 or bfloat16; without it, as it is stored.")
    ] = None,
) -> int:
    """Convert ST-LLM (farewellthree/ST_LLM_weight: QA_weight or conversation_weight)."""
    from prunevid.cli import common
    from prunevid.models.stllm.converting import convert

    with common.working("Reading the checkpoint") as tell:
        report = convert(
            source,
            destination,
            variant=variant,
            vit=vit,
            qformer=qformer,
            bert=bert,
            dtype=dtype,
            progress=writing(tell),
        )
    typer.echo(f"{report.folder}: {report.tensors} weights, variant {report.variant}.")
    for part, origin in report.origins.items():
        typer.echo(f"  {part}: {origin}")
    for name, why in report.dropped.items():
        typer.echo(f"  left out {name}: {why}")
    return 0
