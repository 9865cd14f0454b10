# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the embedded model against frames at equal cost: `python -m prunevid.builtin.frames --tokens 16 32 64`.

For every budget and method a clip is sampled as densely as the budget carries after pruning (`max_frames="auto"`), and
its questions of kinds that the model has learnt are asked about these frames. A method that keeps less of a frame sees
more of them for the same cost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prunevid.builtin.clips import make_clip
from prunevid.builtin.questions import KINDS
from prunevid.builtin.scoring import Asked, Score, score
from prunevid.qa import VideoQA

UNITS = {"tokens": "token_budget", "flops": "flops_budget"}


@dataclass(frozen=True)
class Point:
    """One method with one budget.

    Attributes:
        method: its name, with its share where one was given.
        unit, budget: "tokens" that are left after pruning, or "flops" of the pruned prefill; how many.
        frames: mean over the clips of the frames that were shown.
        spent: mean over the questions of what they cost.
        score: right answers.
    """

    method: str
    unit: str
    budget: float
    frames: float
    spent: float
    score: Score


def at_equal_cost(
    budgets: Sequence[float],
    runs: Sequence[VideoQA] | None = None,
    clips: int = 50,
    *,
    unit: str = "tokens",
    first: int = 0,
    split: str = "test",
    questions: int = 12,
) -> list[Point]:
    """Accuracy for every budget and method.

    Args:
        budgets: in `unit`.
        runs: embedded models with their methods; None: unpruned, and with "prunevid".
        clips: number of clips, from seed `first` on, of a split.
        unit: "tokens" or "flops".
        questions: at most so many of each clip.

    Raises:
        InputError: a budget does not carry two frames.
    """
    runs = [VideoQA.builtin("none"), VideoQA.builtin()] if runs is None else list(runs)
    return [
        _point(qa, unit, budget, range(first, first + clips), split, questions) for budget in budgets for qa in runs
    ]


def _point(qa: VideoQA, unit: str, budget: float, seeds: Sequence[int], split: str, questions: int) -> Point:
    asked: list[Asked] = []
    shown: list[int] = []
    spent: list[float] = []
    for seed in seeds:
        clip = make_clip(seed, split, questions=questions + len(KINDS))
        picked = clip.learnt[:questions]
        limits: dict[str, Any] = {UNITS[unit]: int(budget) if unit == "tokens" else budget, "source_fps": clip.fps}
        fitted = qa.fit_frames(clip.frames, picked[0].text, **limits)
        pairs = [(clip.frames, question.text) for question in picked]
        answers = qa.ask_batch(pairs, max_frames=fitted.frames, source_fps=clip.fps)
        shown.append(len(answers[0].clip.times))
        for question, answer in zip(picked, answers, strict=True):
            asked.append(Asked(seed, question.kind, question.text, question.answer, answer.text))
            spent.append(qa.cost(fitted, answer))
    share = qa.method.retention_ratio
    label = qa.method.label if share is None else f"{qa.method.label} at {share:g}"
    return Point(label, unit, budget, sum(shown) / len(shown), sum(spent) / len(spent), score(asked))


def table(points: Sequence[Point]) -> str:
    """A Markdown table, a row for each point."""
    unit = points[0].unit if points else "tokens"
    lines = [f"| budget ({unit}) | method | frames | {unit} | accuracy |", "|---|---|---|---|---|"]
    for point in points:
        right = f"{point.score.accuracy:.3f} ({point.score.low:.3f} to {point.score.high:.3f})"
        lines.append(f"| {point.budget:g} | {point.method} | {point.frames:.1f} | {point.spent:.4g} | {right} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    cost = parser.add_mutually_exclusive_group(required=True)
    cost.add_argument("--tokens", type=int, nargs="+", help="budgets in visual tokens that are left")
    cost.add_argument("--flops", type=float, nargs="+", help="budgets in FLOPs of the prefill")
    parser.add_argument("--methods", default="none,prunevid", help="names with commas between")
    parser.add_argument("--retention", type=float, help="share of the visual tokens that every method but none keeps")
    parser.add_argument("--clips", type=int, default=50, help="number of test clips")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--questions", type=int, default=12, help="at most so many questions a clip")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    names = [name.strip() for name in given.methods.split(",")]
    runs = [VideoQA.builtin(name, None if name == "none" else given.retention) for name in names]
    unit = "tokens" if given.tokens else "flops"
    points = at_equal_cost(
        given.tokens or given.flops, runs, given.clips, unit=unit, first=given.first, questions=given.questions
    )
    if given.json:
        sys.stdout.write(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    else:
        sys.stdout.write(table(points) + "\n")


if __name__ == "__main__":
    main()
