# SPDX-License-Identifier: Apache-2.0
"""The small PLLaVA language model behind the recorded arrays, in the structure of transformers' LLaVA.

Its vision side is replaced by the recorded features: "pixels" are the features themselves. A test-only adapter makes it
known: one video of 16 x 12 x 12 tokens, positions renumbered after stage 1 ("1d"), published token order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel, LlavaModelOutputWithPast

from prunevid.models import Adapter, VideoLayout

FRAMES, ROWS, COLUMNS = 16, 12, 12
PLACEHOLDER, PAD = 198, 199


class RecordedConfig(LlavaConfig):
    """LLaVA's configuration under a name that no real family has."""

    model_type = "recorded_pllava"


class RecordedBase(LlavaModel):
    """Joins recorded features and the language model."""

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Returns the features (videos, T*N, C) that it was given."""
        return BaseModelOutputWithPooling(pooler_output=pixel_values_videos)

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
    ) -> Any:
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        encoded = (mm_encoder_outputs or {}).get("video")
        if encoded is None and pixel_values_videos is not None:
            encoded = self.get_video_features(pixel_values_videos)
        if encoded is not None:
            where = (input_ids == PLACEHOLDER)[..., None]
            embeds = embeds.masked_scatter(where, encoded.pooler_output)
        out = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=embeds,
            **kwargs,
        )
        return LlavaModelOutputWithPast(last_hidden_state=out.last_hidden_state, past_key_values=out.past_key_values)


class RecordedForGeneration(LlavaForConditionalGeneration):
    """The language head on top; takes `pixel_values_videos` in place of `pixel_values`."""

    input_modalities = ("video", "text")

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        self.model = RecordedBase(config)

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

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Videos go in once: the first pass takes the encoder's output along."""
        kwargs.pop("pixel_values", None)
        return super(LlavaForConditionalGeneration, self).prepare_inputs_for_generation(input_ids, **kwargs)


class RecordedAdapter(Adapter):
    """Where the recorded model's visual tokens are."""

    model_types: ClassVar[frozenset[str]] = frozenset({"recorded_pllava"})
    positions: ClassVar[Literal["mrope", "1d"]] = "1d"
    token_order: ClassVar[Literal["merged", "raster"]] = "merged"

    def layouts(self, base: nn.Module, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """One layout for each row of the features."""
        return [VideoLayout(FRAMES, ROWS, COLUMNS) for _ in arguments["pixel_values_videos"]]

    def video_token_id(self, config: Any) -> int:
        """The recorded prompt's placeholder."""
        return PLACEHOLDER

    def image_token_id(self, config: Any) -> int | None:
        """There are no images."""
        return None


def build(weights: Path, kernel: str) -> Any:
    """The recorded model in float32 with its recorded weights."""
    text = LlamaConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=PAD,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14
    )
    config = RecordedConfig(text_config=text, vision_config=vision, image_token_index=PLACEHOLDER)
    config._attn_implementation = kernel
    model = RecordedForGeneration(config).eval().requires_grad_(False)
    stored = load_file(weights)
    language = {
        name.removeprefix("language_model.model."): tensor
        for name, tensor in stored.items()
        if name.startswith("language_model.model.")
    }
    model.model.language_model.load_state_dict(language)
    model.lm_head.load_state_dict({"weight": stored["language_model.lm_head.weight"]})
    return model


def expand(input_ids: Tensor) -> Tensor:
    """The recorded prompt with its one placeholder repeated for every visual token."""
    at = int((input_ids[0] == PLACEHOLDER).nonzero())
    video = torch.full((1, FRAMES * ROWS * COLUMNS), PLACEHOLDER)
    return torch.cat([input_ids[:, :at], video, input_ids[:, at + 1 :]], dim=1)
