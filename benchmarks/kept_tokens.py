# SPDX-License-Identifier: Apache-2.0
"""Draws what stage 1 merged and what stage 2 kept, for one question about one clip of the built-in model.

    python benchmarks/kept_tokens.py --seed 1 --question 0 --out docs/images/kept_tokens.png

Rows: the frames; the cells that share a merged token in one colour; the kept tokens clear and the dropped ones dark.
Everything is read from the recorded token map of the run that answered the question.
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
from prunevid.engine import TokenMap


def grids(item: TokenMap) -> tuple[np.ndarray, np.ndarray]:
    """(T, H, W) number of each cell's merged token, and (T, H, W) boolean: whether stage 2 kept it."""
    shape = (item.layout.frames, item.layout.height, item.layout.width)
    token = torch.arange(item.layout.cells) if item.merged is None else item.merged.assignment.cpu()
    kept = torch.ones(item.tokens, dtype=torch.bool)
    if item.kept is not None:
        kept[:] = False
        kept[item.kept.cpu()] = True
    return token.view(shape).numpy(), kept[token].view(shape).numpy()


def enlarge(cells: np.ndarray, size: int) -> np.ndarray:
    """(H, W, ...) to (size, size, ...), every cell a block."""
    step = size // cells.shape[0]
    return cells.repeat(step, axis=0).repeat(step, axis=1)


def draw(frames: np.ndarray, item: TokenMap, title: str, out: Path) -> None:
    """Writes the picture; `frames` (T', H, W, 3) uint8 with T' a multiple of the grid's T."""
    token, kept = grids(item)
    steps = token.shape[0]
    shown = frames[:: len(frames) // steps]
    size = shown.shape[1]
    palette = np.random.default_rng(0).uniform(0.25, 1.0, (int(token.max()) + 1, 3))
    figure, axes = plt.subplots(3, steps, figsize=(1.35 * steps, 4.6))
    for t in range(steps):
        picture = shown[t] / 255.0
        clear = enlarge(kept[t], size)[..., None]
        rows = [
            picture,
            0.35 * picture + 0.65 * enlarge(palette[token[t]], size),
            np.where(clear, picture, picture * 0.18),
        ]
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1, help="test clip")
    parser.add_argument("--question", type=int, default=0, help="which of its questions")
    parser.add_argument("--out", type=Path, default=Path("docs/images/kept_tokens.png"))
    given = parser.parse_args()
    model, processor = builtin.load()
    clip = builtin.make_clip(given.seed)
    question = clip.questions[given.question]
    with prunevid.attach(model, prunevid.PruneVidConfig().replace(**builtin.DEFAULTS)) as pruning:
        said = answer(model, processor, [question.text], *straight(clip))[0]
    stats, item = pruning.stats[0], pruning.maps[0][0]
    counts = [stats["stage1"][k] for k in ("original_tokens", "compressed_tokens")]
    kept = stats["stage2"]["compressed_tokens"]
    title = f"“{question.text}” → {said} (right: {question.answer});  {counts[0]} → {counts[1]} → {kept} visual tokens"
    draw(clip.frames, item, title, given.out)


if __name__ == "__main__":
    main()
