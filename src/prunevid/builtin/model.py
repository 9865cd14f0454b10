# SPDX-License-Identifier: Apache-2.0
"""Builds the embedded model, its tokenizer and its processor from code, and loads the shipped weights.

The model is an ordinary `Qwen2_5_VLForConditionalGeneration` of transformers, only small: 12 decoder layers of 192
channels and a vision tower of 4 layers of 128 channels; 24 frames of 80 x 80 become 12 x 5 x 5 = 300 visual tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from prunevid.builtin.questions import words
from prunevid.builtin.scenes import FRAMES, SIZE
from prunevid.errors import PruneVidError

WEIGHTS = Path(__file__).parent / "weights" / "model.safetensors"

DEFAULTS: dict[str, Any] = {"pruning_layer": 4, "max_frames": FRAMES}
"""Overrides of `PruneVidConfig` that suit the model: the clips' frames, and the choice after layer 4 of 12 (0-based),
which a sweep over all layers chose (docs/benchmark.md): earlier the question does not attend to what it is about, after
layer 6 even tokens kept by lot do."""

ANSWER_TOKENS = 1
"""Tokens of an answer: the model was trained to answer every question with one word."""

PAD, UNK, START, END = "<|endoftext|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, UNK, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
PATCH, MERGE, TEMPORAL = 8, 2, 2
# A pair of frames then takes one second, two temporal positions: transformers 5.17 cuts seconds to whole numbers.
TOKENS_PER_SECOND = 2

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif item['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Token -> id: the special tokens, the roles, punctuation, then every word of `questions.words()`."""
    tokens = [*SPECIAL, "user", "assistant", "system", "?", ".", ",", *words()]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing word-level tokenizer; a word that it does not know becomes `<|unk|>`, "colour" is "color"."""
    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("colour", "color")])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,!;:]"), "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNK,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        padding_side="left",
        model_max_length=4096,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor() -> Qwen2_5_VLProcessor:
    """A stock Qwen2.5-VL processor that brings every frame to about 80 x 80 pixels (square frames exactly)."""
    common: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "size": {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**common, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_config() -> Qwen2_5_VLConfig:
    """The architecture: 12 x 192 decoder (MLP 512, 6 heads, 2 KV heads), 4 x 128 vision tower, tied embeddings."""
    ids = vocabulary()
    text = {
        "vocab_size": len(ids),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "tokens_per_second": TOKENS_PER_SECOND,
        "window_size": SIZE,
        "out_hidden_size": 192,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
    )


def build_model(attn_implementation: str = "sdpa") -> Qwen2_5_VLForConditionalGeneration:
    """The architecture with fresh random weights (from torch's global generator), float32."""
    config = build_config()
    config._attn_implementation = attn_implementation
    model = Qwen2_5_VLForConditionalGeneration(config)
    ids = vocabulary()
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, eos_token_id=ids[END], pad_token_id=ids[PAD]
    )
    return model


def load(
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Loads the embedded model with its shipped weights; offline, in well under two seconds.

    Args:
        device: where to put it.
        dtype: float32 when not given (the weights are stored in bfloat16).
        attn_implementation: "sdpa", "eager", or another one that transformers knows.

    Returns:
        The model in eval mode and its processor.

    Raises:
        PruneVidError: the weights are missing from the package or do not fit it.
    """
    if not WEIGHTS.is_file():
        raise PruneVidError(
            f"The embedded model's weights are missing ({WEIGHTS}); reinstall the package, or train them with "
            "`python -m prunevid.builtin.train --out DIR`."
        )
    model = load_weights(build_model(attn_implementation), WEIGHTS)
    return model.to(device=device, dtype=dtype or torch.float32).eval(), build_processor()


def load_weights(model: Qwen2_5_VLForConditionalGeneration, path: Path) -> Qwen2_5_VLForConditionalGeneration:
    """Copies a safetensors file of weights into a model of `build_model`, in the model's dtype.

    Raises:
        PruneVidError: a tensor is missing, unknown or of another shape.
    """
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise PruneVidError(f"The weights in {path} do not fit the embedded model: {error}") from error
    missing = [name for name in missing if name != "lm_head.weight"]
    if missing or unknown:
        raise PruneVidError(f"The weights in {path} do not fit the embedded model: {(missing + unknown)[0]!r}.")
    model.tie_weights()
    return model
