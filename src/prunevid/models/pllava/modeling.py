# SPDX-License-Identifier: Apache-2.0
"""PLLaVA: LLaVA whose projected frames are pooled, and that is given videos instead of images.

The vision tower, the projector and the language model are transformers' own.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel, LlavaModelOutputWithPast

from prunevid.errors import ConfigError, InputError
from prunevid.models.pllava.configuration import PLLaVAConfig
from prunevid.models.pllava.lora import check_settings, merge_adapters


class PLLaVAModel(LlavaModel):
    """The vision tower, the projector with pooling, and the decoder.

    Raises:
        ConfigError: `frame_shape` is not the vision tower's grid of patches.
    """

    config_class = PLLaVAConfig
    input_modalities = ("video", "text")

    def __init__(self, config: PLLaVAConfig):
        side = config.vision_config.image_size // config.vision_config.patch_size
        if config.frame_shape != [side, side]:
            raise ConfigError(
                f"frame_shape is {config.frame_shape}, but the vision tower makes {side} x {side} patches of a frame; "
                "set it to that."
            )
        super().__init__(config)

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The tokens of videos.

        Args:
            pixel_values_videos: (B, T, 3, height, width). A video of one frame is an image: its features are repeated
                `num_frames` times.
            kwargs: see LLaVA's `get_image_features` (vision_feature_layer, ...).

        Returns:
            pooler_output: (B, T' * rows * columns, hidden), T' rows columns as `PLLaVAConfig.pooled_shape` says, frame
            by frame, row by row.

        Raises:
            InputError: the pixels have no axis of frames.
        """
        if pixel_values_videos.ndim != 5:
            raise InputError(
                f"pixel_values_videos has the shape {tuple(pixel_values_videos.shape)}, but must be (videos, frames, "
                "3, height, width); pass what PLLaVAProcessor returns."
            )
        videos, frames = pixel_values_videos.shape[:2]
        pictures = self.get_image_features(pixel_values_videos.flatten(0, 1), **{**kwargs, "return_dict": True})
        features = torch.stack(list(pictures.pooler_output)).unflatten(0, (videos, frames))
        return BaseModelOutputWithPooling(pooler_output=self._pool(features))

    def _pool(self, features: Tensor) -> Tensor:
        """(B, T, patches, C) to (B, tokens, C)."""
        frames = features.shape[1]
        shape = self.config.pooled_shape(frames)
        if frames == 1:
            features = features.expand(-1, self.config.num_frames, -1, -1)
        grid = features.unflatten(2, tuple(self.config.frame_shape)).permute(0, 4, 1, 2, 3)
        pooled = functional.adaptive_avg_pool3d(grid, shape)
        return pooled.flatten(2).transpose(1, 2).contiguous()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """Puts the videos' tokens in place of their placeholders and runs the decoder.

        Args:
            input_ids: (B, S); `image_token_index` stands where a video's tokens go, once for each.
            pixel_values_videos: see `get_video_features`.
            inputs_embeds: (B, S, hidden) instead of `input_ids`, with the videos in place.
            mm_encoder_outputs: under "video" what `get_video_features` returned, instead of the pixels.

        Raises:
            InputError: not exactly one of `input_ids` and `inputs_embeds`, or there are as many placeholders as the
                videos don't have tokens.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("Give either input_ids or inputs_embeds, and not both.")
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        encoded = (mm_encoder_outputs or {}).get("video")
        if encoded is None and pixel_values_videos is not None:
            encoded = self.get_video_features(pixel_values_videos)
        features = None
        if encoded is not None:
            features = encoded.pooler_output.to(embeds.device, embeds.dtype)
            embeds = embeds.masked_scatter(self._placeholders(input_ids, features), features)
        out = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=embeds,
            **kwargs,
        )
        return LlavaModelOutputWithPast(
            last_hidden_state=out.last_hidden_state,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            image_hidden_states=features,
        )

    def _placeholders(self, input_ids: Tensor | None, features: Tensor) -> Tensor:
        """(B, S, 1) boolean.

        Raises:
            InputError: see `forward`.
        """
        if input_ids is None:
            raise InputError("Videos need input_ids, for only these say where their tokens go; give no inputs_embeds.")
        where = input_ids == self.config.image_token_index
        tokens = features.shape[0] * features.shape[1]
        if int(where.sum()) != tokens:
            raise InputError(
                f"The prompts hold {int(where.sum())} placeholders, but the videos have {tokens} tokens; make both "
                "with PLLaVAProcessor."
            )
        return where[..., None]


class PLLaVAForConditionalGeneration(LlavaForConditionalGeneration):
    """`PLLaVAModel` under a language head."""

    config_class = PLLaVAConfig
    input_modalities = ("video", "text")

    def __init__(self, config: PLLaVAConfig):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = PLLaVAModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *args: Any, lora_alpha: float | None = None, **kwargs: Any
    ) -> Any:
        """Loads a converted checkpoint.

        Args:
            name: a folder, or a hub id.
            lora_alpha: the adapters' scale, times their rank. Needed where the folder holds them apart
                (`prunevid convert pllava --keep-adapters`); they are merged now. Elsewhere it may only repeat the
                number that they were merged with.
            args, kwargs: see transformers' `from_pretrained`.

        Raises:
            ConfigError: it is missing, or the adapters were merged with another.
            InputError: the adapters don't fit the weights.
        """
        if isinstance(kwargs.get("config"), PLLaVAConfig):  # as the auto classes give it: before the weights are read
            check_settings(kwargs["config"], name, lora_alpha)
        if kwargs.get("output_loading_info"):
            model, info = super().from_pretrained(name, *args, **kwargs)
            return merge_adapters(model, name, lora_alpha, kwargs), info
        return merge_adapters(super().from_pretrained(name, *args, **kwargs), name, lora_alpha, kwargs)

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `PLLaVAModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """LLaVA's forward pass; for the arguments see `PLLaVAModel.forward`."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            pixel_values_videos=pixel_values_videos,
            **kwargs,
        )
