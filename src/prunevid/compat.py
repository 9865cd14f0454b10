# SPDX-License-Identifier: Apache-2.0
"""`PruneVidQwen25VL`: the wrapper that users of Qwen2.5-VL know by this name and these arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from prunevid.config import PruneVidConfig
from prunevid.errors import InputError
from prunevid.qa import VideoQA


class PruneVidQwen25VL:
    """A Qwen2.5-VL (or Qwen2-VL) model with PruneVid.

    Args:
        model_path: a model folder, or a hub id.
        config: settings; its `max_frames` and `video_sampling` say which frames are taken. Default: `PruneVidConfig()`.
        device: None takes the best there is.
        kwargs: dtype, attn_implementation, device_map, quantization_config, ... for `from_pretrained`.

    Raises:
        InputError, UnsupportedModelError, ConfigError: see `VideoQA.from_pretrained`.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        config: PruneVidConfig | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> None:
        self.config = config or PruneVidConfig()
        self.qa = VideoQA.from_pretrained(model_path, config=self.config, device=device, **kwargs)

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.qa.model

    @property
    def processor(self) -> Any:
        """Its processor."""
        return self.qa.processor

    def generate(
        self,
        video_path: str | os.PathLike[str] | None = None,
        question: str = "",
        max_new_tokens: int = 512,
        return_stats: bool = False,
        *,
        images: Sequence[Any] | None = None,
        **generate_kwargs: Any,
    ) -> str | dict[str, Any]:
        """Answers a question about a video file, or about several images that are taken as its frames.

        Args:
            video_path: a video file or a folder of frames.
            question: text.
            max_new_tokens: length of the answer, at most.
            return_stats: whether to return statistics, too.
            images: pictures (PIL images, arrays or paths) instead of `video_path`.
            generate_kwargs: for `model.generate`; greedy unless they say otherwise.

        Returns:
            The answer, or with `return_stats` a dictionary: "answer", and "stats" with the keys of
            `prunevid.stats.row_stats`.

        Raises:
            InputError: not exactly one of `video_path` and `images`, an unreadable clip, an empty question.
        """
        if (video_path is None) == (images is None):
            raise InputError("Give either video_path or images, and not both.")
        answer = self.qa.ask(video_path, question, images=images, max_new_tokens=max_new_tokens, **generate_kwargs)
        return {"answer": answer.text, "stats": answer.stats} if return_stats else answer.text
