# SPDX-License-Identifier: Apache-2.0
"""The three places where a pruning method can act, as one small base class.

A method is a frozen dataclass that overrides what it uses. It sees tensors only: no model, no transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from prunevid.core import MergedVideo


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
class Method:
    """Base of all methods; as it stands it prunes nothing.

    The three slots are `merge` (before the language model), `score` and `select` (inside it, after
    `selection_layer`), and `compresses_cache` (earlier layers forget what was dropped).
    """

    name: ClassVar[str] = "none"

    @property
    def merges(self) -> bool:
        """Whether `merge` may change anything."""
        return False

    @property
    def selection_layer(self) -> int | None:
        """0-based decoder layer after which tokens are chosen; None: no choice."""
        return None

    def for_depth(self, depth: int, first: int = 0) -> Method:
        """This method with whatever depends on a model's depth filled in; called once, by `attach`.

        Args:
            depth: decoder layers of the model.
            first: the lowest layer that its family allows for the choice.
        """
        return self

    @property
    def compresses_cache(self) -> bool:
        """Whether the cache of layers up to the selection layer is reduced to the chosen tokens."""
        return self.selection_layer is not None

    @property
    def prunes_images(self) -> bool:
        """Whether the images of a prompt are treated as videos of one frame; otherwise they stay whole."""
        return False

    @property
    def token_order(self) -> Literal["auto", "merged", "raster"]:
        """Order of the merged tokens in the sequence."""
        return "auto"

    @property
    def positions(self) -> Literal["auto", "renumber", "keep"]:
        """Positions after `merge`: counted anew, each token its representative's, or what suits the family."""
        return "auto"

    @property
    def collect_stats(self) -> bool:
        """Whether times are measured."""
        return True

    @property
    def verbose(self) -> bool:
        """Whether a line is logged for every prefill."""
        return False

    def merge(self, features: Tensor) -> MergedVideo | None:
        """Slot 1: (T, N, C) features of one video (an image: T = 1) to fewer tokens; None leaves them as they are."""
        return None

    def score(self, attention: Attention) -> Tensor:
        """Slot 2: (n_visual,) float32, higher is kept."""
        raise NotImplementedError(f"{type(self).__name__} chooses nothing inside the model.")

    def select(self, scores: Tensor, group: Tensor) -> Tensor:
        """Slot 2: ascending int64 indices of the visual tokens to keep.

        Args:
            scores: (n_visual,) float32.
            group: (n_visual,) int64, the group of each token.
        """
        raise NotImplementedError(f"{type(self).__name__} chooses nothing inside the model.")

    def replace(self, **overrides: Any) -> Method:
        """A copy with some options changed.

        Raises:
            ConfigError: an unknown option, or a value out of range.
        """
        from prunevid.methods import replace_options

        return replace_options(self, overrides)
