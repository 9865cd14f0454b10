# SPDX-License-Identifier: Apache-2.0
"""The configuration of ST-LLM, for the checkpoint that answers multiple choice and for the one that converses."""

from __future__ import annotations

from typing import Any

from transformers import (
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from prunevid.errors import ConfigError

VIDEO_INPUTS = ("all", "residual")

_TEXT: dict[str, Any] = {
    "vocab_size": 32001,
    "max_position_embeddings": 2048,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 32000,
}


class STLLMConfig(PreTrainedConfig):
    """What the original calls instructblip_vicuna0, with or without the BT-Adapter.

    Args:
        vision_config: ViT-g/14 (a config or its fields); `layer_norm_eps` is that of its blocks.
        qformer_config: the Q-Former, which reads the question beside the picture.
        text_config: the language model (Vicuna-7B with one token more, for padding).
        num_query_tokens: query slots of the Q-Former: tokens of a frame.
        bt_adapter_depth: how many of the last ViT blocks have the BT-Adapter beside them; 0: there is none.
        bt_adapter_frames: frames that the BT-Adapter has positions for.
        video_input: "all" (every frame's tokens) or "residual" (`residual_frames` of the frames, to each of which
            something of the mean over all frames is added).
        residual_frames: frames that "residual" keeps.
        residual_size: width of the residual's inner layer.
        output_norm_eps: of the layer norm after the ViT.
        video_token_id: stands in `input_ids` for every token of a video. It must be one of the vocabulary, for
            transformers looks ids up in the logits; 0 is "<unk>", which no text is tokenised to.

    Raises:
        ConfigError: a number that can't be.
    """

    model_type = "stllm"
    sub_configs = {  # noqa: RUF012 - as transformers has it
        "vision_config": InstructBlipVideoVisionConfig,
        "qformer_config": InstructBlipVideoQFormerConfig,
        "text_config": LlamaConfig,
    }

    def __init__(
        self,
        vision_config: Any = None,
        qformer_config: Any = None,
        text_config: Any = None,
        num_query_tokens: int = 32,
        bt_adapter_depth: int = 0,
        bt_adapter_frames: int = 64,
        video_input: str = "all",
        residual_frames: int = 16,
        residual_size: int = 1024,
        output_norm_eps: float = 1e-5,
        video_token_id: int = 0,
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _part(InstructBlipVideoVisionConfig, vision_config, {})
        self.qformer_config = _part(InstructBlipVideoQFormerConfig, qformer_config, {"vocab_size": 30523})
        self.text_config = _part(LlamaConfig, text_config, _TEXT)
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        if video_input not in VIDEO_INPUTS:
            raise ConfigError(f"video_input is {video_input!r}, but must be one of {', '.join(VIDEO_INPUTS)}.")
        blocks = self.vision_config.num_hidden_layers
        if not 0 <= bt_adapter_depth <= blocks:
            raise ConfigError(f"bt_adapter_depth is {bt_adapter_depth}, but the ViT has {blocks} blocks.")
        for name, value in (("num_query_tokens", num_query_tokens), ("residual_frames", residual_frames)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, but must be at least 1.")
        if not 0 <= video_token_id < self.text_config.vocab_size:
            raise ConfigError(
                f"video_token_id is {video_token_id}, but the vocabulary has {self.text_config.vocab_size} tokens."
            )
        self.num_query_tokens = num_query_tokens
        self.bt_adapter_depth = bt_adapter_depth
        self.bt_adapter_frames = bt_adapter_frames
        self.video_input = video_input
        self.residual_frames = residual_frames
        self.residual_size = residual_size
        self.output_norm_eps = output_norm_eps
        self.video_token_id = video_token_id
        self.initializer_range = initializer_range
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


def _part(kind: Any, given: Any, defaults: dict[str, Any]) -> Any:
    """A part's configuration from one, from its fields, or from nothing."""
    if given is None:
        return kind(**defaults)
    return kind(**given) if isinstance(given, dict) else given
