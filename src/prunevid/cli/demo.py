# SPDX-License-Identifier: Apache-2.0
"""`prunevid demo`: makes a clip, asks the embedded model about it without pruning and with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunevid.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from prunevid.builtin import Question
    from prunevid.qa import Answer, VideoQA


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Which clip to make; the same seed makes the same clip.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the clip (an .mp4 file). Default: a temporary folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file given by --out.")] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper, conservative (prunes most), aggressive (prunes least), stage1_only, diverse, baseline."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a clip, ask the embedded model about it with pruning off and on, and show both beside the
    truth."""
    from prunevid.builtin import make_clip, write_clip
    from prunevid.cli import common
    from prunevid.qa import VideoQA

    path = _place(out, seed, force)
    clip = make_clip(seed)
    write_clip(clip, path)
    qa = VideoQA.builtin(preset=preset)
    rows = []
    with common.working("Asking") as tell:
        for number, question in enumerate(clip.learnt, start=1):
            tell(f"Question {number} of {len(clip.learnt)}, without pruning and with it")
            rows.append(row(question, *qa.compare(path, question.text)))
    if as_json:
        common.print_json(
            {
                "clip": str(path.resolve()),
                "seed": seed,
                "model": "builtin",
                "config": common.settings(qa.config),
                "questions": rows,
                "summary": summary(rows),
            }
        )
        return
    _show(path, qa, rows)


def row(question: Question, plain: Answer, pruned: Answer) -> dict[str, Any]:
    """One question with both answers."""
    return {
        "kind": question.kind,
        "question": question.text,
        "expected": question.answer,
        "unpruned": {"answer": plain.text, "correct": right(plain.text, question.answer), "stats": plain.stats},
        "pruned": {"answer": pruned.text, "correct": right(pruned.text, question.answer), "stats": pruned.stats},
    }


def right(said: str, expected: str) -> bool:
    """Whether an answer is the expected one, but for case and a full stop."""
    return said.strip().rstrip(".").lower() == expected.strip().lower()


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and counts over all questions."""
    pruned = [entry["pruned"]["stats"] for entry in rows]
    return {
        "questions": len(rows),
        "correct_unpruned": sum(entry["unpruned"]["correct"] for entry in rows),
        "correct_pruned": sum(entry["pruned"]["correct"] for entry in rows),
        "same_answer": sum(entry["unpruned"]["answer"] == entry["pruned"]["answer"] for entry in rows),
        "retained_ratio": _mean(stats["total"]["retained_ratio"] for stats in pruned),
        "flops_ratio": _mean(stats["total"]["flops_ratio"] for stats in pruned),
        "cache_ratio": _mean(1.0 - stats["stage3"]["reduction_ratio"] for stats in pruned),
    }


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def _place(out: Path | None, seed: int, force: bool) -> Path:
    """Where the clip goes; a file that is there already stays, unless it was said otherwise."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="prunevid-demo-")) / f"clip-{seed}.mp4"
    if out.is_dir():
        raise InputError(f"--out is the folder {str(out)!r}; name a file in it, such as {str(out / 'clip.mp4')!r}.")
    if out.exists() and not force:
        raise InputError(f"There is a file {str(out)!r} already; choose another name, or overwrite it with --force.")
    if not out.parent.is_dir():
        raise InputError(f"There is no folder {str(out.parent)!r} for the clip; make it first.")
    return out


def _show(path: Path, qa: VideoQA, rows: list[dict[str, Any]]) -> None:

    from prunevid.cli import common

    console = common.console()
    console.print(f"Clip: [bold]{path.resolve()}[/bold]", soft_wrap=True)
    weights = sum(weight.numel() for weight in qa.model.parameters())
    console.print(f"Model: the embedded one, {weights / 1e6:.1f} million weights, on {qa.model.device}")
    console.print(_table(rows))
    total = summary(rows)
    count = total["questions"]
    console.print(
        f"Right: {total['correct_unpruned']} of {count} without pruning, {total['correct_pruned']} of {count} with it; "
        f"the same answer {total['same_answer']} times."
    )
    console.print(
        f"Pruned, on average: {total['retained_ratio']:.1%} of the visual tokens, {total['flops_ratio']:.1%} of the "
        f"language model's prefill FLOPs (by formula), {total['cache_ratio']:.1%} of the KV cache."
    )
    if rows:
        console.print(
            f'Ask it yourself: prunevid ask "{path.resolve()}" "{rows[0]["question"]}" --stats', soft_wrap=True
        )


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(pad_edge=False)
    for name in ("question", "expected", "unpruned", "pruned"):
        table.add_column(name)
    for name in ("visual tokens", "FLOPs", "KV cache", "prefill ms"):
        table.add_column(name, justify="right")
    for entry in rows:
        plain, pruned = entry["unpruned"], entry["pruned"]
        stats = pruned["stats"]
        times = [side["stats"]["milliseconds"]["prefill"] for side in (plain, pruned)]
        table.add_row(
            escape(entry["question"]),
            escape(entry["expected"]),
            _mark(plain),
            _mark(pruned),
            f"{stats['stage1']['original_tokens']} → {stats['stage2']['compressed_tokens']}",
            f"{stats['total']['flops_ratio']:.0%}",
            f"{1.0 - stats['stage3']['reduction_ratio']:.0%}",
            f"{times[0]:.1f} → {times[1]:.1f}",
        )
    return table


def _mark(side: dict[str, Any]) -> str:
    """An answer, with a sign for right and wrong that needs no colour."""
    from rich.markup import escape

    sign = "[green]✓[/green]" if side["correct"] else "[red]✗[/red]"
    return f"{sign} {escape(side['answer'])}"
