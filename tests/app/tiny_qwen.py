# SPDX-License-Identifier: Apache-2.0
"""Tiny random Qwen video models with a real processor, and real clip files: what the tests of the application
run on."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

LAYERS = 4
SPECIAL = (
    *("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
WORDS = (
    *("system", "user", "assistant", "what", "which", "colour", "moves", "is", "the", "a", "who", "happens"),
    *("red", "blue", "green", "circle", "square", "?", "."),
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% endif %}"
    "{% if part['type'] == 'text' %} {{ part['text'] }} {% endif %}"
    "{% endfor %}<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of a few dozen words that ends with filler words up to 64."""
    vocabulary = [*SPECIAL, *WORDS]
    vocabulary += [f"w{index}" for index in range(64 - len(vocabulary))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<|unk|>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[2:]),
        model_max_length=100_000,
    )


def processor(family: str = "qwen2_5_vl") -> Any:
    """The family's own processor: frames of 48 x 64 become 112 x 140 pixels, that is 4 x 5 visual tokens."""
    size = {"shortest_edge": 112 * 112, "longest_edge": 112 * 112}
    made = Qwen2_5_VLProcessor if family == "qwen2_5_vl" else Qwen2VLProcessor
    return made(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=TEMPLATE,
    )


def model(family: str = "qwen2_5_vl", seed: int = 0, layers: int = LAYERS) -> Any:
    """A random model of the family, some 100 k weights, in float32."""
    ids = {word: index for index, word in enumerate(SPECIAL)}
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|pad|>"],
    }
    tokens = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    torch.manual_seed(seed)
    if family == "qwen2_5_vl":
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        }
        made: Any = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        )
    else:
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
        made = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens))
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.mul_(4.0)
    return made.eval()


def save(folder: Path, family: str = "qwen2_5_vl", layers: int = LAYERS) -> Path:
    """Writes a model and its processor as a folder that `from_pretrained` reads."""
    model(family, layers=layers).save_pretrained(folder)
    processor(family).save_pretrained(folder)
    return folder


def frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """(count, height, width, 3) uint8: a square that moves over noise that changes halfway."""
    rng = np.random.default_rng(seed)
    grounds = rng.integers(0, 255, (2, height, width, 3), dtype=np.uint8)
    made = np.stack([grounds[int(index >= count / 2)] for index in range(count)])
    for index in range(count):
        left = (3 * index) % (width - 12)
        made[index, 8:20, left : left + 12] = (255, 30 * seed % 255, 0)
    return made


def write_clip(path: Path, count: int = 24, rate: int = 8, seed: int = 0) -> Path:
    """A real video file, MPEG-4 through PyAV: `count` frames at `rate` a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        pictures = frames(count, seed=seed)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
