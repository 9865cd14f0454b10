# SPDX-License-Identifier: Apache-2.0
"""What happens in a synthetic clip, before anything is drawn: scenes, things, their paths and events.

A clip has 16 frames of 64 x 64 pixels at 2 frames a second, in one to three scenes with a still background each. Things
are coloured shapes; at most a few move, appear, vanish, flash up or change colour. All times are frame numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

FRAMES = 16
SIZE = 64
FPS = 2.0

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
SHAPES = ("circle", "square", "triangle", "cross", "ring")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MAX_THINGS = 5


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
        """Centre (x, y) in pixels at a frame."""
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


@dataclass
class Plan:
    """A whole clip: `bounds` are the first frames of its scenes followed by FRAMES."""

    bounds: list[int]
    things: list[Thing] = field(default_factory=list)

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return len(self.bounds) - 1

    def start_of(self, thing: Thing) -> int:
        """First frame of the scene that a thing is in."""
        return self.bounds[thing.scene]

    def has_events(self) -> bool:
        """Whether anything appears, vanishes, flashes or changes colour."""
        return any(thing.role in ("appear", "vanish", "flash", "change") for thing in self.things)


def make_plan(rng: np.random.Generator) -> Plan:
    """Draws what happens in a clip."""
    kind = rng.random()
    if kind < 0.2:
        plan, roles = _cut_roles(rng)
    elif kind < 0.45:
        plan, roles = _plain_roles(rng)
    else:
        plan, roles = _event_roles(rng)
    drawn = [_draw_thing(rng, plan, role, scene) for role, scene in roles]
    _draw_looks(rng, drawn)
    _draw_times(rng, drawn)
    for thing in sorted(drawn, key=lambda thing: thing.direction is None):
        if _place(rng, plan, thing):
            plan.things.append(thing)
    return plan


def _plain_roles(rng: np.random.Generator) -> tuple[Plan, list[tuple[str, int]]]:
    count = int(rng.integers(1, MAX_THINGS + 1))
    movers = int(rng.choice([0, 1, 2], p=[0.2, 0.65, 0.15]))
    roles = ["mover"] * min(movers, count)
    roles += ["still"] * (count - len(roles))
    return Plan([0, FRAMES]), [(role, 0) for role in roles]


def _event_roles(rng: np.random.Generator) -> tuple[Plan, list[tuple[str, int]]]:
    variant = rng.random()
    if variant < 0.4:
        chosen = [
            role for role, chance in (("appear", 0.75), ("vanish", 0.75), ("change", 0.6)) if rng.random() < chance
        ]
        roles = chosen or [str(rng.choice(["appear", "vanish", "change"]))]
    elif variant < 0.7:
        roles = ["appear", "appear"] + (["change"] if rng.random() < 0.4 else [])
    else:
        roles = ["flash"] + (["change"] if rng.random() < 0.4 else [])
    if rng.random() < 0.5:
        roles.append("mover")
    still = int(rng.integers(0, 3))
    still = max(still, 2 - len(roles))
    roles += ["still"] * min(still, MAX_THINGS - len(roles))
    return Plan([0, FRAMES]), [(role, 0) for role in roles]


def _cut_roles(rng: np.random.Generator) -> tuple[Plan, list[tuple[str, int]]]:
    if rng.random() < 0.55:
        bounds = [0, int(rng.choice([6, 8, 10])), FRAMES]
    else:
        bounds = [0, int(rng.choice([4, 6])), int(rng.choice([10, 12])), FRAMES]
    roles: list[tuple[str, int]] = []
    mover_scene = int(rng.integers(0, len(bounds) - 1)) if rng.random() < 0.7 else -1
    for scene in range(len(bounds) - 1):
        count = int(rng.integers(1, 4 if len(bounds) == 3 else 3))
        roles += [("mover" if scene == mover_scene and i == 0 else "still", scene) for i in range(count)]
    return Plan(bounds), roles


def _draw_thing(rng: np.random.Generator, plan: Plan, role: str, scene: int) -> Thing:
    start, end = plan.bounds[scene], plan.bounds[scene + 1]
    thing = Thing("circle", "red", False, float(rng.uniform(7.0, 8.6)), role, scene, start, end)
    if role == "mover":
        thing.direction = str(rng.choice(list(DIRECTIONS)))
        thing.speed = min(float(rng.uniform(16.0, 30.0)) / (end - start - 1), 3.0)
    return thing


def _draw_looks(rng: np.random.Generator, things: list[Thing]) -> None:
    """Shapes and colours (half of the clips without repeats where possible), and at most one small thing."""
    distinct = rng.random() < 0.55
    shapes = rng.permutation(SHAPES) if distinct else rng.choice(SHAPES, size=len(things))
    distinct = rng.random() < 0.7
    names = list(COLORS)
    colors = rng.permutation(names) if distinct else rng.choice(names, size=len(things))
    for i, thing in enumerate(things):
        thing.shape = str(shapes[i % len(shapes)])
        thing.color = str(colors[i % len(colors)])
        if thing.role == "change":
            used = {str(color) for color in colors[: len(things)]}
            free = [name for name in names if name not in used] or [name for name in names if name != thing.color]
            thing.color_after = str(rng.choice(free))
    if len(things) > 1 and rng.random() < 0.6:
        thing = things[int(rng.integers(len(things)))]
        thing.small, thing.radius = True, float(rng.uniform(4.0, 4.8))


def _draw_times(rng: np.random.Generator, things: list[Thing]) -> None:
    """Frames at which things appear, vanish, flash and change; two that appear are at least four frames apart."""
    appearing = [thing for thing in things if thing.role == "appear"]
    if len(appearing) == 2:
        first = int(rng.choice([2, 4, 6, 8]))
        second = int(rng.choice([frame for frame in (6, 8, 10, 12) if frame - first >= 4]))
        times = [first, second] if rng.random() < 0.5 else [second, first]
        for thing, time in zip(appearing, times, strict=True):
            thing.born = time
    elif appearing:
        appearing[0].born = _third(rng)
    for thing in things:
        if thing.role == "flash":
            thing.born = _third(rng)
            thing.dies = min(thing.born + int(rng.choice([2, 4])), FRAMES)
        elif thing.role == "vanish":
            thing.dies = int(rng.choice([4, 6, 8, 10, 12]))
        elif thing.role == "change":
            thing.changes = int(rng.choice([4, 6, 8, 10, 12]))


def _third(rng: np.random.Generator) -> int:
    return int(rng.choice([int(rng.choice([2, 4])), int(rng.choice([7, 8])), int(rng.choice([11, 12]))]))


def _place(rng: np.random.Generator, plan: Plan, thing: Thing) -> bool:
    """Finds a place where the thing stays inside the picture and clear of the others of its scene at all times."""
    start, end = plan.bounds[thing.scene], plan.bounds[thing.scene + 1]
    low, high = thing.radius + 1.0, SIZE - 1 - thing.radius - 1.0
    times = sorted({start, end - 1, *range(start, end, 3)})
    others = [other for other in plan.things if other.scene == thing.scene]
    for x, y in rng.uniform(low, high, size=(80, 2)):
        thing.x, thing.y = float(x), float(y)
        last_x, last_y = thing.center(end - 1, start)
        if not (low <= last_x <= high and low <= last_y <= high):
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
