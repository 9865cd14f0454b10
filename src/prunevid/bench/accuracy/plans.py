# SPDX-License-Identifier: Apache-2.0
"""Which entries are compared: the main comparison, and ablations of each stage, by name.

Every plan has the unpruned model, the model without a video, keep-all, and the controls at the same places, layers and
shares as the methods in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid import methods
from prunevid.bench.accuracy.entries import NO_VIDEO, UNPRUNED, Entry, registered, split_of
from prunevid.builtin.packing import GRID, VISUAL
from prunevid.choice import choose_method
from prunevid.errors import ConfigError
from prunevid.methods.budget import Split

Spec = tuple[str, str, Mapping[str, Any]]
"""Name in tables, method, options."""


@dataclass(frozen=True)
class Setting:
    """What all plans depend on.

    Attributes:
        layer: 0-based decoder layer after which methods inside choose.
        depth: decoder layers of the model.
        shares: of the visual tokens to keep.
        draws: of every control by lot.
        methods: to be compared instead of the plan's own; empty: the plan's.
        few: leave the costlier controls and every second layer out.
    """

    layer: int
    depth: int
    shares: tuple[float, ...] = (0.1, 0.05, 0.02)
    draws: int = 2
    methods: tuple[Spec, ...] = ()
    few: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.layer < self.depth - 1:
            raise ConfigError(
                f"layer is {self.layer}, but must be from 0 to {self.depth - 2}: after the last of {self.depth} layers "
                "nothing is left to be spared."
            )
        if not self.shares:
            raise ConfigError("There is no share to keep; give some, such as 0.1.")
        for share in self.shares:
            if not 0 < share < 1:
                raise ConfigError(f"A share to keep is {share}, but must be above 0 and below 1.")
        if self.draws < 1:
            raise ConfigError(f"draws is {self.draws}, but must be at least 1.")


def entries_of(plan: str, setting: Setting) -> list[Entry]:
    """The entries of a plan, in the order in which they are asked.

    Raises:
        ConfigError: there is no such plan.
    """
    if plan not in PLANS:
        raise ConfigError(f"{plan!r} is no plan; choose one of {', '.join(PLANS)}.")
    found = {
        entry.key: entry for entry in (*_always(setting), *PLANS[plan](setting))
    }  # what two parts of a plan share is asked once
    return list(found.values())


def parse_spec(text: str) -> Spec:
    """A method with options as people write it: "prunevid", "fastv:keep=0.3", "stage two=prunevid:enable_stage1=false".

    Raises:
        ConfigError: it can't be read, or there is no such method.
    """
    name, _, rest = text.strip().partition(":")
    title, equals, method = name.partition("=")
    title, method = (title.strip(), method.strip()) if equals else (text.strip(), name.strip())
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(";"))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"{part!r} of {text!r} is no option; write name=value, several with a semicolon between.")
        options[key.strip()] = _value(value.strip())
    choose_method(method, method_options=options)
    return title, method, options


def _value(text: str) -> Any:
    """A number, true or false, or else the text."""
    known = {"true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# ---- what every plan has ---------------------------------------------------------------------------------------------


def _always(setting: Setting) -> list[Entry]:
    return [
        Entry(UNPRUNED, UNPRUNED),
        Entry(NO_VIDEO, NO_VIDEO),
        Entry("keep all", "keep all", layer=setting.layer),
    ]


def at_layer(spec: Spec, layer: int, share: float | None, depth: int) -> Entry:
    """A method as an entry, its one choice after the given layer if it makes one.

    `layer` counts layers in methods that say how many see everything (such as "fastv"), and is a 0-based layer in
    "prunevid"; a layer that the options give stays. A method with several choices keeps its own layers.
    """
    name, method, options = spec
    given = choose_method(method, method_options=options).for_depth(depth)
    layers = given.selection_layers
    if not layers:
        return Entry(name, "method", method, options, share)
    if len(layers) == 1:
        own = {"pruning_layer": layer} if "prunevid" in method.split("|") else {"layer": layer + 1}
        for key, value in own.items():
            if key not in options:
                options = {**options, key: value}
        layers = choose_method(method, method_options=options).for_depth(depth).selection_layers
    return Entry(name, "method", method, options, share, layer=layers[-1])


def _draws(setting: Setting, entry: Entry) -> list[Entry]:
    return [dataclasses.replace(entry, draw=draw) for draw in range(setting.draws)]


def before(setting: Setting, share: float) -> list[Entry]:
    """The controls before the language model at a share."""
    found = [
        *_draws(setting, Entry("random", "random", retention=share)),
        Entry("uniform", "uniform", retention=share),
        Entry("frames", "frames", retention=share),
        Entry("saliency", "saliency", retention=share),
    ]
    return found if setting.few else [*found, Entry("oracle", "oracle", retention=share)]


def inside(setting: Setting, share: float, layer: int, donors: Sequence[Entry]) -> list[Entry]:
    """The controls inside the language model at a share.

    Args:
        donors: whose scores are swapped between questions.
    """
    found = _draws(setting, Entry("random", "random", retention=share, layer=layer))
    found += [
        Entry("uniform", "uniform", retention=share, layer=layer),
        Entry("saliency", "saliency", retention=share, layer=layer),
        Entry("saliency by frame", "saliency by frame", retention=share, layer=layer),
        Entry("oracle", "oracle", retention=share, layer=layer),
    ]
    if any(donor.options.get("keep_rule") == "peaks" for donor in donors):
        found.append(Entry("saliency, peaks", "saliency, peaks", retention=share, layer=layer))
    swapped = "swapped question"
    return [
        *found,
        *(
            dataclasses.replace(donor, name=f"{swapped} ({donor.name})", control=swapped, needs=donor.key)
            for donor in donors
        ),
    ]


def at_layers(setting: Setting, layer: int) -> list[Entry]:
    """Controls that have no share: no visual token goes on, and the cells of the things asked about alone do."""
    return [Entry("all dropped", "dropped", layer=layer), Entry("asked cells", "asked cells", layer=layer)]


def same_cost(setting: Setting, entries: Sequence[Entry]) -> list[Entry]:
    """Random before the language model that costs what methods inside it cost, draw by draw for each such cost.

    Args:
        entries: methods at one share; those that leave equal numbers of tokens after equal layers cost the same.
    """
    groups: dict[tuple[tuple[int, ...], Split], list[Entry]] = {}
    for entry in entries:
        if entry.layer is not None:
            groups.setdefault(split_of(entry, VISUAL, GRID[0], setting.depth), []).append(entry)
    found = []
    for alike in groups.values():
        first = alike[0]
        found += _draws(
            setting,
            dataclasses.replace(
                first,
                name=f"random at the cost of {first.name}",
                control="same cost",
                layer=None,
                beside=tuple(entry.key for entry in alike),
            ),
        )
    return found


def _of_methods(setting: Setting, specs: Iterable[Spec], *, swap_all: bool = True) -> list[Entry]:
    """Methods at every share, with the controls of the places where they act.

    Args:
        swap_all: swap the questions of all methods that score; otherwise of the first one at each layer.
    """
    found: list[Entry] = []
    for share in setting.shares:
        entries = [at_layer(spec, setting.layer, share, setting.depth) for spec in specs]
        found += entries
        if any(entry.layer is None for entry in entries):
            found += before(setting, share)
        for layer in sorted({entry.layer for entry in entries if entry.layer is not None}):
            donors = [entry for entry in entries if entry.layer == layer and _scores(entry)]
            found += inside(setting, share, layer, donors if swap_all else donors[:1])
        found += same_cost(setting, entries)
    layers = sorted({entry.layer for entry in found if entry.layer is not None})
    return [*found, *(entry for layer in layers for entry in at_layers(setting, layer))]


def _scores(entry: Entry) -> bool:
    """Whether an entry's scores can be given to another question: one choice among all cells of the clip."""
    method = registered(entry, None)
    return len(method.selection_layers) == 1 and not method.merges


# ---- the plans -------------------------------------------------------------------------------------------------------

ONLY_2: Mapping[str, Any] = {"enable_stage1": False}
PEAKS: Mapping[str, Any] = {"keep_scope": "global", "keep_rule": "peaks"}
ONLY_1: Mapping[str, Any] = {"enable_stage2": False}


def _main(setting: Setting) -> list[Entry]:
    """PruneVid's stages apart and together, with the published choice and by peaks, FastV, and all controls."""
    specs: tuple[Spec, ...] = setting.methods or (
        ("stage 1", "prunevid", ONLY_1),
        ("stage 2", "prunevid", ONLY_2),
        ("stage 2, peaks", "prunevid", {**ONLY_2, **PEAKS}),
        ("fastv", "fastv", {}),
        ("prunevid", "prunevid", {}),
        ("prunevid, peaks", "prunevid", PEAKS),
    )
    found = _of_methods(setting, specs)
    if any(spec[0] == "prunevid" for spec in specs) and not setting.methods:
        for share in setting.shares:
            layered = {"pruning_layer": setting.layer}
            found += _draws(
                setting,
                Entry("stage 1, random", "stage 1, random", options=layered, retention=share, layer=setting.layer),
            )
    return found


def _stage1(setting: Setting) -> list[Entry]:
    """What the merge buys: its parts, centres by lot, order, stand-in frames; each against random of as many tokens."""
    variants: dict[str, Mapping[str, Any]] = {
        "stage 1": {},
        "no static tokens": {"tau": 2.0},
        "one scene": {"temporal_segment_ratio": 1e-6},
        "sequence as merged": {"token_order": "merged"},
        "middle frame stands": {"static_position": "middle"},
        "tau 0.7": {"tau": 0.7},
        "tau 0.9": {"tau": 0.9},
    }
    found: list[Entry] = []
    for share in setting.shares:
        found += [
            Entry(name, "method", "prunevid", {**ONLY_1, **more}, share)
            for name, more in list(variants.items())[: 3 if setting.few else None]
        ]
        found += _draws(setting, Entry("random centres", "random centres", options=ONLY_1, retention=share))
        found += before(setting, share)
    for tau in (0.8,) if setting.few else (0.7, 0.8, 0.9):
        options = {**ONLY_1, "cluster_ratio": 1.0, "tau": tau}
        alone = Entry(f"temporal merge alone, tau {tau}", "method", "prunevid", options)
        found.append(alone)
        found += _draws(setting, Entry(f"random, as many as tau {tau}", "random", needs=alone.key, beside=(alone.key,)))
    return found


def _variants(variants: Mapping[str, Mapping[str, Any]]) -> list[Spec]:
    """The published stage 2 by itself, and variants of it."""
    return [(name, "prunevid", {**ONLY_2, **more}) for name, more in {"published": {}, **variants}.items()]


def _stage2(setting: Setting) -> list[Entry]:
    """Each choice of the published score changed by itself."""
    return _of_methods(setting, _variants(STAGE2), swap_all=False)


def _scores_plan(setting: Setting) -> list[Entry]:
    """Scores that may be more specific to the question, beside the published one's and FastV's; each swapped, too."""
    return _of_methods(setting, [*_variants(SCORES), ("fastv", "fastv", {})], swap_all=not setting.few)


def _layers(setting: Setting) -> list[Entry]:
    """The choice after every layer, with its controls, at the first share."""
    share = setting.shares[0]
    found: list[Entry] = []
    for layer in range(0, setting.depth - 1, 2 if setting.few else 1):
        specs: list[Spec] = [("stage 2", "prunevid", ONLY_2), ("fastv", "fastv", {})]
        entries = [at_layer(spec, layer, share, setting.depth) for spec in specs]
        found += [*entries, *inside(setting, share, layer, entries[:1]), Entry("all dropped", "dropped", layer=layer)]
    return found


QUESTION: Mapping[str, Any] = {"score_rows": "question", "prompt_head": 1, "prompt_tail": 3}
"""The embedded model's prompt: one row before the question that is always the same, and three behind it."""

STAGE2: Mapping[str, Mapping[str, Any]] = {
    "question's words alone": QUESTION,
    "last row alone": {"score_rows": "last"},
    "mean over heads": {"score_heads": "mean"},
    "mean over rows": {"score_row_mix": "mean"},
    "mean over both": {"attention_aggregation": "mean"},
    "normalised by head": {"score_normalise": "head"},
    "rotary": {"score_rope": True},
    "causal": {"score_causal": True},
    "rotary and causal": {"score_rope": True, "score_causal": True},
    "all groups together": {"keep_scope": "global"},
}
SCORES: Mapping[str, Mapping[str, Any]] = {
    "peaks": PEAKS,
    "peaks of every group": {"keep_rule": "peaks"},
    "less the question-free": {**QUESTION, "score_contrast": "difference"},
    "over the question-free": {**QUESTION, "score_contrast": "ratio"},
    "mean over both, less": {**QUESTION, "attention_aggregation": "mean", "score_contrast": "difference"},
    "max over heads, mean over rows": {"score_heads": "max", "score_row_mix": "mean"},
    "normalised by head, mean": {"score_normalise": "head", "attention_aggregation": "mean"},
    "normalised by row": {"score_normalise": "row"},
    "peaked heads": {"score_heads": "peaked"},
    "peaked heads, mean over rows": {"score_heads": "peaked", "score_row_mix": "mean"},
    "peaked, rotary, causal": {"score_heads": "peaked", "score_rope": True, "score_causal": True},
    "all groups, less": {**QUESTION, "score_contrast": "difference", "keep_scope": "global"},
}

PLANS: dict[str, Callable[[Setting], list[Entry]]] = {
    "main": _main,
    "stage1": _stage1,
    "stage2": _stage2,
    "layers": _layers,
    "scores": _scores_plan,
}


AGAINST: Mapping[str, str] = {"stage1": "stage 1", "stage2": "published", "scores": "published"}
"""What the entries of a plan are compared with besides the unpruned model and the controls."""


def check_methods(specs: Sequence[Spec]) -> None:
    """Refuses methods that can't be told from the unpruned model here.

    Raises:
        ConfigError: "none", which is always there.
    """
    if any(method == methods.Method.name for _, method, _ in specs):
        raise ConfigError("'none' is the unpruned model, which is always in the comparison; leave it out.")
