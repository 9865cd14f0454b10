# SPDX-License-Identifier: Apache-2.0
"""ST-LLM's processor: frames as PIL resizes them, two tokenizers, and the video in front of everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor

from prunevid.errors import InputError
from prunevid.models.stllm import prompts
from prunevid.models.stllm.configuration import VIDEO_INPUTS

QFORMER_TOKENS = 256  # of a question at most; what comes first is cut off


class STLLMVideoProcessor(BaseVideoProcessor):
    """Short side 224 by PIL's bicubic filter, centre crop, CLIP's mean and deviation; frame by frame."""

    resample = PILImageResampling.BICUBIC
    size = {"shortest_edge": 224}  # noqa: RUF012 - as transformers has it
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012
    default_to_square = False
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = False
    model_input_names = ["pixel_values_videos"]  # noqa: RUF012

    def _preprocess(self, videos: list[Tensor], size: Any, crop_size: Any, **kwargs: Any) -> BatchFeature:
        """(T, 3, H, W) uint8 videos to `pixel_values_videos` (V, T, 3, h, w) float32.

        Raises:
            InputError: the videos have different numbers of frames.
        """
        counts = sorted({len(video) for video in videos})
        if len(counts) > 1:
            raise InputError(
                f"The videos of a batch have {counts} frames, but ST-LLM takes them in one tensor; give batches of one "
                "number."
            )
        edge, crop = _value(size, "shortest_edge"), [_value(crop_size, side) for side in ("height", "width")]
        if videos[0].is_meta:  # asked for the shape alone
            pixels = torch.empty((len(videos), counts[0], 3, *crop), device="meta")
            return BatchFeature(data={"pixel_values_videos": pixels}, tensor_type=kwargs.get("return_tensors"))
        mean, deviation = (torch.tensor(kwargs[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
        frames = [torch.stack([_resized(frame, edge, crop) for frame in video]) for video in videos]
        pixels = (torch.stack(frames).float() / 255 - mean) / deviation
        return BatchFeature(data={"pixel_values_videos": pixels}, tensor_type=kwargs.get("return_tensors"))


def _value(size: Any, name: str) -> int:
    """One side of a size, which transformers hands on as a dictionary or as an object."""
    return int(size[name] if isinstance(size, dict) else getattr(size, name))


def _resized(frame: Tensor, edge: int, crop: Sequence[int]) -> Tensor:
    """A (3, H, W) uint8 frame, resized and cropped by PIL; (3, h, w) uint8."""
    picture = Image.fromarray(np.ascontiguousarray(frame.cpu().numpy().transpose(1, 2, 0)))
    picture = functional.resize(picture, [edge], InterpolationMode.BICUBIC)
    picture = functional.center_crop(picture, list(crop))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class STLLMProcessor(ProcessorMixin):
    """Texts and videos to the model's inputs.

    Args:
        video_processor: makes the pixels.
        tokenizer: the language model's; rows are padded with its pad token.
        qformer_tokenizer: the Q-Former's (BERT's with one token more).
        num_query_tokens, video_input, residual_frames: see `STLLMConfig`; how many tokens a video takes.
        video_token: stands in a text for the video. It is a token of the vocabulary that no text is tokenised to.
        chat_template: both prompts of the original, where none is given.
    """

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        qformer_tokenizer: Any = None,
        num_query_tokens: int = 32,
        video_input: str = "all",
        residual_frames: int = 16,
        video_token: str = "<unk>",
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        if video_input not in VIDEO_INPUTS:
            raise InputError(f"video_input is {video_input!r}, but must be one of {', '.join(VIDEO_INPUTS)}.")
        self.num_query_tokens = num_query_tokens
        self.video_input = video_input
        self.residual_frames = residual_frames
        self.video_token = video_token
        template = chat_template if chat_template is not None else prompts.chat_template(video_token)
        super().__init__(video_processor, tokenizer, qformer_tokenizer, chat_template=template)
        self.video_token_id = tokenizer.convert_tokens_to_ids(video_token)

    @property
    def model_input_names(self) -> list[str]:
        """Of everything that a call returns."""
        return [
            "input_ids",
            "attention_mask",
            "pixel_values_videos",
            "qformer_input_ids",
            "qformer_attention_mask",
        ]

    def video_tokens(self, frames: int) -> int:
        """Tokens of a video of so many frames."""
        return self.num_query_tokens * (self.residual_frames if self.video_input == "residual" else frames)

    def __call__(
        self,
        text: str | Sequence[str],
        videos: Any = None,
        qformer_text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of a batch.

        Args:
            text: prompts; one with a video starts with `video_token`. BOS (`</s>`) is put behind the video, or at the
                start where there is none.
            videos: the frames of each video, in the order of the prompts; all with the same number of frames.
            qformer_text: what the Q-Former reads about each video; None: the question in its prompt (`question_of`).
            kwargs: `input_data_format`, `device` and the like go to the video processor; padding is always on the left.

        Returns:
            `input_ids`, `attention_mask` (B, L) int64; with videos `pixel_values_videos` (V, T, 3, h, w),
            `qformer_input_ids`, `qformer_attention_mask` (V, n), padded on the right.

        Raises:
            InputError: a video's token is not at the start or occurs twice, or there is not one video for each.
        """
        shown = [self._split(prompt) for prompt in ([text] if isinstance(text, str) else text)]
        asked = [rest for has, rest in shown if has]
        data: dict[str, Any] = {}
        tokens = 0
        if videos is not None:
            data.update(self._encode_videos(videos, kwargs))
            pixels = data["pixel_values_videos"]
            tokens = self.video_tokens(pixels.shape[1])
        count = len(data["pixel_values_videos"]) if data else 0
        if count != len(asked):
            raise InputError(f"{len(asked)} prompts start with {self.video_token!r}, but there are {count} videos.")
        if count:
            data.update(self._encode_questions(asked, qformer_text))
        data.update(self._encode_prompts(shown, tokens))
        return BatchFeature(data)

    def _split(self, prompt: str) -> tuple[bool, str]:
        """Whether a prompt has a video, and its text."""
        rest = prompt.removeprefix(self.video_token)
        if self.video_token in rest:
            raise InputError(
                f"{self.video_token!r} stands for the video, which ST-LLM sees before any text; put it once, at the "
                "start of the prompt."
            )
        return rest != prompt, rest

    def _encode_videos(self, videos: Any, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        known = {name: kwargs[name] for name in ("input_data_format", "device") if name in kwargs}
        out = self.video_processor(videos, do_sample_frames=False, return_tensors="pt", **known)
        return {"pixel_values_videos": out["pixel_values_videos"]}

    def _encode_questions(self, asked: list[str], given: str | Sequence[str] | None) -> dict[str, Tensor]:
        """The Q-Former's input for the prompts with a video."""
        if given is None:
            given = [prompts.question_of(rest) for rest in asked]
        texts = [given] if isinstance(given, str) else list(given)
        if len(texts) != len(asked):
            raise InputError(f"There are {len(asked)} videos, but {len(texts)} texts for the Q-Former.")
        tokenizer = self.qformer_tokenizer
        tokenizer.truncation_side = "left"
        out = tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=QFORMER_TOKENS,
            return_tensors="pt",
        )
        return {f"qformer_{name}": out[name] for name in ("input_ids", "attention_mask")}

    def _encode_prompts(self, shown: list[tuple[bool, str]], tokens: int) -> dict[str, Tensor]:
        """Rows of padding, video, BOS and text."""
        tokenizer = self.tokenizer
        rows = []
        for has, rest in shown:
            ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
            rows.append([self.video_token_id] * (tokens if has else 0) + [tokenizer.bos_token_id, *ids])
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, length - len(row) :] = torch.tensor(row)
            mask[number, length - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}
