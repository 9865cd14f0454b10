# SPDX-License-Identifier: Apache-2.0
"""What the engine has to know about a model family, and nothing else: one small adapter a family.

An adapter says which tokens of a prompt are visual, how a video's tokens are laid out, and how the family numbers its
positions. It never knows a pruning method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class VideoLayout:
    """The visual tokens of one video in the order in which they stand in the prompt: frame by frame, row by row.

    frames, height, width: the grid of visual tokens (after the model's own merging or pooling).
    tail: tokens after the grid that belong to the video's placeholders and are never pruned (a newline, say).
    """

    frames: int
    height: int
    width: int
    tail: int = 0

    @property
    def cells(self) -> int:
        """Tokens of the grid."""
        return self.frames * self.height * self.width

    @property
    def tokens(self) -> int:
        """Placeholder tokens of the video, the protected tail included."""
        return self.cells + self.tail


class Adapter(ABC):
    """One model family of transformers.

    Attributes:
        model_types: values of `config.model_type` that this adapter serves.
        checkpoints: hub ids that users know, for messages and tables.
        feature_function: name of the method of the base model that encodes videos.
        positions: "mrope" (each kept token keeps its own (t, h, w)) or "1d" (renumbered after stage 1).
        token_order: what `token_order="auto"` means for the family.
        contiguous: whether the tokens of a video stand in one unbroken run (needed for the order "merged").
    """

    model_types: ClassVar[frozenset[str]]
    checkpoints: ClassVar[tuple[str, ...]] = ()
    feature_function: ClassVar[str] = "get_video_features"
    positions: ClassVar[Literal["mrope", "1d"]] = "1d"
    token_order: ClassVar[Literal["merged", "raster"]] = "merged"
    contiguous: ClassVar[bool] = True

    @abstractmethod
    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """The layout of every video of one call of the feature function, in the order of the placeholders.

        Args:
            base: the base model (`model.model`).
            arguments: the call's arguments by name.
            output: what the call returned.
        """

    def video_token_id(self, config: Any) -> int:
        """Token id of a video's placeholders."""
        return int(config.video_token_id)

    def image_token_id(self, config: Any) -> int | None:
        """Token id of an image's placeholders (images stay whole; a question comes after the last of them)."""
        return getattr(config, "image_token_id", None)

    def language_model(self, base: Any) -> Any:
        """The decoder under the base model; it has `.layers`, `.config` and `.norm`."""
        return base.language_model

    def projections(self, attention: Any) -> tuple[nn.Module, nn.Module]:
        """The modules whose outputs are the queries and the keys just before rotary embedding."""
        return attention.q_proj, attention.k_proj

    def rotate(self, attention: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary embedding of one row.

        Args:
            attention: the layer's attention module.
            states: (heads, n, head_dim).
            cos, sin: (n, head_dim).

        Returns:
            (heads, n, head_dim).
        """
        half = states.shape[-1] // 2
        turned = torch.cat((-states[..., half:], states[..., :half]), dim=-1)
        return states * cos + turned * sin

    def first_selection_layer(self, config: Any) -> int:
        """The lowest layer after which tokens may go."""
        return 0
