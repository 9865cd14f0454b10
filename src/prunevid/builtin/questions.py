# SPDX-License-Identifier: Apache-2.0
"""Questions about a planned clip, each with one word as its answer; only what the plan settles is asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from prunevid.builtin.scenes import COLORS, DRIFT, SHAPES, SIZE, THIRDS, Plan, Thing

NUMBERS = ("one", "two", "three", "four", "five")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
TIMES = ("early", "middle", "late")


@dataclass(frozen=True)
class Question:
    """A question about a clip.

    Attributes:
        kind: one of KINDS.
        text: its wording.
        answer: one word.
        about: the things of the plan, by their places in `Plan.things`, that the answer rests on; what an oracle
            would keep. Empty where it rests on the whole clip.
        choices: the words that the answer is one of, in a fixed order; for multiple choice.
    """

    kind: str
    text: str
    answer: str
    about: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What an asker finds: wording, answer, the things that it rests on, and which words could be the answer."""

    text: str
    answer: str
    about: tuple[Thing, ...]
    choices: tuple[str, ...]


Asker = Callable[[Plan, np.random.Generator], Iterator[Asked]]


def names_of(plan: Plan, thing: Thing) -> list[str]:
    """Ways to name a thing that fit no other thing of the clip: by shape, by colour, by both where neither does."""
    rest = [other for other in plan.things if other is not thing]
    names = []
    if all(other.shape != thing.shape for other in rest):
        names.append(thing.shape)
    fixed = thing.color_after is None
    if fixed and all(thing.color not in other.all_colors() for other in rest):
        names.append(f"{thing.color} object")
    if not names and fixed and all(not (o.shape == thing.shape and thing.color in o.all_colors()) for o in rest):
        names.append(f"{thing.color} {thing.shape}")
    return names


def _only(things: list[Thing]) -> Thing | None:
    return things[0] if len(things) == 1 else None


def _with_role(plan: Plan, role: str) -> list[Thing]:
    return [thing for thing in plan.things if thing.role == role]


def _color(text: str, thing: Thing) -> Asked:
    return Asked(text, thing.color, (thing,), tuple(COLORS))


def _shape(text: str, thing: Thing) -> Asked:
    return Asked(text, thing.shape, (thing,), SHAPES)


def _looks_by_name(color: bool, brief: bool) -> Asker:
    """The colour of a thing named by its shape, or the shape of one named by its colour."""

    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        for thing in plan.things:
            names = names_of(plan, thing)
            if thing.brief is not brief:
                continue
            if color and thing.color_after is None and thing.shape in names:
                yield _color(f"what color is the {thing.shape}?", thing)
            if not color and f"{thing.color} object" in names:
                yield _shape(f"what shape is the {thing.color} object?", thing)

    return ask


def _looks(thing: Thing | None, phrase: str, color: bool) -> Iterator[Asked]:
    """The colour or the shape of the thing that a phrase singles out."""
    if thing is not None and not color:
        yield _shape(f"what shape is {phrase}?", thing)
    elif thing is not None and thing.color_after is None:
        yield _color(f"what color is {phrase}?", thing)


def _small(color: bool) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        if len(plan.things) > 1:
            yield from _looks(_only([t for t in plan.things if t.small]), "the small object", color)

    return ask


def _joint(color: bool) -> Asker:
    """A small thing among others that are small, or of its colour or shape, but not both."""

    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        small = [thing for thing in plan.things if thing.small]
        for thing in small:
            rest = [other for other in plan.things if other is not thing]
            other_small = [other for other in small if other is not thing]
            if not other_small or thing.color_after is not None:
                continue
            if color and any(o.shape == thing.shape for o in rest) and all(o.shape != thing.shape for o in other_small):
                yield _color(f"what color is the small {thing.shape}?", thing)
            alike = [any(thing.color in o.all_colors() for o in some) for some in (rest, other_small)]
            if not color and alike == [True, False]:
                yield _shape(f"what shape is the small {thing.color} object?", thing)

    return ask


def _moving(color: bool) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        yield from _looks(_only([t for t in plan.things if t.direction]), "the moving object", color)

    return ask


def _flash(color: bool) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        yield from _looks(_only(_with_role(plan, "flash")), "the object that flashes", color)

    return ask


def _flashes(plan: Plan) -> list[Thing]:
    """The things that flash, in order, if there are two or more and they can be told apart in time."""
    things = sorted(_with_role(plan, "flash"), key=lambda thing: thing.born)
    apart = all(later.born - sooner.born >= 4 for sooner, later in itertools.pairwise(things))
    return things if len(things) > 1 and apart else []


def _order(color: bool) -> Asker:
    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        things = _flashes(plan)
        for thing, when in zip((things[0], things[-1]) if things else (), ("first", "last")):
            looks = {other.color if color else other.shape for other in things}
            if len(looks) > 1:
                for asked in _looks(thing, f"the object that flashes {when}", color):
                    yield Asked(asked.text, asked.answer, tuple(things), asked.choices)

    return ask


def _after(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    things = _flashes(plan)
    for sooner, later in itertools.pairwise(things):
        for name in names_of(plan, sooner):
            yield Asked(
                f"what color is the object that flashes after the {name}?", later.color, (sooner, later), tuple(COLORS)
            )


def _direction(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    movers = [thing for thing in plan.things if thing.direction]
    for thing in movers:
        for name in names_of(plan, thing):
            yield Asked(f"which way does the {name} move?", str(thing.direction), (thing,), _WAYS)
    if len(movers) == 1:
        yield Asked("which way does the moving object move?", str(movers[0].direction), (movers[0],), _WAYS)


def _where(brief: bool) -> Asker:
    """In which corner a thing is (or flashes), where the drift of the camera leaves no doubt."""
    middle, margin = (SIZE - 1) / 2, 5.0

    def ask(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
        slack = margin + (DRIFT if plan.drift.any() and not brief else 0)
        for thing in plan.things:
            x, y = plan.seen_at(thing, thing.born)
            if thing.brief is not brief or thing.direction or min(abs(x - middle), abs(y - middle)) < slack:
                continue
            corner = f"{'top' if y < middle else 'bottom'}-{'left' if x < middle else 'right'}"
            for name in names_of(plan, thing):
                yield Asked(f"where is the {name}?", corner, (thing,), CORNERS)
            if brief and _only(_with_role(plan, "flash")) is thing:
                yield Asked("where is the object that flashes?", corner, (thing,), CORNERS)

    return ask


def _change_to(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    thing = _only(_with_role(plan, "change"))
    if thing is not None:
        yield Asked("what color does the changing object become?", str(thing.color_after), (thing,), tuple(COLORS))
        if thing.shape in names_of(plan, thing):
            yield Asked(f"what color does the {thing.shape} become?", str(thing.color_after), (thing,), tuple(COLORS))


def _change(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    thing = _only(_with_role(plan, "change"))
    if thing is not None:
        yield _shape("what shape is the object that changes color?", thing)


def _when(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    for thing in _with_role(plan, "flash"):
        part = next((number for number, third in enumerate(THIRDS) if thing.born in third), None)
        if part is None:
            continue
        for name in names_of(plan, thing):
            yield Asked(f"when does the {name} flash?", TIMES[part], (thing,), TIMES)


def _count(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    """How many things of a colour or a shape there are; asked about words that occur, rare counts as often as one."""
    words: dict[str, list[Thing]] = {}
    for thing in plan.things:
        words.setdefault(f"{thing.shape} objects", []).append(thing)
        if not any(other.color_after for other in plan.things):
            words.setdefault(f"{thing.color} objects", []).append(thing)
    many = [name for name, things in words.items() if 1 < len(things) <= len(NUMBERS)]
    single = [name for name, things in words.items() if len(things) == 1]
    for name in [*many, *(single[int(i)] for i in rng.permutation(len(single))[:1])]:
        yield Asked(f"how many {name} are there?", NUMBERS[len(words[name]) - 1], tuple(words[name]), NUMBERS)


def _count_flashes(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    things = _with_role(plan, "flash")
    if things and plan.scenes == 1:
        yield Asked("how many objects flash?", NUMBERS[len(things) - 1], tuple(things), NUMBERS)


def _scenes(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    if plan.scenes > 1 or rng.random() < 0.18:
        yield Asked("how many scenes are there?", NUMBERS[plan.scenes - 1], (), NUMBERS)


def _exist(plan: Plan, rng: np.random.Generator) -> Iterator[Asked]:
    """Whether there is a thing of a colour and a shape; where there is none, both occur apart from each other if they
    can."""
    pairs = {(color, thing.shape) for thing in plan.things for color in thing.all_colors()}
    colors, shapes = sorted({color for color, _ in pairs}), sorted({shape for _, shape in pairs})
    crossed = [(color, shape) for color in colors for shape in shapes if (color, shape) not in pairs]
    for answer, pool in (("yes", sorted(pairs)), ("no", crossed)):
        if pool:
            color, shape = pool[int(rng.integers(len(pool)))]
            about = tuple(thing for thing in plan.things if color in thing.all_colors() or thing.shape == shape)
            yield Asked(f"is there a {color} {shape}?", answer, about, ("yes", "no"))


_WAYS = ("left", "right", "up", "down")
ASKERS: dict[str, Asker] = {
    "color_of": _looks_by_name(True, False),
    "shape_of": _looks_by_name(False, False),
    "brief_color": _looks_by_name(True, True),
    "brief_shape": _looks_by_name(False, True),
    "small_color": _small(True),
    "small_shape": _small(False),
    "joint_color": _joint(True),
    "joint_shape": _joint(False),
    "moving_color": _moving(True),
    "moving_shape": _moving(False),
    "direction": _direction,
    "where": _where(False),
    "brief_where": _where(True),
    "flash_color": _flash(True),
    "flash_shape": _flash(False),
    "order_color": _order(True),
    "order_shape": _order(False),
    "after": _after,
    "when": _when,
    "change": _change,
    "change_to": _change_to,
    "count": _count,
    "count_flashes": _count_flashes,
    "scenes": _scenes,
    "exist": _exist,
}
KINDS = tuple(ASKERS)
NOT_LEARNT: tuple[str, ...] = ("when", "count")
"""Kinds that the shipped weights answer less than three times in four on 200 dev clips. No benchmark asks them."""
LEARNT: tuple[str, ...] = tuple(kind for kind in KINDS if kind not in NOT_LEARNT)
_EACH = 3


def ask(plan: Plan, rng: np.random.Generator, limit: int) -> list[Question]:
    """Up to `limit` questions about a clip, at most three of a kind, one of every kind before a second of any."""
    rounds: list[list[Question]] = [[] for _ in range(_EACH)]
    for kind, asker in ASKERS.items():
        found = list(asker(plan, rng))
        picked = rng.permutation(len(found))[:_EACH]
        for turn, number in enumerate(picked):
            one = found[int(number)]
            about = tuple(place for place, thing in enumerate(plan.things) if any(thing is t for t in one.about))
            rounds[turn].append(Question(kind, one.text, one.answer, about, one.choices))
    asked = [turn[int(i)] for turn in rounds for i in rng.permutation(len(turn))]
    return asked[:limit]


def words() -> list[str]:
    """Every word that questions and answers can use, in a fixed order, without the question mark."""
    text = (
        "what color shape is the object objects small moving that flashes flash changes first last after does become "
        "changing which way move where when how many are there scenes a yes no"
    )
    every = [*text.split(), *COLORS, *SHAPES, *_WAYS, *CORNERS, *TIMES, *NUMBERS]
    return list(dict.fromkeys(every))
