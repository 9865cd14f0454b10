# SPDX-License-Identifier: Apache-2.0
"""The three places where a pruning method can act, as one small base class.

A method is a frozen dataclass that overrides what it uses. It sees tensors only: no model, no transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from prunevid.config import DefaultLayer
from prunevid.core import MergedVideo
from prunevid.errors import ConfigError
from prunevid.methods.budget import Split, layer_average, tokens_after_choices


@dataclass(frozen=True)
class TowerRequest:
    """What a method wants to know of the vision tower.

    Attributes:
        layer: which of the tower's layers, counted from the end: -1 is the last, -2 the one before.
        split_heads: whether the softmax is taken in each head and averaged; otherwise over whole vectors,
            scaled by the square root of their whole width.
    """

    layer: int = -1
    split_heads: bool = True


@dataclass(frozen=True)
class TowerView:
    """What the vision tower computed for the cells of one video.

    Attributes:
        salience: (T, N) float32, the attention that a cell gets: from the class token where the tower has one,
            otherwise the mean over all patches of the frame. Of a cell made of several patches, their mean.
        keys: (T, N, heads, d) float32, the cells' keys before any rotary embedding, means over a cell's patches.
        class_token: whether the tower has one.
    """

    salience: Tensor
    keys: Tensor
    class_token: bool


@dataclass(frozen=True)
class Video:
    """What a method sees of one video before the language model.

    Attributes:
        features: (T, N, C), the visual tokens of every frame, row by row of the picture; any floating dtype.
        height, width: rows and columns of a frame's tokens; height * width = N.
        budget: how many tokens to leave, 1 ... T * N; None: as the method's own options say.
        tower: what the vision tower computed; None unless the method asks for it (`Method.tower`).
    """

    features: Tensor
    height: int
    width: int
    budget: int | None = None
    tower: TowerView | None = None


@dataclass(frozen=True)
class Attention:
    """What one prompt's selection layer computed, before the softmax.

    Attributes:
        queries: (H, q, d) queries of the question rows, before rotary embedding.
        keys: (H_kv, S, d) keys of the whole sequence (padding left out), before rotary embedding.
        visual: (S,) boolean, the visual tokens that may be dropped.
        rows: (q,) int64, places of the question rows in the sequence.
        rotate: returns (queries, keys) with rotary embedding applied.
    """

    queries: Tensor
    keys: Tensor
    visual: Tensor
    rows: Tensor
    rotate: Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Choosing:
    """What a method chooses from after a selection layer: the n visual tokens of one prompt.

    Attributes:
        attention: of the selection layer.
        step: which of the method's selection layers this is, 0, 1, ...
        group: (n,) int64, the set (scene, frame) that each token belongs to; different for different videos.
        scene: (n,) int64, the scene that each token belongs to; different for different videos.
        video: (n,) int64, the video that each token belongs to, 0, 1, ...
        cells: (videos,) how many tokens of each video the language model was given: before the first choice, after a
            merge.
        quota: how many tokens of each video to keep; None: as the method's own options say.
        hidden: (n, C), the tokens' hidden states after the layer.
        text: (q, C), the hidden states of the question rows.
        row: which prompt of the batch this is, 0, 1, ...
    """

    attention: Attention
    step: int
    group: Tensor
    scene: Tensor
    video: Tensor
    cells: list[int]
    quota: list[int] | None
    hidden: Tensor
    text: Tensor
    row: int = 0


@dataclass(frozen=True)
class Choice:
    """What goes on after a selection layer.

    Attributes:
        kept: ascending int64 indices of the tokens that go on.
        scores: (n,) float32, or None where the choice was not made by scores; for pictures.
        target: (n,) int64: for a token that is merged, the index of the kept token that it joins (a kept token: its
            own); -1 where it is dropped. None: nothing is merged. A kept token's hidden state becomes the mean of
            those that join it and its own.
    """

    kept: Tensor
    scores: Tensor | None = None
    target: Tensor | None = None


@dataclass(frozen=True)
class LayerCache:
    """What one layer holds of one prompt after it (padding left out), for methods that shrink the cache.

    Attributes:
        keys, values: (H_kv, S, d), keys with rotary embedding.
        scores: (H_kv, S) float32, the attention that each token got from all tokens of the prompt, summed over them
            and averaged over the query heads that share a key head.
        visual: (S,) boolean, the visual tokens.
        video: (S,) int64, the video that each of them belongs to, -1 for the others.
        quota: how many tokens of each video to hold.
        layer: the 0-based layer.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    visual: Tensor
    video: Tensor
    quota: list[int]
    layer: int


@dataclass(frozen=True)
class Method:
    """Base of all methods; as it stands it prunes nothing.

    The slots: `merge` (before the language model), `choose` (inside it, after each of `selection_layers`), and in the
    cache `compresses_cache` (layers up to a choice forget what it dropped) or `shrink` (every layer by itself).

    Attributes:
        retention_ratio: share of the unpruned visual tokens to keep, in (0, 1]; None: as the method's own
            options say.
        retention_tokens: the same as a number of tokens a video, at least 1. Not both.
        average_over_layers: whether the budget is the mean over the decoder's layers of the tokens that a layer
            processes; otherwise what is left at the end.
        positions: of the tokens after `merge` in models with positions on one axis: "renumber" (counted anew), "keep"
            (each token its representative's place in the unpruned prompt) or "auto" (as the method's authors do it).
            Models with (t, h, w) positions keep them.
    """

    name: ClassVar[str] = "none"
    natural_positions: ClassVar[Literal["renumber", "keep"]] = "renumber"  # of the tokens that are left, one axis

    retention_ratio: float | None = field(default=None, kw_only=True)
    retention_tokens: int | None = field(default=None, kw_only=True)
    average_over_layers: bool = field(default=False, kw_only=True)
    positions: Literal["auto", "renumber", "keep"] = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        ratio, tokens = self.retention_ratio, self.retention_tokens
        if ratio is not None and tokens is not None:
            raise ConfigError(
                f"retention_ratio {ratio} and retention_tokens {tokens} are both given; give one of them."
            )
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if ratio is not None and not (number and 0 < ratio <= 1):
            raise ConfigError(f"retention_ratio is {ratio!r}, but must be above 0 and at most 1.")
        if not isinstance(self.average_over_layers, bool):
            raise ConfigError(f"average_over_layers is {self.average_over_layers!r}, but must be True or False.")
        if self.positions not in ("auto", "renumber", "keep"):
            raise ConfigError(f"positions is {self.positions!r}, but must be one of 'auto', 'renumber', 'keep'.")
        whole = isinstance(tokens, int) and not isinstance(tokens, bool)
        if tokens is not None and not (whole and tokens >= 1):
            raise ConfigError(f"retention_tokens is {tokens!r}, but must be a whole number of at least 1.")

    # ---- what it does --------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What to call it in reports; `prunevid.methods.get` takes it."""
        return self.name

    @property
    def merges(self) -> bool:
        """Whether `merge` may change anything."""
        return False

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """0-based decoder layers, ascending, after each of which tokens are chosen."""
        return ()

    def for_depth(self, depth: int, first: int = 0) -> Method:
        """This method with whatever depends on a model's depth filled in; called once, by `attach`.

        Args:
            depth: decoder layers of the model.
            first: the lowest layer that its family allows for the choice.
        """
        scaled: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, DefaultLayer):
                scaled[item.name] = value.for_depth(depth, first)
            elif isinstance(value, tuple) and value and all(isinstance(layer, DefaultLayer) for layer in value):
                scaled[item.name] = _ascending([layer.for_depth(depth, first) for layer in value])
        return dataclasses.replace(self, **scaled) if scaled else self

    @property
    def compresses_cache(self) -> bool:
        """Whether the cache of layers up to a choice is reduced to the chosen tokens; otherwise it stays as it is."""
        return False

    @property
    def acts(self) -> bool:
        """Whether the method does anything at all."""
        return self.merges or bool(self.selection_layers) or self.shrinks_cache or self.revision_layer is not None

    @property
    def revision_layer(self) -> int | None:
        """0-based decoder layer after which `revise` says, at every new token, what later layers see of the video."""
        return None

    @property
    def shrinks_cache(self) -> bool:
        """Whether `shrink` acts."""
        return False

    @property
    def tower(self) -> TowerRequest | None:
        """What `merge` wants to know of the vision tower."""
        return None

    @property
    def prunes_images(self) -> bool:
        """Whether the images of a prompt are treated as videos of one frame; otherwise they stay whole."""
        return False

    @property
    def token_order(self) -> Literal["auto", "merged", "raster"]:
        """Order of the merged tokens in the sequence; "auto": what suits the model family."""
        return "raster"

    @property
    def position_scheme(self) -> Literal["auto", "renumber", "keep"]:
        """Positions after `merge`: counted anew, each token its representative's, or what suits the family."""
        if self.positions == "auto" and self.natural_positions == "keep":
            return "keep"
        return self.positions

    @property
    def collect_stats(self) -> bool:
        """Whether times are measured."""
        return True

    @property
    def verbose(self) -> bool:
        """Whether a line is logged for every prefill."""
        return False

    # ---- slots ---------------------------------------------------------------------------------------------------

    def merge(self, video: Video) -> MergedVideo | None:
        """Slot 1: fewer tokens of one video (an image: T = 1); None leaves them as they are."""
        return None

    def choose(self, choosing: Choosing) -> Choice:
        """Slot 2: which visual tokens of one prompt go on after a selection layer."""
        raise NotImplementedError(f"{type(self).__name__} chooses nothing inside the model.")

    def cache_budget(self, cells: int, tokens: int) -> int:
        """Slot 3: visual tokens that every layer holds of a video.

        Args:
            cells: tokens of the unpruned video, which a budget counts from.
            tokens: those that the language model is given, after a merge, which the method's own share counts from.
        """
        raise NotImplementedError(f"{type(self).__name__} does not shrink the cache.")

    def shrink(self, layer: LayerCache) -> tuple[Tensor, Tensor]:
        """Slot 3: keys and values (H_kv, n, d) of one layer after the prompt.

        n must be the number of tokens that are no visual ones and the quota of every video together; the tokens stand
        in the order of their places.
        """
        raise NotImplementedError(f"{type(self).__name__} does not shrink the cache.")

    def revise(self, attention: Tensor, before: Tensor | None, shown: Tensor) -> Tensor:
        """Slot 3, at every new token: which visual tokens of one prompt later layers see; none is forgotten.

        Args:
            attention: (n,) float32, what the new token pays to each visual token in `revision_layer`, the mean over
                heads, rotary embedding applied.
            before: the same of the token before; None at the first.
            shown: (n,) boolean, what was returned for the token before; all True at the first.

        Returns:
            (n,) boolean.
        """
        return shown

    # ---- budget --------------------------------------------------------------------------------------------------

    def budget(self, cells: int) -> int | None:
        """Tokens of a video of so many cells that the budget allows, at least 1; None where no budget was given."""
        if self.retention_tokens is not None:
            return min(self.retention_tokens, cells)
        if self.retention_ratio is not None:
            return max(1, round(self.retention_ratio * cells))
        return None

    def split(self, cells: int, frames: int, depth: int) -> Split:
        """How a budget is divided between the slots.

        Args:
            cells: tokens of the unpruned video.
            frames: T.
            depth: layers of the decoder.

        Returns:
            Tokens after `merge` and after each choice; None where the method's own options decide.

        Raises:
            ConfigError: a mean over layers that the method can't reach, because its first layers see too much.
        """
        allowed, steps = self.budget(cells), self.selection_layers
        if allowed is None:
            return Split(None, None)
        if not steps:
            return Split(allowed, None)
        if not self.average_over_layers:
            return Split(None, tokens_after_choices(cells, allowed, len(steps)))
        return Split(None, layer_average(self.name, cells, allowed, steps, depth))

    def expected_tokens(self, cells: int) -> tuple[int, int]:
        """About how many tokens are left of a video of so many cells: before the first choice inside, and at the end.

        A budget says so; without one this is what is left at most, where a method does not know better.
        """
        allowed = self.budget(cells)
        kept = cells if allowed is None else allowed
        return (kept if self.merges and not self.selection_layers else cells), kept

    def replace(self, **overrides: Any) -> Method:
        """A copy with some options changed.

        Raises:
            ConfigError: an unknown option, or a value out of range.
        """
        from prunevid.methods import replace_options

        return replace_options(self, overrides)


def _ascending(layers: list[DefaultLayer]) -> tuple[DefaultLayer, ...]:
    """Scaled layers of a shallow model may coincide; each is then at least one after the one before."""
    found: list[DefaultLayer] = []
    for layer in layers:
        least = int(found[-1]) + 1 if found else int(layer)
        found.append(type(layer)(max(int(layer), least), layer.of, layer.published))
    return tuple(found)


def keep_cells(features: Tensor, kept: Tensor, group: Tensor | None = None) -> MergedVideo:
    """The result of a method that only drops.

    Args:
        features: (T, N, C).
        kept: ascending int64 cells t * N + position that stay.
        group: (kept,) int64 sets; None: a set for each frame.
    """
    frames, positions, channels = features.shape
    assignment = torch.full((frames * positions,), -1, dtype=torch.long, device=features.device)
    assignment[kept] = torch.arange(len(kept), device=features.device)
    return _described(features.reshape(-1, channels)[kept], assignment, kept, group, frames, positions)


def merge_cells(features: Tensor, assignment: Tensor, representative: Tensor, merged: Tensor) -> MergedVideo:
    """The result of a method that merges.

    Args:
        features: (T, N, C), for shape.
        assignment: (T * N,) int64, the merged token of every cell, -1 where it is dropped.
        representative: (n,) int64, the cell that stands for each merged token.
        merged: (n, C), the merged tokens.

    Returns:
        The same with the tokens sorted by their representatives' places.
    """
    frames, positions = features.shape[:2]
    order = representative.argsort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=order.device)
    renamed = torch.where(assignment < 0, assignment, number[assignment.clamp(min=0)])
    return _described(merged[order].to(features.dtype), renamed, representative[order], None, frames, positions)


def _described(
    merged: Tensor, assignment: Tensor, representative: Tensor, group: Tensor | None, frames: int, positions: int
) -> MergedVideo:
    """A `MergedVideo` of a method without static tokens: one scene, all dynamic."""
    if group is None:
        group = representative // positions
    return MergedVideo(merged, assignment, representative, group, [frames], [0], [len(representative)])


def top_tokens(scores: Tensor, video: Tensor, quota: list[int]) -> Tensor:
    """Ascending indices of the `quota[v]` highest scores of every video v; the lower index wins a tie.

    Args:
        scores: (n,) float.
        video: (n,) int64, 0, 1, ...
        quota: tokens to keep of each video, or more than it has.
    """
    best = scores.sort(descending=True, stable=True).indices
    names, inside = video[best].sort(stable=True)
    order = best[inside]
    rank = torch.arange(len(names), device=names.device) - torch.searchsorted(names, names)
    allowed = torch.tensor(quota, device=names.device)[names]
    return order[rank < allowed].sort().values
