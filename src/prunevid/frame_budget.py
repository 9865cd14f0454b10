# SPDX-License-Identifier: Apache-2.0
"""As many frames as a budget carries: `max_frames="auto"`.

How many tokens a prompt has is asked of the processor; how many of them pruning leaves is predicted from the method's
settings, measured in one prefill, and the number of frames is adjusted once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid.errors import ConfigError, InputError
from prunevid.methods import Method
from prunevid.methods.budget import largest
from prunevid.models import adapter_for, base_of
from prunevid.outlines import outline
from prunevid.prompting import Prompter
from prunevid.stats import decoder_flops, flops_ratio
from prunevid.video import Clip
from prunevid.video.lazy import LazyFrames
from prunevid.video.sampling import thin

MOST_FRAMES = 1024
"""Frames that "auto" takes at most: what the vision tower costs stands in no budget."""


@dataclass(frozen=True)
class FrameBudget:
    """What the language model may cost; exactly one of them.

    Attributes:
        tokens: visual tokens that are left after pruning.
        flops: of the language model's pruned prefill, text included, by `prunevid.stats.decoder_flops`.

    Raises:
        ConfigError: none or both are given, or one is not above 0.
    """

    tokens: int | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        given = {"token_budget": self.tokens, "flops_budget": self.flops}
        found = {name: value for name, value in given.items() if value is not None}
        if len(found) != 1:
            raise ConfigError(
                f"max_frames is 'auto', so give either token_budget or flops_budget; {len(found)} were given."
            )
        for name, value in found.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{name} is {value!r}, but must be a number above 0.")

    @property
    def amount(self) -> float:
        """The one that was given."""
        return float(self.tokens or self.flops or 0)

    @property
    def unit(self) -> str:
        """What it counts: "tokens" or "flops"."""
        return "flops" if self.tokens is None else "tokens"


@dataclass(frozen=True)
class Fit:
    """How many frames a budget carries, and how that was found.

    Attributes:
        frames: to sample.
        budget: what they may cost.
        tried: frames of the measured run; `predicted`: what these were to cost; `measured`: what they cost.
        available: frames that there are to sample, `MOST_FRAMES` at most.
        length: tokens of the unpruned prompt with `frames`.
    """

    frames: int
    budget: FrameBudget
    tried: int
    predicted: float
    measured: float
    available: int
    length: int

    def record(self, spent: float) -> dict[str, Any]:
        """For the statistics of an answer that cost so much with `frames`."""
        return {
            "unit": self.budget.unit,
            "budget": self.budget.amount,
            "predicted_frames": self.tried,
            "predicted": self.predicted,
            "measured": self.measured,
            "adjusted_frames": self.frames,
            "spent": spent,
            "within": spent <= self.budget.amount,
            "available_frames": self.available,
        }


def given_budget(max_frames: Any, tokens: int | None, flops: float | None) -> FrameBudget | None:
    """The budget of a call; None where it names its number of frames.

    Raises:
        ConfigError: a budget without "auto", "auto" without a budget, or a budget that is none.
    """
    if max_frames == "auto":
        return FrameBudget(tokens, flops)
    name, value = ("token_budget", tokens) if tokens is not None else ("flops_budget", flops)
    if value is not None:
        raise ConfigError(f"{name} is {value!r}, but max_frames is {max_frames!r}; set max_frames='auto'.")
    return None


def exact(method: Method) -> bool:
    """Whether a method leaves all tokens or what its own budget says, so that nothing has to be measured."""
    own = method.retention_ratio is not None or method.retention_tokens is not None
    return not method.acts or (own and not method.average_over_layers)


def spent_by(budget: FrameBudget, stats: dict[str, Any], config: Any, length: int) -> float:
    """What an answer cost, in the unit of a budget.

    Args:
        stats: of the answer.
        config: the language model's.
        length: tokens of the unpruned prompt.
    """
    if budget.unit == "tokens":
        return float(stats["stage2"]["compressed_tokens"])
    whole = config.num_hidden_layers * decoder_flops(length, config.hidden_size, config.intermediate_size)
    return float(stats["total"]["flops_ratio"]) * whole


class Costs:
    """What prompts about more or fewer frames of a clip are going to cost.

    Args:
        model: the model.
        method: with what depends on the model's depth filled in.
        prompter: makes its inputs.
        clip: all frames that there are to sample; they are not read.
        question, prompt: see `Prompter.encode`.
        budget: gives the unit.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        prompter: Prompter,
        clip: Clip,
        question: str,
        prompt: str | None,
        budget: FrameBudget,
    ) -> None:
        self._adapter, self._base = adapter_for(model), base_of(model)
        self._method, self._prompter, self._clip, self._budget = method, prompter, clip, budget
        self._config = self._adapter.language_model(self._base).config
        self._asked = question, prompt
        self._shares: tuple[float, float] | None = None  # of the visual tokens that are left: merged, in the end
        self._factor = 1.0
        self._known: dict[int, tuple[int, int]] = {}

    @property
    def available(self) -> int:
        """Frames that there are."""
        return len(self._clip)

    @property
    def least(self) -> int:
        """Frames that are one step of the model's tower: fewer are padded, or refused."""
        return min(len(self._clip), self._adapter.frame_block(self._base, 2) or 1)

    def tokens(self, frames: int) -> tuple[int, int]:
        """(visual tokens, all tokens) of the unpruned prompt about so many frames."""
        if frames not in self._known:
            question, prompt = self._asked
            ids = outline(self._prompter, [_thinned(self._clip, frames)], [question], [prompt])["input_ids"]
            visual = int((ids == self._adapter.video_token_id(self._base.config)).sum())
            self._known[frames] = visual, int(ids.shape[1])
        return self._known[frames]

    def of(self, frames: int) -> float:
        """What they are going to cost, in the unit of the budget."""
        visual, length = self.tokens(frames)
        if self._shares is None:
            tail = self._adapter.tail
            merged, kept = (tail + count for count in self._method.expected_tokens(visual - tail))
        else:
            merged, kept = (round(share * visual) for share in self._shares)
        if self._budget.unit == "tokens":
            return float(kept)
        config, text = self._config, length - visual
        layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
        steps = self._method.selection_layers
        ratio = flops_ratio(length, text + merged, text + kept, layers, steps[-1] if steps else None, hidden, inner)
        return self._factor * ratio * layers * decoder_flops(length, hidden, inner)

    def learn(self, frames: int, stats: dict[str, Any]) -> float:
        """From now on costs are estimated by those of an answer about so many frames, which are returned.

        The shares of its visual tokens that were left are taken for those of other frames; what else the method does to
        the FLOPs (several choices, say) for a factor.
        """
        visual, length = self.tokens(frames)
        spent = spent_by(self._budget, stats, self._config, length)
        left = stats["stage1"]["compressed_tokens"], stats["stage2"]["compressed_tokens"]
        self._shares = left[0] / visual, left[1] / visual
        self._factor = spent / (self.of(frames) or 1.0) if self._budget.unit == "flops" else 1.0
        return spent

    def most_frames(self) -> int:
        """The most frames whose costs stay within the budget; 0: none."""

        def fits(frames: int) -> bool:
            return self.of(frames) <= self._budget.amount

        low = self.least
        return low + largest(lambda more: fits(low + more), self.available - low) if fits(low) else 0


def fit(costs: Costs, budget: FrameBudget, measure: Callable[[int], dict[str, Any]] | None) -> Fit:
    """Predicts, measures and adjusts once.

    Args:
        measure: the statistics of an answer about so many frames; None: the costs are as predicted.

    Raises:
        InputError: not even the fewest frames fit.
    """
    frames = tried = costs.most_frames() or (costs.least if measure is not None else 0)
    if not tried:
        raise refuse_small(budget, costs)
    predicted = measured = costs.of(tried)
    if measure is not None:
        measured = costs.learn(tried, measure(tried))
        frames = costs.most_frames()
        if not frames:
            raise refuse_small(budget, costs)
    return Fit(frames, budget, tried, predicted, measured, costs.available, costs.tokens(frames)[1])


def refuse_small(budget: FrameBudget, costs: Costs) -> InputError:
    """The error for a budget that does not carry one step of the tower."""
    return InputError(
        f"{'token_budget' if budget.unit == 'tokens' else 'flops_budget'} is {budget.amount:g}, but {costs.least} "
        f"frame(s) of this clip are going to cost {costs.of(costs.least):.4g} {budget.unit}; give more."
    )


def _thinned(clip: Clip, frames: int) -> Clip:
    """What `load_clip(max_frames=frames)` would describe, without frames."""
    places = thin(len(clip), frames)
    pixels: Any = LazyFrames((len(places), clip.height, clip.width, 3), _unread)
    return dataclasses.replace(
        clip,
        frames=pixels,
        times=tuple(clip.times[place] for place in places),
        indices=tuple(clip.indices[place] for place in places),
        sampled_fps=clip.sampled_fps * len(places) / len(clip),
    )


def _unread(places: Any) -> Any:
    raise RuntimeError("Frames that only have a shape were read.")
