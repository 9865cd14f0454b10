# SPDX-License-Identifier: Apache-2.0
"""Colours of cells: a map for scores in even steps of lightness, and a colour for every merged token.

Both are made here from numbers, so that pictures need no plotting library and look the same everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
    "#f0e442", "#7b4fa3", "#8c564b", "#004c66", "#a6d854", "#9e0142",
)  # fmt: skip
"""The colours of Okabe and Ito without black, and five more between them that differ in lightness too."""

_NEAR = 2  # steps of a channel between the colours of two tokens that share a colour of the palette


def rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb as three numbers from 0 to 255."""
    red, green, blue = bytes.fromhex(colour.lstrip("#"))
    return red, green, blue


@functools.cache
def _table() -> Pixels:
    """(256, 3): dark blue to light yellow; lightness rises evenly, so that steps look alike, without colours too.

    Lightness, chroma and hue are those of Oklab (Ottosson 2020).
    """
    part = np.linspace(0.0, 1.0, 256)
    light = 0.20 + 0.74 * part
    hue = np.deg2rad(285.0 - 180.0 * part)
    chroma = np.interp(part, [0.0, 0.2, 0.4, 0.7, 1.0], [0.10, 0.085, 0.082, 0.13, 0.16])  # all inside sRGB
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = [light + 0.3963377774 * a + 0.2158037573 * b, light - 0.1055613458 * a - 0.0638541728 * b]
    cones.append(light - 0.0894841775 * a - 1.2914855480 * b)
    long, middle, short = (cone**3 for cone in cones)
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
        ],
        axis=1,
    ).clip(0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255.0 * curved).round().astype(np.uint8)


def heat(values: NDArray) -> Pixels:
    """Numbers from 0 to 1 (others are clipped, nan is 0) as colours (..., 3) uint8, dark blue to light yellow."""
    return _table()[(255.0 * np.nan_to_num(values).clip(0.0, 1.0)).round().astype(np.int64)]


def token_colours(tokens: NDArray[np.int64]) -> Pixels:
    """A colour for every token of a grid, the same ones each time.

    Tokens that touch each other in a frame, or hold the same place in frames that follow each other, get different
    colours of the palette where it has enough. Tokens further apart may look alike, but no two have quite the same.

    Args:
        tokens: (T, H, W) int64, the token of every cell, -1 for none.

    Returns:
        (n, 3) uint8 for n - 1 the highest token.
    """
    count = int(tokens.max(initial=-1)) + 1
    base = [rgb(colour) for colour in PALETTE]
    uses = [0] * len(base)
    chosen: list[int] = []
    found = np.zeros((count, 3), dtype=np.uint8)
    for token, near in enumerate(_neighbours(tokens, count)):
        taken = [chosen[other] for other in near if other < token]
        order = sorted(range(len(base)), key=lambda index: (taken.count(index), uses[index], index))
        chosen.append(order[0])
        found[token] = _shade(base[order[0]], uses[order[0]])
        uses[order[0]] += 1
    return found


def _neighbours(tokens: NDArray[np.int64], count: int) -> list[list[int]]:
    """Of every token those that it touches, in a frame or from one frame to the next."""
    found: list[list[int]] = [[] for _ in range(count)]
    for axis in range(3):
        one, other = np.moveaxis(tokens, axis, 0)[:-1].ravel(), np.moveaxis(tokens, axis, 0)[1:].ravel()
        apart = (one != other) & (one >= 0) & (other >= 0)
        for left, right in np.unique(np.stack([one[apart], other[apart]], axis=1), axis=0).tolist():
            found[left].append(right)
            found[right].append(left)
    return found


def _shade(colour: Sequence[int], number: int) -> tuple[int, ...]:
    """A colour so near another that eyes take them for one, and a different one for every number.

    Steps go away from the nearer end of each channel, in growing cubes, so that few tokens stay very near.
    """
    side = 0
    while (side + 1) ** 3 <= number:
        side += 1
    places = [(i, j, k) for i in range(side + 1) for j in range(side + 1) for k in range(side + 1) if side in (i, j, k)]
    steps = places[number - side**3]
    moved = (value + _NEAR * step * (1 if value < 128 else -1) for value, step in zip(colour, steps))
    return tuple(min(255, max(0, value)) for value in moved)
