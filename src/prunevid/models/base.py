# SPDX-License-Identifier: Apache-2.0
"""What the engine has to know about a model family, and nothing else: one small adapter a family.

An adapter says which tokens of a prompt are visual, how a video's tokens are laid out, and how the family numbers its
positions. It never knows a pruning method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from prunevid.errors import UnsupportedError
from prunevid.models.towers import Tower


@dataclass(frozen=True)
class VideoLayout:
    """The visual tokens of one video in the order in which they stand in the prompt: frame by frame, row by row.

    An image is a video of one frame.

    frames, height, width: the grid of visual tokens (after the model's own merging or pooling).
    tail: tokens after the grid that belong to the video's placeholders and are never pruned (a newline, say).
    newlines: tokens after every row of the grid that are never pruned.
    image: whether it is an image (or one view of an image that the model shows several times).
    pictured: whether a cell is a place in the frame; a query slot, say, is none.
    """

    frames: int
    height: int
    width: int
    tail: int = 0
    newlines: int = 0
    image: bool = False
    pictured: bool = True

    @property
    def cells(self) -> int:
        """Tokens of the grid."""
        return self.frames * self.height * self.width

    @property
    def tokens(self) -> int:
        """Placeholder tokens of the video, the protected ones included."""
        return self.frames * self.height * (self.width + self.newlines) + self.tail

    def places(self) -> Tensor:
        """(cells,) int64: where the cells stand among the placeholders."""
        rows = self.frames * self.height
        every = torch.arange(rows * (self.width + self.newlines)).view(rows, self.width + self.newlines)
        return every[:, : self.width].flatten()

    def whole(self) -> VideoLayout:
        """The same placeholders without a cell, so that none of them is pruned."""
        return VideoLayout(0, self.height, self.width, tail=self.tokens, image=self.image)


@dataclass(frozen=True)
class Shortening:
    """How stage 1 made a batch's rows shorter.

    source: (B, n) int64, the place in the unpruned row that each token comes from (0 where a row is padded).
    target: (B, L) int64, the place in the shorter row that each token of the unpruned row went to or was merged into;
        -1 where it went nowhere (padding).
    """

    source: Tensor
    target: Tensor

    @property
    def length(self) -> int:
        """n, the tokens of the shorter rows."""
        return int(self.source.shape[1])


class Adapter(ABC):
    """One model family of transformers.

    Attributes:
        model_types: values of `config.model_type` that this adapter serves.
        checkpoints: hub ids that users know, for tables; by model type where the adapter serves several.
        arrangement: how a video's tokens stand in the prompt, for tables (g: patches of a frame's row).
        feature_function: name of the method of the base model that encodes videos.
        image_function: name of the one that encodes images; None where images can't be pruned or come as frames do.
        language_name: name of the decoder in the base model.
        modality: under which name the encoder's output stands in the base model's `mm_encoder_outputs`.
        pixels: name of the base model's argument that holds a video's pixels.
        image_pixels: names that its argument for images has had.
        frames_as_images: whether frames come as images, so that only the caller can say which belong to a video;
            `layouts` then finds `frames_per_video` among its arguments.
        positions: "mrope" (each kept token keeps its own (t, h, w)) or "1d" (renumbered after stage 1, or kept where
            the method says so).
        token_order: what `token_order="auto"` means for the family.
        equal_frames: whether the family's processor needs the same number of frames in all videos of a batch.
        tail: tokens after a video's last frame that are never pruned.
        conditions: arguments of the feature function, besides pixels, that the features depend on (a question, say).
        contiguous: whether the tokens of a video stand in one unbroken run (needed for the order "merged").
        salience: what the attention of a cell in the vision tower is, for tables.
    """

    model_types: ClassVar[frozenset[str]]
    checkpoints: ClassVar[tuple[str, ...] | Mapping[str, tuple[str, ...]]] = ()
    arrangement: ClassVar[str] = ""
    feature_function: ClassVar[str] = "get_video_features"
    image_function: ClassVar[str | None] = None
    language_name: ClassVar[str] = "language_model"
    modality: ClassVar[str] = "video"
    pixels: ClassVar[str] = "pixel_values_videos"
    image_pixels: ClassVar[tuple[str, ...]] = ("pixel_values",)
    frames_as_images: ClassVar[bool] = False
    equal_frames: ClassVar[bool] = False
    tail: ClassVar[int] = 0
    conditions: ClassVar[tuple[str, ...]] = ()
    positions: ClassVar[Literal["mrope", "1d"]] = "1d"
    token_order: ClassVar[Literal["merged", "raster"]] = "merged"
    contiguous: ClassVar[bool] = True
    salience: ClassVar[str] = "not known"

    @abstractmethod
    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """The layout of every video of one call of the feature function, in the order of the placeholders.

        Args:
            base: the base model (`model.model`).
            arguments: the call's arguments by name.
            output: what the call returned.
        """

    def image_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """The layouts of the images of one call of `image_function`, in the order of the placeholders.

        One for each image, or for each of its views where the model shows it several times (a view is merged by
        itself); every one with `image=True`. Arguments as for `layouts`.
        """
        raise NotImplementedError(f"{type(self).__name__} has an image_function, but no image_layouts.")

    def check(self, arguments: dict[str, Any]) -> None:  # noqa: B027 - most families take every prompt
        """Refuses a prompt that can't be pruned.

        Args:
            arguments: the base model's arguments by name.

        Raises:
            UnsupportedError: with the reason and what to do.
        """

    def video_token_id(self, config: Any) -> int:
        """Token id of a video's placeholders."""
        return int(_first(config, "video_token_id", "video_token_index"))

    def image_token_id(self, config: Any) -> int | None:
        """Token id of an image's placeholders; None where images use those of videos."""
        return _first(config, "image_token_id", "image_token_index")

    def language_model(self, base: Any) -> Any:
        """The decoder under the base model; it has `.layers`, `.config` and `.norm`."""
        return getattr(base, self.language_name)

    def projections(self, attention: Any) -> tuple[nn.Module, nn.Module]:
        """The modules whose outputs are the queries and the keys just before rotary embedding.

        Their outputs are (B, L, heads * head_dim) or (B, L, heads, head_dim).
        """
        if hasattr(attention, "q_norm"):
            return attention.q_norm, attention.k_norm
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
        """The lowest layer after which tokens may go; `config` is the whole model's."""
        return 0

    @property
    def limits_layers(self) -> bool:
        """Whether tokens may not go after every layer of the family's models."""
        return type(self).first_selection_layer is not Adapter.first_selection_layer

    @property
    def describes_tower(self) -> bool:
        """Whether the adapter says where the vision tower is."""
        return type(self).tower is not Adapter.tower

    def tower(self, base: Any) -> Tower:
        """The vision tower that the feature function runs.

        Args:
            base: the base model (`model.model`).

        Raises:
            UnsupportedError: it is not known.
        """
        raise UnsupportedError(
            f"{type(self).__name__} does not say where the vision tower of a {type(base).__name__} is; override its "
            "method tower, or take a method that does not ask for the vision tower."
        )

    def frame_block(self, base: Any, frames: int) -> int | None:
        """How many neighbouring frames the vision tower joins into one step, if it mixes no others.

        Then a video can be encoded in parts of whole steps, with the same features. A family says so only where its
        code does so, and a test holds it to that.

        Args:
            base: the base model (`model.model`).
            frames: of a video, or of a part of one.

        Returns:
            The number (1: every frame by itself), or None: a video of so many frames must be encoded whole.
        """
        return None

    def shorten(self, arguments: dict[str, Any], merge: Shortening) -> dict[str, Any]:
        """What else the language model is given for every token, shortened as its tokens were.

        Args:
            arguments: the language model's keyword arguments for the unpruned rows.
            merge: where every token went.

        Returns:
            The arguments to replace.
        """
        return {}

    def without_visual(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What else the language model is given for the tokens behind the last visual one alone.

        Args:
            arguments: the language model's keyword arguments for the whole rows.

        Returns:
            The arguments to replace.
        """
        return {}


def stacked_frames(arguments: dict[str, Any]) -> tuple[int, int]:
    """(videos, frames of each) of a feature function that takes one (videos, frames, channels, height, width) tensor.

    Raises:
        UnsupportedError: there is no such tensor.
    """
    for value in arguments.values():
        if isinstance(value, Tensor) and value.ndim == 5:
            return int(value.shape[0]), int(value.shape[1])
    raise UnsupportedError(
        "The video's pixels have no axis of frames, so the frames are not known; pass what the model's processor "
        "returned."
    )


def first_pixels(arguments: dict[str, Any]) -> Tensor:
    """The pixels among a feature function's arguments, whatever transformers calls them.

    Raises:
        UnsupportedError: there are none.
    """
    for name, value in arguments.items():
        if name.startswith("pixel") and isinstance(value, Tensor):
            return value
    raise UnsupportedError("The features were asked for without pixels; pass what the model's processor returned.")


def _first(config: Any, *names: str) -> Any:
    """The first of these attributes that the config has, or None."""
    return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
