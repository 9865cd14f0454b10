# SPDX-License-Identifier: Apache-2.0
"""Full-size model shapes by name, and smaller ones of the same proportions.

What a forward pass costs does not depend on the weights' values, so that a speed can be measured without a checkpoint:
a shape is the published sizes of a model's layers, from which its config is made. No tokenizer belongs to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid.errors import ConfigError

_STEP = 32  # inner widths are multiples of this


@dataclass(frozen=True)
class Shape:
    """One model shape.

    Attributes:
        name: what users call it.
        config: makes the transformers config.
        side: pixels of a frame's side that the family's own preprocessing makes, or None where it keeps the clip's.
    """

    name: str
    config: Callable[[], Any]
    side: int | None = None


def get(name: str) -> Shape:
    """A shape by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _SHAPES:
        raise ConfigError(f"shape is {name!r}, but must be one of {', '.join(names())}.")
    return _SHAPES[name]


def names() -> list[str]:
    """The known shapes."""
    return list(_SHAPES)


def scaled(config: Any, *, layers: int | None = None, width: int | None = None, scale: float | None = None) -> Any:
    """A config of other size: same family, heads of the same size, same proportions.

    Width, inner width, vocabulary and number of heads of the decoder shrink together, those of the vision tower by the
    same factor; patches, frames and the number of visual tokens stay.

    Args:
        config: of a whole model; it stays as it is.
        layers: decoder layers; the tower's depth shrinks in proportion. None: as many as before.
        width: of the decoder. None: as before, or times `scale`.
        scale: factor for both, in (0, 1], where they are not given.

    Raises:
        ConfigError: a number out of range, or a width that is no multiple of a head.
    """
    if scale is not None and not 0 < scale <= 1:
        raise ConfigError(f"scale is {scale}, but must be above 0 and at most 1.")
    config = copy.deepcopy(config)
    text, factor = config.text_config, scale or 1.0
    depth = layers if layers is not None else max(1, round(text.num_hidden_layers * factor))
    size = _head_size(text)
    wide = width if width is not None else _multiple(text.hidden_size * factor, size)
    if depth < 1:
        raise ConfigError(f"layers is {depth}, but must be at least 1.")
    if wide < size or wide % size:
        raise ConfigError(f"width is {wide}, but must be a multiple of {size}, the size of an attention head.")
    deeper, wider = depth / text.num_hidden_layers, wide / text.hidden_size
    if (deeper, wider) != (1.0, 1.0):
        _scale_text(text, depth, wide)
        _scale_vision(config, min(1.0, deeper), min(1.0, wider), wide)
    return config


def _head_size(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _scale_text(text: Any, depth: int, wide: int) -> None:
    """Changes a decoder's config in place."""
    factor = wide / text.hidden_size
    size = _head_size(text)
    groups = text.num_attention_heads // text.num_key_value_heads
    heads = wide // size
    text.num_key_value_heads = max(1, heads // groups)
    while heads % text.num_key_value_heads:  # every key head serves as many query heads
        text.num_key_value_heads -= 1
    text.num_attention_heads, text.head_dim = heads, size
    text.intermediate_size = _multiple(text.intermediate_size * factor, _STEP)
    text.hidden_size, text.num_hidden_layers = wide, depth
    if getattr(text, "layer_types", None):  # one entry for each layer
        text.layer_types = (list(text.layer_types) * depth)[:depth]
    if hasattr(text, "max_window_layers"):
        text.max_window_layers = depth
    text.vocab_size = _multiple(text.vocab_size * min(1.0, factor), 64)


def _scale_vision(config: Any, deeper: float, wider: float, wide: int) -> None:
    """Changes a tower's config in place, so that it ends in the decoder's width where it names that."""
    vision = config.vision_config
    named = {name: name for name in ("num_hidden_layers", "depth") if getattr(vision, name, None)}
    deep = next(iter(named))
    depth = max(4, round(getattr(vision, deep) * deeper))
    full = getattr(vision, deep)
    setattr(vision, deep, min(depth, full))
    for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if getattr(vision, name, None):
            setattr(
                vision, name, sorted({int(layer * getattr(vision, deep) / full) for layer in getattr(vision, name)})
            )
    if hasattr(vision, "embed_dim"):  # Qwen2-VL calls the output's width hidden_size
        heads, size = _heads(vision.embed_dim, vision.num_heads, wider)
        vision.embed_dim, vision.num_heads, vision.hidden_size = heads * size, heads, wide
        return
    counted = "num_heads" if hasattr(vision, "num_heads") and "num_heads" in vision.to_dict() else "num_attention_heads"
    heads, size = _heads(vision.hidden_size, getattr(vision, counted), wider)
    vision.hidden_size = heads * size
    setattr(vision, counted, heads)
    vision.intermediate_size = _multiple(vision.intermediate_size * wider, _STEP)
    if hasattr(vision, "out_hidden_size"):
        vision.out_hidden_size = wide
    qformer = getattr(config, "qformer_config", None)
    if qformer is not None:
        qformer.encoder_hidden_size = vision.hidden_size


def _heads(width: int, heads: int, factor: float) -> tuple[int, int]:
    """Fewer heads of the same size."""
    return max(1, round(heads * factor)), width // heads


def _multiple(value: float, step: int) -> int:
    """The nearest multiple, at least one."""
    return max(step, round(value / step) * step)


# ---- the published sizes -----------------------------------------------------------------------------------------

_QWEN_7B: dict[str, Any] = dict(
    hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4
)
_VICUNA_7B: dict[str, Any] = dict(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    max_position_embeddings=4096, rms_norm_eps=1e-5,
)  # fmt: skip
_CLIP_L_336: dict[str, Any] = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
    patch_size=14, projection_dim=768,
)  # fmt: skip
_QWEN_TOKENS: dict[str, int] = dict(
    vision_start_token_id=1, vision_end_token_id=2, image_token_id=3, video_token_id=4
)  # ids of a shape's own: there is no tokenizer, and a scaled vocabulary would not hold the published ones
_LLAVA_TOKENS: dict[str, int] = dict(image_token_index=3, video_token_index=4)


def _text(**sizes: Any) -> dict[str, Any]:
    """A decoder's fields: no text ends an answer early."""
    return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, **sizes}


def _mrope(theta: float, section: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": section, **more}


def _qwen2_5_vl_7b() -> Any:
    from transformers import Qwen2_5_VLConfig

    rope = _mrope(1e6, [16, 24, 24])
    text = _text(**_QWEN_7B, vocab_size=152064, max_position_embeddings=128000, rope_parameters=rope)
    return Qwen2_5_VLConfig(text_config=text, vision_config=_qwen2_5_tower(3584), **_QWEN_TOKENS)


def _qwen2_5_vl_3b() -> Any:
    from transformers import Qwen2_5_VLConfig

    sizes = dict(
        hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2
    )
    rope = _mrope(1e6, [16, 24, 24])
    text = _text(
        **sizes, vocab_size=151936, max_position_embeddings=128000, rope_parameters=rope, tie_word_embeddings=True
    )
    tower = _qwen2_5_tower(2048)
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True, **_QWEN_TOKENS)


def _qwen2_5_tower(width: int) -> dict[str, Any]:
    return dict(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, patch_size=14, spatial_merge_size=2,
        temporal_patch_size=2, window_size=112, fullatt_block_indexes=[7, 15, 23, 31], out_hidden_size=width,
        tokens_per_second=2,
    )  # fmt: skip


def _qwen2_vl_7b() -> Any:
    from transformers import Qwen2VLConfig

    vision = dict(depth=32, embed_dim=1280, hidden_size=3584, num_heads=16, mlp_ratio=4, patch_size=14)
    rope = _mrope(1e6, [16, 24, 24])
    text = _text(**_QWEN_7B, vocab_size=152064, max_position_embeddings=32768, rope_parameters=rope)
    return Qwen2VLConfig(text_config=text, vision_config=vision, **_QWEN_TOKENS)


def _qwen3_vl_8b() -> Any:
    from transformers import Qwen3VLConfig

    sizes = dict(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128,
    )  # fmt: skip
    vision = dict(
        depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16, patch_size=16, spatial_merge_size=2,
        temporal_patch_size=2, out_hidden_size=4096, num_position_embeddings=2304, deepstack_visual_indexes=[8, 16, 24],
    )  # fmt: skip
    rope = _mrope(5e6, [24, 20, 20], mrope_interleaved=True)
    text = _text(**sizes, vocab_size=151936, max_position_embeddings=262144, rope_parameters=rope)
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_QWEN_TOKENS)


def _llava_onevision_7b() -> Any:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16, image_size=384,
        patch_size=14, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(**_text(**_QWEN_7B, vocab_size=152000, max_position_embeddings=32768))
    return LlavaOnevisionConfig(text_config=text, vision_config=vision, **_LLAVA_TOKENS)


def _llava_next_video_7b() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig

    text = LlamaConfig(**_text(**_VICUNA_7B, vocab_size=32064))
    return LlavaNextVideoConfig(text_config=text, vision_config=CLIPVisionConfig(**_CLIP_L_336), **_LLAVA_TOKENS)


def _internvl3_8b() -> Any:
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    vision = InternVLVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=[448, 448],
        patch_size=[14, 14],
    )  # fmt: skip
    text = Qwen2Config(**_text(**_QWEN_7B, vocab_size=151674, max_position_embeddings=32768))
    return InternVLConfig(text_config=text, vision_config=vision, image_token_id=3, tie_word_embeddings=False)


def _pllava_7b() -> Any:
    from prunevid.models.pllava.configuration import published_config

    config = published_config("7b")
    config.image_token_index = 3  # as above: an id that every vocabulary holds
    config.text_config.pad_token_id = config.pad_token_id = 0
    config.text_config.bos_token_id = config.text_config.eos_token_id = None
    return config


def _st_llm_7b() -> Any:
    from prunevid.models.stllm import STLLMConfig

    config = STLLMConfig(video_token_id=3)
    config.text_config.pad_token_id = 0
    config.text_config.bos_token_id = config.text_config.eos_token_id = None
    return config


_SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen2.5-vl-7b", _qwen2_5_vl_7b),
        Shape("qwen2.5-vl-3b", _qwen2_5_vl_3b),
        Shape("qwen2-vl-7b", _qwen2_vl_7b),
        Shape("qwen3-vl-8b", _qwen3_vl_8b),
        Shape("llava-onevision-7b", _llava_onevision_7b, 384),
        Shape("llava-next-video-7b", _llava_next_video_7b, 336),
        Shape("internvl3-8b", _internvl3_8b, 448),
        Shape("pllava-7b", _pllava_7b, 336),
        Shape("st-llm-7b", _st_llm_7b, 224),
    )
}
