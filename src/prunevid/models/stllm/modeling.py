# SPDX-License-Identifier: Apache-2.0
"""ST-LLM: every frame through ViT-g and a Q-Former that reads the question, all frames into Vicuna.

The vision tower's blocks, the Q-Former and the language model are transformers' own. A video's tokens stand in
`input_ids` as `video_token_id`; the processor puts them first, as the original does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init  # leaves weights that were loaded alone
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.instructblipvideo.modeling_instructblipvideo import InstructBlipVideoQFormerModel

from prunevid.errors import InputError
from prunevid.models.stllm.configuration import STLLMConfig
from prunevid.models.stllm.vision import STLLMVisionModel


def residual_indices(frames: int, kept: int) -> list[int]:
    """The frames that the conversation checkpoint keeps: the middle of each of `kept` equal parts.

    Args:
        frames: T >= 1; where it is less than `kept`, frames occur several times.
        kept: how many.
    """
    part = frames / kept
    return [min(frames - 1, int(part / 2 + round(part * number))) for number in range(kept)]


class ResidualFusion(nn.Module):
    """Some frames, to each of which something of the mean over all frames is added."""

    def __init__(self, width: int, inner: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(V, T, slots, C) tokens to (V, `frames`, slots, C)."""
        kept = tokens[:, residual_indices(tokens.shape[1], self.frames)]
        shared: Tensor = self.up(functional.relu(self.down(tokens.mean(1, keepdim=True))))
        return kept + shared


class STLLMPreTrainedModel(PreTrainedModel):
    """What the classes below share."""

    config_class = STLLMConfig
    base_model_prefix = "model"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = False
    _no_split_modules = [  # noqa: RUF012 - as transformers has it
        "InstructBlipVideoEncoderLayer",
        "InstructBlipVideoQFormerLayer",
        "LlamaDecoderLayer",
        "TemporalBlock",
        "SpatialBlock",
    ]
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, STLLMModel):
            init.normal_(module.query_tokens, std=self.config.initializer_range)


class STLLMModel(STLLMPreTrainedModel):
    """Vision and language without the output projection."""

    def __init__(self, config: STLLMConfig) -> None:
        super().__init__(config)
        width, inner = config.qformer_config.hidden_size, config.text_config.hidden_size
        self.vision_model = STLLMVisionModel(
            config.vision_config, config.bt_adapter_depth, config.bt_adapter_frames, config.output_norm_eps
        )
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, width))
        self.qformer = InstructBlipVideoQFormerModel(config.qformer_config)
        self.language_projection = nn.Linear(width, inner)
        residual = config.video_input == "residual"
        self.residual = ResidualFusion(inner, config.residual_size, config.residual_frames) if residual else None
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's."""
        self.language_model.set_input_embeddings(value)

    def query(self, features: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the Q-Former's query slots find in every frame.

        Args:
            features: (V, T, 1 + P, C) of the vision tower.
            ids: (V, n) the question's tokens; the same text goes to all frames of a video.
            mask: (V, n), 0 where a text is padded (on the right).

        Returns:
            (V, T, slots, width).
        """
        videos, frames = features.shape[:2]
        mask = torch.ones_like(ids) if mask is None else mask
        slots = self.query_tokens.expand(videos * frames, -1, -1)
        mask = torch.cat((mask.new_ones(videos, slots.shape[1]), mask), 1)
        found = self.qformer(
            input_ids=ids.repeat_interleave(frames, 0),
            attention_mask=mask.repeat_interleave(frames, 0),
            query_embeds=slots,
            encoder_hidden_states=features.flatten(0, 1),
            return_dict=True,
        ).last_hidden_state
        queried: Tensor = found[:, : slots.shape[1]].unflatten(0, (videos, frames))
        return queried

    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        qformer_input_ids: Tensor,
        qformer_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """The tokens that the language model sees of each video.

        Args:
            pixel_values_videos: (V, T, 3, H, W).
            qformer_input_ids, qformer_attention_mask: (V, n) the question about each video, for the Q-Former.

        Returns:
            `pooler_output` (V, frames * slots, C), frame after frame; `last_hidden_state` (V, T, slots, width) before
            the projection.

        Raises:
            InputError: the pixels are not those of videos, or there is not one question a video.
        """
        if pixel_values_videos.ndim != 5:
            raise InputError(
                f"pixel_values_videos has {pixel_values_videos.ndim} axes, but must have 5: videos, frames, channels, "
                "height and width."
            )
        if len(qformer_input_ids) != len(pixel_values_videos):
            raise InputError(
                f"There are {len(pixel_values_videos)} videos, but {len(qformer_input_ids)} questions for the "
                "Q-Former; give one for each video."
            )
        features = self.vision_model(pixel_values_videos)
        found = self.query(features, qformer_input_ids, qformer_attention_mask)
        tokens = self.language_projection(found)
        if self.residual is not None:
            tokens = self.residual(tokens)
        return BaseModelOutputWithPooling(last_hidden_state=found, pooler_output=tokens.flatten(1, 2))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The language model's output for text and videos.

        Args:
            input_ids: (B, L), with as many `video_token_id` as the videos have tokens.
            pixel_values_videos, qformer_input_ids, qformer_attention_mask: see `get_video_features`.
            inputs_embeds: (B, L, C) instead of `input_ids`, where there is no video.

        Raises:
            InputError: neither or both of ids and embeddings, a video without its question, or placeholders that don't
                fit the videos.
        """
        # Not in the signature: transformers before 5.18 repeats pixels for beams, and the engine tells by it.
        encoded = (kwargs.pop("mm_encoder_outputs", None) or {}).get("video")
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("Give either input_ids or inputs_embeds, and not both.")
        if encoded is None and pixel_values_videos is not None:
            if qformer_input_ids is None:
                raise InputError("A video was given without qformer_input_ids; pass all that the processor returned.")
            encoded = self.get_video_features(
                pixel_values_videos=pixel_values_videos,
                qformer_input_ids=qformer_input_ids,
                qformer_attention_mask=qformer_attention_mask,
            )
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if encoded is not None:
            inputs_embeds = self._placed(input_ids, inputs_embeds, encoded.pooler_output)
        out: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return out

    def _placed(self, ids: Tensor | None, embeds: Tensor, features: Tensor) -> Tensor:
        """(B, L, C) embeddings with the videos' features in the places of their placeholders."""
        if ids is None:
            raise InputError("A video needs input_ids, which say where its tokens stand; don't pass inputs_embeds.")
        places = ids == self.config.video_token_id
        count, features = int(places.sum()), features.flatten(0, 1)
        if count != len(features):
            raise InputError(
                f"The prompt has {count} placeholders of videos, but the videos have {len(features)} tokens; pass what "
                "the model's processor returned."
            )
        return embeds.masked_scatter(places[..., None], features.to(embeds.device, embeds.dtype))


class STLLMForConditionalGeneration(STLLMPreTrainedModel, GenerationMixin):
    """ST-LLM with its output projection."""

    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - as transformers has it

    def __init__(self, config: STLLMConfig) -> None:
        super().__init__(config)
        self.model = STLLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the language model's."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The output projection."""
        return self.lm_head

    def get_video_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `STLLMModel.get_video_features`."""
        return self.model.get_video_features(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, L, vocabulary), and the loss where labels are given; the rest as `STLLMModel.forward`."""
        out = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            qformer_input_ids=qformer_input_ids,
            qformer_attention_mask=qformer_attention_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        hidden = out.last_hidden_state
        shown = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, shown])
        loss = None
        if labels is not None:
            size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
