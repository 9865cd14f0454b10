# SPDX-License-Identifier: Apache-2.0
"""PyramidDrop: drop a share of the visual tokens at several depths (docs/methods/pyramiddrop.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid.config import DefaultCount
from prunevid.core._tensors import check_count, check_ratio
from prunevid.errors import ConfigError
from prunevid.methods.attention import last_row_attention
from prunevid.methods.base import Choice, Choosing, Method, top_tokens


@dataclass(frozen=True)
class PyramidDrop(Method):
    """The method of Xing and others (CVPR 2025, arXiv 2410.17247).

    Attributes:
        layers: how many of the decoder's layers each stage sees whole; a choice is made after the last layer of each.
        keep: share of the first number of tokens that is left after each choice.
    """

    name: ClassVar[str] = "pyramiddrop"
    natural_positions: ClassVar = "keep"
    layers: tuple[int, ...] = (DefaultCount(8), DefaultCount(16), DefaultCount(24))
    keep: tuple[float, ...] = (0.5, 0.25, 0.125)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.layers, self.keep)

    @property
    def selection_layers(self) -> tuple[int, ...]:
        """See `Method.selection_layers`."""
        return tuple(layer - 1 for layer in self.layers)

    def choose(self, choosing: Choosing) -> Choice:
        """Slot 2: the tokens that the last row of the instruction attends to most, in this layer."""
        scores = last_row_attention(choosing.attention)
        share = self.keep[choosing.step]
        quota = choosing.quota or [max(1, int(share * cells)) for cells in choosing.cells]
        return Choice(top_tokens(scores, choosing.video.to(scores.device), quota), scores)


def check_stages(layers: tuple[int, ...], keep: tuple[float, ...]) -> None:
    """Refuses layers that don't ascend and shares that don't fit them.

    Raises:
        ConfigError: naming the value.
    """
    if not isinstance(layers, tuple) or not isinstance(keep, tuple) or not layers or len(layers) != len(keep):
        raise ConfigError(f"layers is {layers!r} and keep is {keep!r}, but they must be tuples of the same length.")
    for layer, share in zip(layers, keep):
        check_count("layers", layer, 1)
        check_ratio("keep", share)
    if list(layers) != sorted(set(layers)):
        raise ConfigError(f"layers is {layers!r}, but must ascend.")
    if list(keep) != sorted(keep, reverse=True):
        raise ConfigError(f"keep is {keep!r}, but must not grow from choice to choice.")
