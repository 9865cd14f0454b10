# SPDX-License-Identifier: Apache-2.0
"""PLLaVA's processor: pictures as the original makes them, and as many placeholders as a video has tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from prunevid.errors import InputError
from prunevid.models.pllava.configuration import NUM_FRAMES, POOLING_SHAPE
from prunevid.models.pllava.pictures import LONGEST, MEAN, SHORTEST, STD, Pictures
from prunevid.models.pllava.prompts import IMAGE_TOKEN


class PLLaVAProcessor(ProcessorMixin):
    """Texts with one `<image>` for each video, and the videos, to what the model takes.

    Args:
        tokenizer: knows `<image>` as one token.
        chat_template: see `prunevid.models.pllava.prompts.chat_template`.
        num_frames, pooling_shape: those of the model's configuration.
        crop_size, longest_edge, mean, std: see `Pictures`.

    Raises:
        InputError: the tokenizer does not know `<image>`.
    """

    image_token = video_token = IMAGE_TOKEN

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | None = None,
        num_frames: int = NUM_FRAMES,
        pooling_shape: Sequence[int] = POOLING_SHAPE,
        crop_size: int = SHORTEST,
        longest_edge: int = LONGEST,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        found = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        if found is None or found == tokenizer.unk_token_id:
            raise InputError(
                f"The tokenizer does not know {IMAGE_TOKEN!r}; use the one that comes with the checkpoint (with its "
                "added_tokens.json)."
            )
        self.image_token_id = self.video_token_id = int(found)
        self.num_frames, self.pooling_shape = num_frames, list(pooling_shape)
        self.crop_size, self.longest_edge, self.mean, self.std = crop_size, longest_edge, list(mean), list(std)
        super().__init__(tokenizer, chat_template=chat_template)

    @property
    def video_processor(self) -> Pictures:
        """What makes a video's pixels."""
        return Pictures(self.crop_size, self.longest_edge, self.mean, self.std)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        input_data_format: str = "channels_last",
        padding: bool | str = True,
        padding_side: str = "left",
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Makes the inputs of a batch.

        Args:
            images: pictures, one for each `<image>` in the order of the texts; each becomes a video of one frame,
                which the model shows as `num_frames` equal ones.
            text: one prompt or several.
            videos: instead of images, one for each `<image>`: (T, height, width, 3) uint8 or a list of T pictures,
                all with the same T.
            input_data_format: "channels_first" where arrays have their channels first.
            padding, padding_side: of the texts.
            return_tensors: "pt".
            kwargs: what describes the frames' times is not used; the rest goes to the tokenizer.

        Returns:
            input_ids, attention_mask: (B, S) int64; pixel_values_videos: (videos, T, 3, side, side) float32.

        Raises:
            InputError: there is no text, both images and videos, another number of them than placeholders, or videos
                of different lengths.
        """
        if text is None:
            raise InputError("There is no text; give a prompt with one <image> for each video.")
        if images is not None and videos is not None:
            raise InputError("PLLaVA has one placeholder for images and videos; give either images or videos.")
        if return_tensors != "pt":
            raise InputError(f"return_tensors is {return_tensors!r}, but must be 'pt'.")
        for name in ("video_metadata", "do_sample_frames", "fps"):
            kwargs.pop(name, None)
        texts = [text] if isinstance(text, str) else list(text)
        shown = [[image] for image in _several(images, 3)] if videos is None else _several(videos, 4)
        pixels = self._pixels(shown, input_data_format)
        texts = self._expanded(texts, len(shown), 0 if pixels is None else pixels.shape[1])
        options = {"padding": padding, "padding_side": padding_side, "return_tensors": "pt", **kwargs}
        tokens = self.tokenizer(texts, **options)
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return BatchFeature(inputs if pixels is None else {**inputs, "pixel_values_videos": pixels})

    @property
    def model_input_names(self) -> list[str]:
        """See transformers' `ProcessorMixin`."""
        return ["input_ids", "attention_mask", "pixel_values_videos"]

    def tokens_of(self, frames: int) -> int:
        """Placeholders of a video of so many frames; one frame is an image."""
        time, rows, columns = self.pooling_shape
        return (time if frames in (1, self.num_frames) else frames) * rows * columns

    def _pixels(self, videos: Sequence[Any], data_format: str) -> Tensor | None:
        """(videos, T, 3, side, side) float32, or None where there are none."""
        made = [self.video_processor(frames, data_format) for frames in videos]
        lengths = sorted({len(frames) for frames in made})
        if len(lengths) > 1:
            raise InputError(f"The videos of a batch have {lengths} frames, but must all have the same number.")
        return torch.stack(made) if made else None

    def _expanded(self, texts: list[str], videos: int, frames: int) -> list[str]:
        """The texts with a token for every token of the videos."""
        found = sum(text.count(IMAGE_TOKEN) for text in texts)
        if found != videos:
            raise InputError(
                f"The texts hold {found} times {IMAGE_TOKEN!r} for {videos} videos; write it once for each."
            )
        return [text.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.tokens_of(frames)) for text in texts]


def _several(given: Any, axes: int) -> list[Any]:
    """A list of videos (or pictures) of what may be one of them, given as an array of so many axes or as a picture."""
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        whole = getattr(given, "ndim", axes) == axes
        return [given] if whole else list(given)
    if axes == 4 and given and not _holds_frames(given[0]):
        return [given]
    return list(given)


def _holds_frames(given: Any) -> bool:
    """Whether it is a video: a list of frames, or an array of four axes; and no frame."""
    return isinstance(given, (list, tuple)) or np.ndim(given) == 4
