# SPDX-License-Identifier: Apache-2.0
"""Several methods as one: a merge before the language model, a choice inside it, a policy for the cache."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from prunevid.core import MergedVideo
from prunevid.errors import ConfigError
from prunevid.methods.base import Choice, Choosing, LayerCache, Method, TowerRequest, Video
from prunevid.methods.budget import Split, layer_average, most_before_choices, tokens_after_choices


@dataclass(frozen=True)
class Composed(Method):
    """What `compose` makes; each part fills the slots that the others leave empty.

    With a budget, the last part meets it, and a merge before it leaves the geometric mean of the budget and the whole
    video, unless the merging part has a budget of its own.

    Attributes:
        parts: in the order in which they act.
    """

    name: ClassVar[str] = "composed"
    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for slot, used in (
            ("before the language model", [part for part in self.parts if part.merges]),
            ("inside the language model", [part for part in self.parts if part.selection_layers]),
            ("on the cache", [part for part in self.parts if part.shrinks_cache]),
        ):
            if len(used) > 1:
                raise ConfigError(f"{used[0].name!r} and {used[1].name!r} both act {slot}; compose one of them.")
        revisers = [part for part in self.parts if part.revision_layer is not None]
        if len(revisers) > 1 or (revisers and (self.selection_layers or self.shrinks_cache)):
            raise ConfigError(
                f"{revisers[0].name!r} revises what layers see of the video while the answer is written, which goes "
                "with no other choice inside the language model or its cache; compose one of them."
            )
        if self.selection_layers and self.shrinks_cache:
            raise ConfigError(
                f"{self._inside.name!r} chooses inside the language model and {self._cache.name!r} shrinks every "
                "layer's cache by what that layer attended to; a choice before leaves nothing to go by. Compose one."
            )

    def _part(self, fits: Any) -> Method:
        return next((part for part in self.parts if fits(part)), Method())

    @property
    def _before(self) -> Method:
        return self._part(lambda part: part.merges)

    @property
    def _inside(self) -> Method:
        return self._part(lambda part: bool(part.selection_layers))

    @property
    def _cache(self) -> Method:
        return self._part(lambda part: part.shrinks_cache)

    @property
    def _reviser(self) -> Method:
        return self._part(lambda part: part.revision_layer is not None)

    @property
    def merges(self) -> bool:
        """See `Method.merges`."""
        return self._before.merges

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return self._inside.selection_layers

    def for_depth(self, depth: int, first: int = 0) -> Composed:
        """See `Method.for_depth`."""
        return dataclasses.replace(self, parts=tuple(part.for_depth(depth, first) for part in self.parts))

    @property
    def compresses_cache(self) -> bool:
        """See `Method.compresses_cache`."""
        return self._inside.compresses_cache

    @property
    def shrinks_cache(self) -> bool:
        """See `Method.shrinks_cache`."""
        return self._cache.shrinks_cache

    @property
    def revision_layer(self) -> int | None:
        """See `Method.revision_layer`."""
        return self._reviser.revision_layer

    @property
    def tower(self) -> TowerRequest | None:
        """See `Method.tower`."""
        return self._before.tower

    @property
    def prunes_images(self) -> bool:
        """See `Method.prunes_images`."""
        return any(part.prunes_images for part in self.parts)

    @property
    def position_scheme(self) -> Literal["auto", "renumber", "keep"]:
        """See `Method.position_scheme`: that of the merging part, unless `positions` says otherwise."""
        return self._before.position_scheme if self.positions == "auto" else self.positions

    @property
    def collect_stats(self) -> bool:
        """See `Method.collect_stats`."""
        return all(part.collect_stats for part in self.parts)

    @property
    def verbose(self) -> bool:
        """See `Method.verbose`."""
        return any(part.verbose for part in self.parts)

    @property
    def token_order(self) -> Literal["auto", "merged", "raster"]:
        """See `Method.token_order`."""
        return self._before.token_order

    def merge(self, video: Video) -> MergedVideo | None:
        """See `Method.merge`."""
        return self._before.merge(video)

    def choose(self, choosing: Choosing) -> Choice:
        """See `Method.choose`."""
        return self._inside.choose(choosing)

    def cache_budget(self, cells: int, tokens: int) -> int:
        """See `Method.cache_budget`."""
        allowed = self.budget(cells)
        return self._cache.cache_budget(cells, tokens) if allowed is None else allowed

    def shrink(self, layer: LayerCache) -> tuple[Tensor, Tensor]:
        """See `Method.shrink`."""
        return self._cache.shrink(layer)

    def revise(self, attention: Tensor, before: Tensor | None, shown: Tensor) -> Tensor:
        """See `Method.revise`."""
        return self._reviser.revise(attention, before, shown)

    def split(self, cells: int, frames: int, depth: int) -> Split:
        """See `Method.split`."""
        allowed, steps = self.budget(cells), self.selection_layers
        merged = self._before.split(cells, frames, depth).merged
        if allowed is None:
            return Split(merged, self._inside.split(cells, frames, depth).chosen)
        if self.merges and merged is None and (steps or self.shrinks_cache):
            merged = max(allowed, round((cells * allowed) ** 0.5))
        if not steps:
            return Split(merged if self.shrinks_cache else allowed, None)
        start = merged or cells
        if self.average_over_layers:
            if self.merges and self._before.budget(cells) is None:
                start = merged = min(start, most_before_choices(allowed, steps, depth))
            return Split(merged, layer_average(self.label, start, allowed, steps, depth))
        return Split(merged, tokens_after_choices(start, min(start, allowed), len(steps)))

    @property
    def label(self) -> str:
        """The names of the parts, as `prunevid.methods.get` takes them, in the order in which they act."""
        return "|".join(part.name for part in self.parts)


def compose(*methods: Method, **budget: Any) -> Composed:
    """Methods that act at different places as one.

    Args:
        *methods: at most one that acts at each place.
        **budget: `retention_ratio`, `retention_tokens` and `average_over_layers` of the whole.

    Raises:
        ConfigError: two methods act at the same place.
    """
    known = [field.name for field in dataclasses.fields(Method)]
    unknown = sorted(set(budget) - set(known))
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no option of composed methods; their options are {', '.join(known)}.")
    slots = sorted(methods, key=lambda part: (not part.merges, not part.selection_layers))
    return Composed(parts=tuple(slots), **budget)
