# SPDX-License-Identifier: Apache-2.0
"""Draws what a method merged and what it kept, for one question about one clip of the built-in model.

    python benchmarks/kept_tokens.py --seed 1 --question 0 --out docs/images/kept_tokens.png
    python benchmarks/kept_tokens.py --method fastv --retention 0.15 --out fastv.png

Rows: the frames; the cells that share a token before the language model in one colour; what is left clear and the rest
dark. Everything is read from the recorded token map of the run that answered the question. A method that acts on the
cache alone keeps other tokens in every layer and head, so that its map shows all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import prunevid
from prunevid import builtin
from prunevid.builtin.evaluate import answer, straight
from prunevid.choice import choose_method
from prunevid.engine import TokenMap


def grids(item: TokenMap) -> tuple[np.ndarray, np.ndarray]:
    """Two (T, H, W) int64: the token that a cell became before the language model, and the one that stands for it in
    the end; -1 where there is none."""
    shape = (item.layout.frames, item.layout.height, item.layout.width)
    merged = torch.arange(item.layout.cells) if item.merged is None else item.merged.assignment.cpu()
    return merged.view(shape).numpy(), item.destination.view(shape).numpy()


def enlarge(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, ...) to (height, width, ...), every cell a block of nearly equal size."""
    down = np.arange(height) * cells.shape[0] // height
    across = np.arange(width) * cells.shape[1] // width
    return cells[down][:, across]


def panels(frames: np.ndarray, item: TokenMap) -> list[list[np.ndarray]]:
    """For each step of the grid three pictures (H, W, 3) of 0 ... 1: the frame, its merged cells, and what is left.

    A colour is a token; cells that are dropped are dark.

    Args:
        frames: (T', H, W, 3) uint8; T' need not be a multiple of the grid's T.
        item: the record of the run.
    """
    merged, final = grids(item)
    steps, (height, width) = len(merged), frames.shape[1:3]
    palette = np.random.default_rng(0).uniform(0.25, 1.0, (int(merged.max()) + 1, 3))
    found = []
    for t in range(steps):
        picture = frames[t * len(frames) // steps] / 255.0
        dark = picture * 0.18
        there, left = (enlarge(cells[t] >= 0, height, width)[..., None] for cells in (merged, final))
        coloured = 0.35 * picture + 0.65 * enlarge(palette[merged[t]], height, width)
        found.append([picture, np.where(there, coloured, dark), np.where(left, picture, dark)])
    return found


def draw(frames: np.ndarray, item: TokenMap, title: str, out: Path) -> None:
    """Writes the picture; see `panels`."""
    columns = panels(frames, item)
    figure, axes = plt.subplots(3, len(columns), figsize=(1.35 * len(columns), 4.6), squeeze=False)
    for t, rows in enumerate(columns):
        for axis, image in zip(axes[:, t], rows, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, label in zip(axes[:, 0], ("frames", "merged", "kept"), strict=True):
        axis.set_ylabel(label, fontsize=11)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1, help="test clip")
    parser.add_argument("--question", type=int, default=0, help="which of its questions")
    parser.add_argument("--method", default="prunevid", help="a method's name")
    parser.add_argument("--retention", type=float, help="share of the visual tokens to keep")
    parser.add_argument("--out", type=Path, default=Path("docs/images/kept_tokens.png"))
    given = parser.parse_args()
    model, processor = builtin.load()
    clip = builtin.make_clip(given.seed)
    question = clip.questions[given.question]
    method = choose_method(given.method, retention_ratio=given.retention, defaults=builtin.DEFAULTS)
    with prunevid.attach(model, method) as pruning:
        said = answer(model, processor, [question.text], *straight(clip))[0]
    stats, item = pruning.stats[0], pruning.maps[0][0]
    counts = [stats["stage1"][k] for k in ("original_tokens", "compressed_tokens")]
    kept = stats["stage2"]["compressed_tokens"]
    title = f"“{question.text}” → {said} (right: {question.answer});  {counts[0]} → {counts[1]} → {kept} visual tokens"
    draw(clip.frames, item, title, given.out)


if __name__ == "__main__":
    main()
