# SPDX-License-Identifier: Apache-2.0
"""LOOK-M: a smaller cache of the video after the prompt, merged head by head (docs/methods/lookm.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunevid.core._tensors import check_count, check_ratio, plain
from prunevid.errors import ConfigError
from prunevid.methods.base import LayerCache, Method

_MERGES = ("pivotal", "averaged", "weighted", "none")


@dataclass(frozen=True)
class LookM(Method):
    """The method of Wan and others (EMNLP Findings 2024, arXiv 2406.18139), with priority for text.

    Attributes:
        keep: share of the visual tokens that every head of every layer holds after the prompt.
        recent: tokens at the end of the prompt that are held in any case.
        merge_by: what becomes of the others' keys and values, in the held token with the most similar key: "pivotal"
            (half-way points are averaged into it), "averaged", "weighted" (by similarity), or "none".
    """

    name: ClassVar[str] = "lookm"
    natural_positions: ClassVar = "keep"
    keep: float = 0.2
    recent: int = 32
    merge_by: Literal["pivotal", "averaged", "weighted", "none"] = "pivotal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("keep", self.keep)
        check_count("recent", self.recent, 0)
        if self.merge_by not in _MERGES:
            raise ConfigError(f"merge_by is {self.merge_by!r}, but must be one of {', '.join(map(repr, _MERGES))}.")

    @property
    def shrinks_cache(self) -> bool:
        """See `Method.shrinks_cache`."""
        return True

    def cache_budget(self, cells: int, tokens: int) -> int:
        """See `Method.cache_budget`."""
        allowed = self.budget(cells)
        return max(1, int(self.keep * tokens)) if allowed is None else allowed

    def shrink(self, layer: LayerCache) -> tuple[Tensor, Tensor]:
        """Slot 3: see `Method.shrink`."""
        return _shrink(layer, self.recent, self.merge_by)


@plain
def _shrink(layer: LayerCache, recent: int, merge_by: str) -> tuple[Tensor, Tensor]:
    length = layer.keys.shape[1]
    ranks = layer.scores.clone()
    ranks[:, max(0, length - recent) :] = torch.inf  # the end of the prompt first, then what was attended to
    held = (~layer.visual).expand(len(ranks), -1).clone()
    for number, allowed in enumerate(layer.quota):
        own = (layer.video == number).nonzero()[:, 0]
        best = ranks[:, own].sort(dim=1, descending=True, stable=True).indices[:, :allowed]
        held.scatter_(1, own[best], True)
    count = held.sum(1)[0]
    place = held.sort(dim=1, descending=True, stable=True).indices
    kept, gone = place[:, :count].sort(dim=1).values, place[:, count:].sort(dim=1).values
    if merge_by == "none" or not gone.shape[1]:
        return _take(layer.keys, kept), _take(layer.values, kept)
    keys = layer.keys.float()
    unit = torch.nn.functional.normalize(keys, dim=-1)
    similar, target = (_take(unit, gone) @ _take(unit, kept).mT).max(dim=-1)
    fused, values = (_merged(states, kept, gone, similar, target, merge_by) for states in (layer.keys, layer.values))
    return fused, values


def _take(states: Tensor, places: Tensor) -> Tensor:
    """(H, S, d) and (H, n) -> (H, n, d)."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def _merged(states: Tensor, kept: Tensor, gone: Tensor, similar: Tensor, target: Tensor, merge_by: str) -> Tensor:
    """(H, n, d): the mean of each held token and of what the others add to it."""
    own, other = _take(states, kept).float(), _take(states, gone).float()
    where = target[..., None].expand(-1, -1, states.shape[-1])
    weight = torch.ones_like(similar)
    if merge_by == "pivotal":
        other = (other + own.gather(1, where)) / 2
    else:  # only those that are at least as similar as the mean of them
        weight = (similar >= similar.mean(dim=1, keepdim=True)).float()
        if merge_by == "weighted":
            other = other * similar[..., None]
    total = own.scatter_add(1, where, other * weight[..., None])
    count = torch.ones_like(own[..., 0]).scatter_add(1, target, weight)
    return (total / count[..., None]).to(states.dtype)
