# SPDX-License-Identifier: Apache-2.0
"""Questions about a planned clip, each with one word as its answer; only what the plan settles is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from prunevid.builtin.scenes import COLORS, SHAPES, SIZE, Plan, Thing

NUMBERS = ("one", "two", "three", "four", "five")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
TIMES = ("early", "middle", "late")


@dataclass(frozen=True)
class Question:
    """A question about a clip: its kind (one of KINDS), its wording, and the one-word answer."""

    kind: str
    text: str
    answer: str


Asker = Callable[[Plan, np.random.Generator], Iterator[tuple[str, str]]]


def names_of(plan: Plan, thing: Thing) -> list[str]:
    """Ways to name a thing that fit no other thing of the clip: by shape, by colour (unless it changes)."""
    rest = [other for other in plan.things if other is not thing]
    names = []
    if all(other.shape != thing.shape for other in rest):
        names.append(thing.shape)
    if thing.color_after is None and all(thing.color not in other.all_colors() for other in rest):
        names.append(f"{thing.color} object")
    return names


def _only(things: list[Thing]) -> Thing | None:
    return things[0] if len(things) == 1 else None


def _with_role(plan: Plan, role: str) -> list[Thing]:
    return [thing for thing in plan.things if thing.role == role]


def _color_of(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    for thing in plan.things:
        if thing.color_after is None and thing.shape in names_of(plan, thing):
            yield f"what color is the {thing.shape}?", thing.color


def _shape_of(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    for thing in plan.things:
        if f"{thing.color} object" in names_of(plan, thing):
            yield f"what shape is the {thing.color} object?", thing.shape


def _looks(thing: Thing | None, phrase: str, color: bool) -> Iterator[tuple[str, str]]:
    """The colour or the shape of the thing that a phrase singles out."""
    if thing is not None and not color:
        yield f"what shape is {phrase}?", thing.shape
    elif thing is not None and thing.color_after is None:
        yield f"what color is {phrase}?", thing.color


def _small(color: bool) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        if len(plan.things) > 1:
            yield from _looks(_only([t for t in plan.things if t.small]), "the small object", color)

    return ask


def _moving(color: bool) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        if len(plan.things) > 1:
            yield from _looks(_only([t for t in plan.things if t.direction]), "the moving object", color)

    return ask


def _event(role: str, phrase: str) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        thing = _only(_with_role(plan, role))
        for color in (True, False):
            yield from _looks(thing, phrase, color)

    return ask


def _direction(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    movers = [thing for thing in plan.things if thing.direction]
    for thing in movers:
        for name in names_of(plan, thing):
            yield f"which way does the {name} move?", str(thing.direction)
    if len(movers) == 1:
        yield "which way does the moving object move?", str(movers[0].direction)


def _is_moving(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    named = [(thing, name) for thing in plan.things for name in names_of(plan, thing)]
    moving = [pair for pair in named if pair[0].direction]
    still = [pair for pair in named if not pair[0].direction]
    for pairs, answer in ((moving, "yes"), (still, "no")):
        if moving and pairs:
            _, name = pairs[int(rng.integers(len(pairs)))]
            yield f"is the {name} moving?", answer


def _where(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    middle, margin = (SIZE - 1) / 2, 4.0
    for thing in plan.things:
        if thing.direction or abs(thing.x - middle) < margin or abs(thing.y - middle) < margin:
            continue
        corner = f"{'top' if thing.y < middle else 'bottom'}-{'left' if thing.x < middle else 'right'}"
        for name in names_of(plan, thing):
            yield f"where is the {name}?", corner


def _change_to(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    thing = _only(_with_role(plan, "change"))
    if thing is not None:
        yield "what color does the changing object become?", str(thing.color_after)
        if thing.shape in names_of(plan, thing):
            yield f"what color does the {thing.shape} become?", str(thing.color_after)


def _change(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    thing = _only(_with_role(plan, "change"))
    if thing is not None:
        yield "what shape is the object that changes color?", thing.shape


def _order(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    things = sorted(_with_role(plan, "appear"), key=lambda thing: thing.born)
    if len(things) == 2:
        for thing, when in zip(things, ("first", "last"), strict=True):
            if things[0].color != things[1].color:
                yield f"what color is the object that appears {when}?", thing.color
            if things[0].shape != things[1].shape:
                yield f"what shape is the object that appears {when}?", thing.shape


def _when(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    for thing in [*_with_role(plan, "appear"), *_with_role(plan, "flash")]:
        if thing.born in (6, 10):
            continue
        answer = TIMES[0] if thing.born < 6 else TIMES[1] if thing.born < 10 else TIMES[2]
        for name in names_of(plan, thing):
            yield f"when does the {name} appear?", answer


def _count(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    if plan.scenes == 1 and not plan.has_events():
        yield "how many objects are there?", NUMBERS[len(plan.things) - 1]


def _scenes(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    if plan.scenes > 1 or rng.random() < 0.18:
        yield "how many scenes are there?", NUMBERS[plan.scenes - 1]


def _exist(plan: Plan, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    shapes = {thing.shape for thing in plan.things}
    colors = {color for thing in plan.things for color in thing.all_colors()}
    for present, every, tail in ((shapes, SHAPES, ""), (colors, tuple(COLORS), " object")):
        answer = "yes" if rng.random() < 0.5 else "no"
        pool = [word for word in every if (word in present) == (answer == "yes")]
        if pool:
            yield f"is there a {pool[int(rng.integers(len(pool)))]}{tail}?", answer


ASKERS: dict[str, Asker] = {
    "color_of": _color_of,
    "shape_of": _shape_of,
    "small_color": _small(True),
    "small_shape": _small(False),
    "moving_color": _moving(True),
    "moving_shape": _moving(False),
    "direction": _direction,
    "is_moving": _is_moving,
    "where": _where,
    "appear": _event("appear", "the object that appears"),
    "vanish": _event("vanish", "the object that vanishes"),
    "flash": _event("flash", "the object that flashes"),
    "change": _change,
    "change_to": _change_to,
    "order": _order,
    "when": _when,
    "count": _count,
    "scenes": _scenes,
    "exist": _exist,
}
KINDS = tuple(ASKERS)
_EACH = 3


def ask(plan: Plan, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions about a clip, at most three of a kind, one of every kind before a second of any."""
    rounds: list[list[Question]] = [[] for _ in range(_EACH)]
    for kind, asker in ASKERS.items():
        pairs = list(asker(plan, rng))
        picked = rng.permutation(len(pairs))[:_EACH]
        for turn, number in enumerate(picked):
            text, answer = pairs[int(number)]
            rounds[turn].append(Question(kind, text, answer))
    asked = [turn[int(i)] for turn in rounds for i in rng.permutation(len(turn))]
    return asked[:limit]


def words() -> list[str]:
    """Every word that questions and answers can use, in a fixed order, without the question mark."""
    text = (
        "what color shape is the object small moving that appears vanishes flashes changes first last does become "
        "changing which way move where when appear how many objects are there scenes a yes no"
    )
    every = [*text.split(), *COLORS, *SHAPES, "left", "right", "up", "down", *CORNERS, *TIMES, *NUMBERS]
    return list(dict.fromkeys(every))
