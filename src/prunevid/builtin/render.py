# SPDX-License-Identifier: Apache-2.0
"""Draws a planned clip with numpy: still textured backgrounds, antialiased shapes, a little sensor noise."""

from __future__ import annotations

import numpy as np

from prunevid.builtin.scenes import COLORS, DRIFT, FRAMES, SIZE, Plan, Thing

_COARSE = 6
_WIDE = SIZE + 2 * DRIFT  # a background is larger than the picture, for a camera that drifts
_AT = np.linspace(0.0, _COARSE - 1.0, _WIDE)
_BLEND = np.clip(1.0 - np.abs(_AT[:, None] - np.arange(_COARSE)[None, :]), 0.0, 1.0).astype(np.float32)


def draw(plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a clip.

    Returns:
        frames (FRAMES, SIZE, SIZE, 3) uint8 RGB, and owner (FRAMES, SIZE, SIZE) int8: 0 for background, 1 + i where
        thing i of the plan covers a pixel.
    """
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.float32)
    owner = np.zeros((FRAMES, SIZE, SIZE), np.int8)
    for scene in range(plan.scenes):
        wide = _background(rng)
        for frame in range(plan.bounds[scene], plan.bounds[scene + 1]):
            left, top = DRIFT + plan.drift[frame]
            frames[frame] = wide[top : top + SIZE, left : left + SIZE]
    for number, thing in enumerate(plan.things, 1):
        _draw_thing(frames, owner, plan, thing, number, rng)
    noise = np.frombuffer(rng.bytes(FRAMES * SIZE * SIZE), np.uint8).reshape(FRAMES, SIZE, SIZE, 1)
    strength = float(rng.uniform(0.0, 0.022))
    frames += (noise.astype(np.float32) - 127.5) * strength
    np.clip(frames, 0.0, 255.0, out=frames)
    return np.rint(frames).astype(np.uint8), owner


def _background(rng: np.random.Generator) -> np.ndarray:
    """One still, textured, weakly tinted picture (_WIDE, _WIDE, 3): large soft patches, and fine grain over them."""
    base = rng.uniform(85.0, 160.0) + rng.uniform(-18.0, 18.0, size=3)
    coarse = rng.uniform(-1.0, 1.0, size=(_COARSE, _COARSE)).astype(np.float32)
    soft = _BLEND @ coarse @ _BLEND.T
    grain = np.frombuffer(rng.bytes(_WIDE * _WIDE), np.uint8).reshape(_WIDE, _WIDE).astype(np.float32) / 127.5 - 1.0
    light = soft * float(rng.uniform(6.0, 26.0)) + grain * float(rng.uniform(2.0, 12.0))
    return (base[None, None, :] + light[:, :, None]).astype(np.float32)


def _draw_thing(
    frames: np.ndarray, owner: np.ndarray, plan: Plan, thing: Thing, number: int, rng: np.random.Generator
) -> None:
    jitter = rng.uniform(-12.0, 12.0, size=3)
    for first, last in _spans(plan, thing):
        x, y = plan.seen_at(thing, first)
        reach = int(np.ceil(thing.radius)) + 2
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        right, bottom = min(int(x) + reach + 1, SIZE), min(int(y) + reach + 1, SIZE)
        dx = np.arange(left, right, dtype=np.float32)[None, :] - x
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - y
        alpha = np.clip(_inside(thing.shape, dx, dy, thing.radius) + 0.5, 0.0, 1.0).astype(np.float32)
        color = np.clip(np.array(COLORS[thing.color_at(first)]) + jitter, 0, 255).astype(np.float32)
        part = frames[first:last, top:bottom, left:right]
        part += alpha[:, :, None] * (color - part)
        owner[first:last, top:bottom, left:right][:, alpha > 0.5] = number


def _spans(plan: Plan, thing: Thing) -> list[tuple[int, int]]:
    """Frames [first, last) through which a thing looks the same and stays where it is in the picture."""
    frames = range(thing.born, thing.dies)
    looks = [(plan.seen_at(thing, frame), thing.color_at(frame)) for frame in frames]
    edges = [i for i in range(1, len(looks)) if looks[i] != looks[i - 1]]
    return [(thing.born + a, thing.born + b) for a, b in zip([0, *edges], [*edges, len(looks)])]


def _inside(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """How far inside the shape's edge a pixel is, in pixels (negative outside)."""
    if shape == "square":
        return 0.88 * radius - np.maximum(np.abs(dx), np.abs(dy))
    if shape == "bar":
        return np.minimum(0.42 * radius - np.abs(dy), 1.1 * radius - np.abs(dx))
    if shape == "triangle":
        return np.minimum(0.7 * radius - dy, (dy + radius) * 0.5 - np.abs(dx) * 0.87)
    if shape == "cross":
        wide = 0.34 * radius
        across = np.minimum(wide - np.abs(dy), radius - np.abs(dx))
        return np.maximum(across, np.minimum(wide - np.abs(dx), radius - np.abs(dy)))
    away = np.sqrt(dx * dx + dy * dy)
    if shape == "ring":
        return np.minimum(radius - away, away - 0.5 * radius)
    return radius - away
