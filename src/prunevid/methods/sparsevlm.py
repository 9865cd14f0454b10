# SPDX-License-Identifier: Apache-2.0
"""SparseVLM: text tokens that look at the video rate it; some of the rest is recycled (docs/methods/sparsevlm.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid.config import DefaultCount
from prunevid.core import dpc_knn, question_scores
from prunevid.core._tensors import check_count, check_ratio, plain
from prunevid.methods.base import Attention, Choice, Choosing, Method
from prunevid.methods.pyramiddrop import check_stages


@dataclass(frozen=True)
class SparseVLM(Method):
    """The method of Zhang and others (ICML 2025, arXiv 2410.04417).

    Attributes:
        layers: how many of the decoder's layers see the tokens before each choice.
        keep: share of the first number of tokens that is left after each choice, recycled ones included.
        recycle: share of the dropped tokens, the best rated of them, that are clustered instead of lost.
        cluster: recycled tokens for each token that is clustered; one more is added.
        k: neighbours of the clustering.
    """

    name: ClassVar[str] = "sparsevlm"
    natural_positions: ClassVar = "keep"
    layers: tuple[int, ...] = (DefaultCount(3), DefaultCount(7), DefaultCount(16))
    keep: tuple[float, ...] = (300 / 576, 200 / 576, 110 / 576)
    recycle: float = 0.3
    cluster: int = 10
    k: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.layers, self.keep)
        check_ratio("recycle", self.recycle, zero=True)
        check_count("cluster", self.cluster, 1)
        check_count("k", self.k, 1)

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return tuple(layer - 1 for layer in self.layers)

    def choose(self, choosing: Choosing) -> Choice:
        """Slot 2: the best rated tokens, and centres of clusters of the best of the others."""
        scores = rated(choosing.attention, raters(choosing))
        share = self.keep[choosing.step]
        quota = choosing.quota or [max(1, int(share * cells)) for cells in choosing.cells]
        video = choosing.video.to(scores.device)
        target = torch.full_like(video, -1)
        for number, allowed in enumerate(quota):
            members = (video == number).nonzero()[:, 0]
            own = self._targets(scores[members], choosing.hidden[members.to(choosing.hidden.device)], allowed)
            target[members] = torch.where(own < 0, own, members[own.clamp(min=0)])
        kept = (target == torch.arange(len(target), device=target.device)).nonzero()[:, 0]
        return Choice(kept, scores, target)

    @plain
    def _targets(self, scores: Tensor, hidden: Tensor, allowed: int) -> Tensor:
        """(n,) int64: where each token of one video goes, -1 nowhere; `allowed` tokens go to themselves."""
        order = scores.sort(descending=True, stable=True).indices
        allowed = min(allowed, len(order))
        centres, pool = recycled(len(order), allowed, self.recycle, self.cluster)
        target = torch.full_like(order, -1)
        best = order[: allowed - centres]
        target[best] = best
        if centres:
            rest = order[allowed - centres :][:pool].sort().values
            states = hidden[rest.to(hidden.device)].float()
            labels = dpc_knn(states, centres, self.k).to(order.device)
            first = torch.full((centres,), len(rest), dtype=torch.long, device=order.device)
            first.scatter_reduce_(0, labels, torch.arange(len(rest), device=order.device), "amin")
            target[rest] = rest[first][labels]
        return target


def recycled(tokens: int, allowed: int, share: float, cluster: int) -> tuple[int, int]:
    """How many of the `allowed` tokens are clusters, and how many tokens are clustered.

    Of those that the ranking drops, the share with the best scores is clustered into one token for every `cluster`
    and one more. Both numbers depend on each other, because clusters count among the allowed tokens; the most clusters
    that fit are taken, one ranked token at least is left.
    """
    for centres in range(allowed - 1, 0, -1):
        pool = math.ceil(share * (tokens - allowed + centres))
        if pool >= centres and pool // cluster + 1 >= centres:
            return centres, pool
    return 0, 0


def raters(choosing: Choosing) -> Tensor:
    """(r,) int64: the question rows that look at the video more than the mean of them does.

    How much a row looks is the mean, over the visual tokens, of the softmax over the rows of the inner products of
    hidden states; one row is always left.
    """
    text, states = choosing.text.float(), choosing.hidden.float()
    alike = torch.softmax(states @ text.T / math.sqrt(text.shape[-1]), dim=-1).mean(0)
    found = (alike > alike.mean()).nonzero()[:, 0]
    return found if len(found) else alike.argmax()[None]


@plain
def rated(attention: Attention, rows: Tensor) -> Tensor:
    """(n_visual,) float32: attention that some question rows pay to each visual token, the mean over rows and heads."""
    queries, keys = attention.rotate()
    rows = rows.to(queries.device)
    places = torch.arange(keys.shape[1], device=keys.device)
    seen = places[None, :] <= attention.rows[rows][:, None]
    return question_scores(queries[:, rows], keys, attention.visual, "mean", key_mask=seen)
