# SPDX-License-Identifier: Apache-2.0
"""PLLaVA's configuration, and the published sizes."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from prunevid.errors import ConfigError

NUM_FRAMES = 16
POOLING_SHAPE = (16, 12, 12)
FRAME_SHAPE = (24, 24)


class PLLaVAConfig(LlavaConfig):
    """LLaVA's configuration with what pools a video.

    Args (besides those of `LlavaConfig`):
        num_frames: frames of a video that the model was trained with; an image is shown that often.
        pooling_shape: (frames, rows, columns) of tokens of a video of `num_frames` frames. Videos of other lengths keep
            their number of frames.
        frame_shape: (rows, columns) of patches of a frame.
        pllava_lora_alpha: with which the adapters were merged into the weights; None where there are none, or they
            are apart.
        pllava_adapters: the file beside the weights that holds adapters which are merged at loading; None: no file.

    Raises:
        ConfigError: a shape has a wrong length or holds a number below 1.
    """

    model_type = "pllava"
    attribute_map: ClassVar[dict[str, str]] = {  # images and videos share one placeholder
        "image_token_id": "image_token_index",
        "video_token_id": "image_token_index",
    }

    num_frames: int = NUM_FRAMES
    pooling_shape: Any = POOLING_SHAPE
    frame_shape: Any = FRAME_SHAPE
    pllava_lora_alpha: float | int | None = None
    pllava_adapters: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.pooling_shape = _shape("pooling_shape", self.pooling_shape, 3)
        self.frame_shape = _shape("frame_shape", self.frame_shape, 2)
        if self.num_frames < 1:
            raise ConfigError(f"num_frames is {self.num_frames}, but must be at least 1.")
        super().__post_init__(**kwargs)

    def pooled_shape(self, frames: int) -> tuple[int, int, int]:
        """(frames, rows, columns) of tokens that a video of `frames` frames has; one frame is an image."""
        time, rows, columns = self.pooling_shape
        return (time if frames in (1, self.num_frames) else frames), rows, columns


def _shape(name: str, values: Any, sides: int) -> list[int]:
    """A shape as a list of whole numbers.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(values, (list, tuple)) or len(values) != sides or any(int(side) < 1 for side in values):
        raise ConfigError(f"{name} is {values!r}, but must be {sides} whole numbers of at least 1.")
    return [int(side) for side in values]


_TEXT: dict[str, dict[str, Any]] = {
    "7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32),
    "13b": dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40),
    "34b": dict(
        hidden_size=7168,
        intermediate_size=20480,
        num_hidden_layers=60,
        num_attention_heads=56,
        num_key_value_heads=8,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6},
    ),
}
_TOKENS = {  # vocabulary, image token, padding
    "7b": (32064, 32000, 32001),
    "13b": (32064, 32000, 32001),
    "34b": (64064, 64002, 64001),
}


def published_config(size: str) -> PLLaVAConfig:
    """The configuration of a published size, without its adapters.

    Sizes of layers are those of the base models (Vicuna 1.5, Nous-Hermes-2-Yi-34B). Vocabulary and token ids are those
    of the base checkpoints as far as they are known; the converter reads them from the checkpoint, not from here.

    Args:
        size: "7b", "13b" or "34b".

    Raises:
        ConfigError: another size.
    """
    if size not in _TEXT:
        raise ConfigError(f"size is {size!r}, but must be one of {', '.join(_TEXT)}.")
    vocabulary, image, padding = _TOKENS[size]
    text = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=4096, rms_norm_eps=1e-5, pad_token_id=padding, **_TEXT[size]
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    return PLLaVAConfig(text_config=text, vision_config=vision, image_token_index=image, pad_token_id=padding)
