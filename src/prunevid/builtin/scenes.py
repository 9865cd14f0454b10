# SPDX-License-Identifier: Apache-2.0
"""What happens in a synthetic clip, before anything is drawn: scenes, things, their paths and events.

A clip has 24 frames of 80 x 80 pixels at 2 frames a second, in one to three scenes with a still background each. Things
are coloured shapes. Those that stay (standing, moving, changing their colour) cover about a quarter of the picture's
cells: for a question about one of them the others are clutter. What a question is most often about is brief: things
that flash up are seen for one or two pairs of frames. In some clips the camera drifts. All times are frame numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

FRAMES = 24
SIZE = 80
FPS = 2.0
DRIFT = 6
"""Pixels, at most, by which the camera moves away from where it began."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "green": (38, 168, 58),
    "blue": (45, 68, 222),
    "yellow": (236, 216, 48),
    "pink": (240, 108, 190),
    "cyan": (48, 210, 222),
    "white": (246, 246, 246),
    "black": (14, 14, 14),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
THIRDS = ((2, 4, 6), (10, 12), (18, 20))
"""First frames of things that flash early, in the middle, late."""


@dataclass
class Thing:
    """A coloured shape: `x`, `y` is its centre in pixels at the first frame of its scene, `radius` in pixels; it is
    drawn in frames [born, dies) and has `color_after` from frame `changes` on."""

    shape: str
    color: str
    small: bool
    radius: float
    role: str
    scene: int
    born: int
    dies: int
    x: float = 0.0
    y: float = 0.0
    direction: str | None = None
    speed: float = 0.0
    changes: int | None = None
    color_after: str | None = None

    def center(self, frame: int, scene_start: int) -> tuple[float, float]:
        """Centre (x, y) in pixels at a frame, as a camera that stands still sees it."""
        if self.direction is None:
            return self.x, self.y
        dx, dy = DIRECTIONS[self.direction]
        way = self.speed * (frame - scene_start)
        return self.x + dx * way, self.y + dy * way

    def color_at(self, frame: int) -> str:
        """Colour word at a frame."""
        if self.changes is not None and self.color_after is not None and frame >= self.changes:
            return self.color_after
        return self.color

    def all_colors(self) -> set[str]:
        """Every colour it has at some time."""
        return {self.color} if self.color_after is None else {self.color, self.color_after}

    @property
    def brief(self) -> bool:
        """Whether it is seen for a moment only."""
        return self.role == "flash"


@dataclass
class Plan:
    """A whole clip: `bounds` are the first frames of its scenes followed by FRAMES; `drift` (FRAMES, 2) whole pixels
    (x, y) by which the camera has moved."""

    bounds: list[int]
    things: list[Thing] = field(default_factory=list)
    drift: np.ndarray = field(default_factory=lambda: np.zeros((FRAMES, 2), np.int64))

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return len(self.bounds) - 1

    def start_of(self, thing: Thing) -> int:
        """First frame of the scene that a thing is in."""
        return self.bounds[thing.scene]

    def seen_at(self, thing: Thing, frame: int) -> tuple[float, float]:
        """Centre (x, y) of a thing in the picture of a frame, in pixels."""
        x, y = thing.center(frame, self.start_of(thing))
        return x - float(self.drift[frame, 0]), y - float(self.drift[frame, 1])


def make_plan(rng: np.random.Generator) -> Plan:
    """Draws what happens in a clip."""
    cut = rng.random() < 0.3
    plan, roles = _cut_roles(rng) if cut else _single_roles(rng)
    drawn = [_draw_thing(rng, plan, role, scene) for role, scene in roles]
    _draw_looks(rng, drawn)
    _draw_times(rng, plan, drawn)
    if rng.random() < 0.35:
        plan.drift = _drift(rng, plan)
    for thing in sorted(drawn, key=lambda thing: thing.direction is None):
        if _place(rng, plan, thing):
            plan.things.append(thing)
    return plan


def _single_roles(rng: np.random.Generator) -> tuple[Plan, list[tuple[str, int]]]:
    roles = ["still"] * int(rng.choice([1, 2, 3], p=[0.2, 0.45, 0.35]))
    roles += ["mover"] * int(rng.random() < 0.55) + ["change"] * int(rng.random() < 0.5)
    roles += ["still"] * int(len(roles) < 3)
    roles += ["flash"] * int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))
    return Plan([0, FRAMES]), [(role, 0) for role in roles]


def _cut_roles(rng: np.random.Generator) -> tuple[Plan, list[tuple[str, int]]]:
    if rng.random() < 0.6:
        bounds = [0, int(rng.choice([8, 10, 12, 14, 16])), FRAMES]
    else:
        bounds = [0, int(rng.choice([6, 8])), int(rng.choice([14, 16])), FRAMES]
    roles: list[tuple[str, int]] = []
    mover_scene = int(rng.integers(0, len(bounds) - 1)) if rng.random() < 0.7 else -1
    for scene in range(len(bounds) - 1):
        count = int(rng.integers(2, 4))
        roles += [("mover" if scene == mover_scene and i == 0 else "still", scene) for i in range(count)]
    for scene in rng.permutation(len(bounds) - 1)[: int(rng.integers(0, 3))]:
        roles.append(("flash", int(scene)))
    return Plan(bounds), roles


def _draw_thing(rng: np.random.Generator, plan: Plan, role: str, scene: int) -> Thing:
    start, end = plan.bounds[scene], plan.bounds[scene + 1]
    thing = Thing("circle", "red", False, float(rng.uniform(6.4, 7.8)), role, scene, start, end)
    if role == "mover":
        thing.direction = str(rng.choice(list(DIRECTIONS)))
        thing.speed = min(float(rng.uniform(24.0, 42.0)) / (end - start - 1), 3.4)
    return thing


def _draw_looks(rng: np.random.Generator, things: list[Thing]) -> None:
    """Colours (mostly without repeats; in every third clip few of them, for counting), shapes, and small things."""
    names = list(COLORS)
    if rng.random() < 0.65:
        colors = [str(name) for name in rng.permutation(names)]
    else:
        few = rng.permutation(names)[: int(rng.integers(3, 6))]
        colors = [str(name) for name in rng.choice(few, size=len(things))]
    distinct = rng.random() < 0.6
    shapes = rng.permutation(SHAPES) if distinct else rng.choice(SHAPES, size=len(things))
    order = rng.permutation(len(things))
    for i, place in enumerate(order):
        thing = things[int(place)]
        thing.shape = str(shapes[i % len(shapes)])
        thing.color = colors[i % len(colors)]
        thing.small = bool(rng.random() < 0.3)
        if thing.small:
            thing.radius = float(rng.uniform(3.9, 4.6))
    used = {thing.color for thing in things}
    for thing in things:
        if thing.role == "change":
            free = [name for name in names if name not in used] or [name for name in names if name != thing.color]
            thing.color_after = str(rng.choice(free))


def _draw_times(rng: np.random.Generator, plan: Plan, things: list[Thing]) -> None:
    """When things flash, each for one or two pairs of frames and not together, and when one changes its colour."""
    taken: list[int] = []
    for thing in things:
        if thing.role == "change":
            thing.changes = int(rng.choice([6, 8, 10, 12, 14, 16, 18]))
        if thing.role != "flash":
            continue
        low, high = plan.bounds[thing.scene], plan.bounds[thing.scene + 1]
        thirds = [[time for time in third if low < time <= high - 4] for third in THIRDS]
        free = [[time for time in third if all(abs(time - other) >= 6 for other in taken)] for third in thirds]
        free = [third for third in free if third]
        times = free[int(rng.integers(len(free)))] if free else [max(low, high - 4)]
        thing.born = int(rng.choice(times))
        thing.dies = min(thing.born + int(rng.choice([2, 4])), high)
        taken.append(thing.born)


def _drift(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """A camera that moves steadily through each scene, by at most DRIFT pixels; it begins every scene at zero."""
    drift = np.zeros((FRAMES, 2), np.int64)
    for first, last in zip(plan.bounds, plan.bounds[1:]):
        way = rng.uniform(-DRIFT, DRIFT, size=2)
        drift[first:last] = np.rint(np.linspace(0.0, 1.0, last - first)[:, None] * way)
    return drift


def _place(rng: np.random.Generator, plan: Plan, thing: Thing) -> bool:
    """Finds a place where the thing is inside the picture while it is seen and clear of the others of its scene."""
    start, end = plan.start_of(thing), plan.bounds[thing.scene + 1]
    low, high = thing.radius + 1.0, SIZE - 2.0 - thing.radius
    times = sorted({start, end - 1, *range(start, end, 3)})
    others = [other for other in plan.things if other.scene == thing.scene]
    for x, y in rng.uniform(low, high, size=(80, 2)):
        thing.x, thing.y = float(x), float(y)
        seen = [plan.seen_at(thing, frame) for frame in (thing.born, thing.dies - 1)]
        if not all(low <= value <= high for place in seen for value in place):
            continue
        if all(_clear(thing, other, times, start) for other in others):
            return True
    return False


def _clear(one: Thing, other: Thing, times: list[int], start: int) -> bool:
    gap = one.radius + other.radius + 2.0
    for time in times if one.direction or other.direction else times[:1]:
        (ax, ay), (bx, by) = one.center(time, start), other.center(time, start)
        if (ax - bx) ** 2 + (ay - by) ** 2 < gap * gap:
            return False
    return True
