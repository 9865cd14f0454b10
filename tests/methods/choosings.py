# SPDX-License-Identifier: Apache-2.0
"""Prompts with random attention for methods that choose inside the language model, and their attention as loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from methods.loops import best
from prunevid.methods import Attention, Choosing

HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def make_choosing(
    videos: Sequence[int] = (14, 9),
    text: int = 4,
    seed: int = 0,
    step: int = 0,
    quota: list[int] | None = None,
    cells: list[int] | None = None,
    scenes: Sequence[Sequence[Sequence[int]]] | None = None,
) -> Choosing:
    """A prompt of text, videos with a text token behind each but the last, and `text` question rows.

    Args:
        videos: visual tokens of each.
        text: question rows.
        seed: of all numbers.
        step, quota, cells: see `Choosing`; no cells: what the videos have.
        scenes: of each video the sets of each scene, as sizes; None: one scene of one set.
    """
    generator = torch.Generator().manual_seed(seed)
    scenes = scenes or [[[size]] for size in videos]
    visual: list[bool] = [False] * 2
    for size in videos:
        visual += [True] * size + [False]
    visual[-1:] = [False] * text
    length, count = len(visual), sum(videos)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    turned = 2 * random(HEADS, text, WIDTH), random(KEY_HEADS, length, WIDTH)
    sets = [
        (video, scene, size) for video, one in enumerate(scenes) for scene, sizes in enumerate(one) for size in sizes
    ]
    names = sorted({pair[:2] for pair in sets})
    rows = [(video, names.index((video, scene)), number) for number, (video, scene, _) in enumerate(sets)]
    columns = torch.tensor(rows).repeat_interleave(torch.tensor([size for *_, size in sets]), dim=0).T
    return Choosing(
        attention=Attention(
            queries=2 * random(HEADS, text, WIDTH),
            keys=random(KEY_HEADS, length, WIDTH),
            visual=torch.tensor(visual),
            rows=torch.arange(length - text, length),
            rotate=lambda: turned,
        ),
        step=step,
        group=columns[2],
        scene=columns[1],
        video=columns[0],
        cells=cells or list(videos),
        quota=quota,
        hidden=random(count, 6),
        text=random(text, 6),
    )


def attention_of(
    choosing: Choosing, rows: Sequence[int], rotated: bool = True, causal: bool = True
) -> list[list[float]]:
    """For every head and row (head by head) the softmax over the whole prompt, its visual part."""
    attention = choosing.attention
    queries, keys = attention.rotate() if rotated else (attention.queries, attention.keys)
    found = []
    for head, own in enumerate(queries.double().tolist()):
        columns = keys.double().tolist()[head // (HEADS // KEY_HEADS)]
        for row in rows:
            last = int(attention.rows[row]) if causal else len(columns)
            logits = [
                sum(a * b for a, b in zip(own[row], column)) / math.sqrt(WIDTH) if place <= last else -math.inf
                for place, column in enumerate(columns)
            ]
            exponents = [math.exp(logit) for logit in logits]
            total = sum(exponents)
            found.append([e / total for e, visual in zip(exponents, attention.visual.tolist()) if visual])
    return found


def mean_attention(choosing: Choosing, rows: Sequence[int]) -> list[float]:
    """Of every visual token, over heads and rows."""
    maps = attention_of(choosing, rows)
    return [sum(column) / len(maps) for column in zip(*maps)]


def best_of_videos(scores: list[float], video: Tensor, quota: Sequence[int]) -> list[int]:
    """The `quota[v]` best tokens of every video v, ascending."""
    owners = video.tolist()
    found = []
    for number, allowed in enumerate(quota):
        found += best({i: score for i, score in enumerate(scores) if owners[i] == number}, allowed)
    return sorted(found)
