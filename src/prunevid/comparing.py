# SPDX-License-Identifier: Apache-2.0
"""Several pruning methods on one question about one clip, beside the unpruned model."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunevid import methods as registry
from prunevid.answers import ClipInfo
from prunevid.choice import choose_method
from prunevid.engine import Encodings, attach
from prunevid.errors import ConfigError, PruneVidError, one_line
from prunevid.generation import generate
from prunevid.methods import Method
from prunevid.methods.budget import mean_over_layers

TIMES = ("merge", "prefill", "decode")
"""The stages that count in the total: reading the clip and the vision tower are done once, for all."""


@dataclass(frozen=True)
class Side:
    """What one method did with the question.

    Attributes:
        method: its name, as `prunevid.methods.get` takes it.
        retention: the share of the visual tokens that was asked for; None: the method's own options decided.
        reason: why it could not run, in one sentence; None where it ran. All that follows is empty otherwise.
        answer: what the model said.
        same: whether that is the unpruned model's answer, but for case and a full stop.
        original_tokens: visual tokens of the unpruned prompt.
        tokens: visual tokens that are left at the end (for a method that acts on the cache: in the cache of a layer).
        retained_ratio: their share.
        mean_ratio: visual tokens that a decoder layer processes, mean over the layers, as a share.
        flops_ratio: FLOPs of the language model's prefill by formula, as a share of the unpruned one's.
        cache_ratio: bytes of keys and values right after the prefill, as a share of the unpruned ones.
        milliseconds: medians over the repeats: merge, prefill, decode, and total, these three together. Besides,
            vision: the vision tower's one run for all methods that ask the same of it.
        options: the method's options.
    """

    method: str
    retention: float | None
    reason: str | None = None
    answer: str = ""
    same: bool = False
    original_tokens: int = 0
    tokens: int = 0
    retained_ratio: float = 0.0
    mean_ratio: float = 0.0
    flops_ratio: float = 0.0
    cache_ratio: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """One question, answered by the unpruned model and with every method.

    Attributes:
        question: what was asked.
        clip: which frames were seen.
        repeats: timed runs of each side.
        reading: milliseconds that the clip took to read.
        unpruned: the model as it is.
        sides: a side for every method and share, in the order asked for.
    """

    question: str
    clip: ClipInfo
    repeats: int
    reading: float
    unpruned: Side
    sides: tuple[Side, ...]


def contestants(
    chosen: str | Sequence[str | Method],
    retention: Sequence[float] = (),
    average_over_layers: bool | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[Method]:
    """The methods to compare: each with every share, the shares one after the other.

    Args:
        chosen: names, several in one string with commas between, or methods; "all" for every one that is registered.
            "none" and repetitions are left out: the unpruned model is always there.
        retention: shares of the visual tokens to keep; none: as the methods' own options say.
        average_over_layers, defaults: see `choose_method`.

    Raises:
        ConfigError: an unknown name, a share outside (0, 1], or nothing to compare.
    """
    listed = [part.strip() for part in chosen.split(",")] if isinstance(chosen, str) else list(chosen)
    if listed == ["all"]:
        listed = list(registry.names())
    found: list[Method] = []
    for share in retention or (None,):
        for one in listed:
            if one == "none":
                continue
            method = choose_method(
                one, retention_ratio=share, defaults=defaults, average_over_layers=average_over_layers
            )
            if method not in found:
                found.append(method)
    if not found:
        raise ConfigError("There is no method to compare; name some, such as 'prunevid,fastv', or 'all'.")
    return found


class Contest:
    """The runs of the unpruned model and of some methods on one prompt.

    Args:
        model, processor: as in `VideoQA`.
        inputs: one row from `prunevid.prompting.Prompter.encode`.
        options: for `model.generate`.
        frames: `frames_per_video` of `attach`.
        tell: is given a line for people before each run.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        inputs: dict[str, Any],
        options: dict[str, Any],
        frames: Sequence[int] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.model, self.processor, self.inputs, self.options = model, processor, inputs, options
        self.frames = frames
        self.tell = tell or (lambda text: None)
        self._encodings = Encodings(keep_merged=False)
        self._vision: dict[Any, float] = {}  # milliseconds of the tower, by what is asked of it

    def run(self, chosen: Sequence[Method], repeats: int) -> tuple[Side, list[Side]]:
        """Every side `repeats` times in turns, after a round that is not timed: (unpruned, the others).

        A method that fails is out from then on, with the reason; an error of the unpruned model is raised.

        Raises:
            ConfigError: `repeats` is below 1.
        """
        if repeats < 1:
            raise ConfigError(f"repeats is {repeats}, but must be at least 1.")
        plain = registry.get("none")
        self.tell("Warming up")
        with attach(self.model, plain, frames_per_video=self.frames) as pruning:  # the tower, too, without being timed
            generate(self.model, self.processor, self.inputs, {**self.options, "max_new_tokens": 1}, pruning)
        sides: list[Side | None] = [None] * (1 + len(chosen))
        times: list[list[dict[str, float]]] = [[] for _ in sides]
        for turn in range(repeats + 1):
            for index, method in enumerate((plain, *chosen)):
                known = sides[index]
                if known is not None and known.reason is not None:
                    continue
                self.tell(f"Run {turn} of {repeats}: {_title(method)}" if turn else f"Warming up: {_title(method)}")
                try:
                    sides[index], spent = self._once(method)
                except Exception as error:
                    if index == 0:
                        raise
                    sides[index] = _failed(method, error)
                else:
                    times[index] += [spent] if turn else []
        unpruned, *others = (self._timed(side, own) for side, own in zip(sides, times) if side is not None)
        said = unpruned.answer
        others = [dataclasses.replace(side, same=side.reason is None and alike(side.answer, said)) for side in others]
        return dataclasses.replace(unpruned, same=True), others

    def _once(self, method: Method) -> tuple[Side, dict[str, float]]:
        """One run, and the milliseconds of its stages."""
        with attach(self.model, method, frames_per_video=self.frames) as pruning, pruning.reuse(self._encodings):
            run = generate(self.model, self.processor, self.inputs, self.options, pruning)
            method, depth = pruning.method, len(pruning.language_model.layers)
        stats, times = run.stats[0], run.stats[0]["milliseconds"]
        key = (method.tower, method.prunes_images)
        self._vision[key] = max(self._vision.get(key, 0.0), times["vision"])  # later runs find it encoded
        spent = {name: times[name] for name in TIMES}
        original, kept = stats["stage1"]["original_tokens"], stats["total"]["retained_ratio"]
        side = Side(
            method=method.label,
            retention=method.retention_ratio,
            answer=run.texts[0][0],
            original_tokens=original,
            tokens=round(kept * original),
            retained_ratio=kept,
            mean_ratio=_mean_ratio(run.maps[0], method.selection_layers, depth),
            flops_ratio=stats["total"]["flops_ratio"],
            cache_ratio=1.0 - stats["stage3"]["reduction_ratio"],
            options=options_of(method),
        )
        return side, {"vision": self._vision[key], **spent, "total": sum(spent.values())}

    @staticmethod
    def _timed(side: Side, times: Sequence[dict[str, float]]) -> Side:
        """A side with the medians of its times; of one that failed none."""
        if side.reason is not None:
            return side
        medians = {name: statistics.median(spent[name] for spent in times) for name in times[0]}
        return dataclasses.replace(side, milliseconds=medians)


def _failed(method: Method, error: Exception) -> Side:
    """The side of a method that can't run: one line of the error; of errors that nobody foresaw with their kind."""
    text = one_line(str(error))
    reason = text if isinstance(error, PruneVidError) else f"{type(error).__name__}: {text}".rstrip(": ")
    return Side(method.label, method.retention_ratio, reason, options=options_of(method))


def alike(first: str, second: str) -> bool:
    """Whether two answers are the same but for case, a full stop and space around."""
    return first.strip().rstrip(".").casefold() == second.strip().rstrip(".").casefold()


def options_of(method: Method) -> dict[str, Any]:
    """A method's options by name, as plain values; those of its parts with their names."""

    def plain(value: Any) -> Any:
        if isinstance(value, Method):
            return {"method": value.label, **options_of(value)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return value

    return {item.name: plain(getattr(method, item.name)) for item in dataclasses.fields(method)}


def _mean_ratio(maps: Sequence[Any], layers: Sequence[int], depth: int) -> float:
    """Visual tokens that a decoder layer processes, mean over the layers, as a share of the unpruned ones."""
    cells = sum(item.layout.cells for item in maps)
    mean = sum(mean_over_layers(item.tokens, item.after_choices, layers, depth) for item in maps)
    return mean / cells if cells else 1.0


def _title(method: Method) -> str:
    """A method and its share, for people."""
    return method.label if method.retention_ratio is None else f"{method.label} at {method.retention_ratio:.3g}"
