# SPDX-License-Identifier: Apache-2.0
"""A PLLaVA checkpoint as the hub has it, small: its names, its files, its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

RANK = 8
PEFT = "language_model.base_model.model."
VOCABULARY, IMAGE, PAD = 200, 198, 199
TEXT = dict(
    model_type="llama",
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
)
VISION = dict(
    model_type="clip_vision_model",
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=56,
    patch_size=14,
    projection_dim=16,
)


def hub_config(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A config.json of the hub; its model_type is LLaVA's."""
    config = {
        "model_type": "llava",
        "architectures": ["PllavaForConditionalGeneration"],
        "text_config": TEXT | (text or {}),
        "vision_config": VISION | (vision or {}),
        "image_token_index": IMAGE,
        "pad_token_id": PAD,
        "pooling_shape": [16, 2, 2],
        "frame_shape": [4, 4],
        "num_frames": 16,
        "use_pooling": True,
    }
    return config | more


def hub_shapes(text: dict[str, Any], vision: dict[str, Any], rank: int) -> dict[str, tuple[int, ...]]:
    """Shape by hub name of a whole checkpoint with adapters, written down name by name."""
    wide, inner, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    narrow = wide // heads * text.get("num_key_value_heads", heads)
    shapes: dict[str, tuple[int, ...]] = {
        f"{PEFT}lm_head.weight": (text["vocab_size"], wide),
        f"{PEFT}model.embed_tokens.weight": (text["vocab_size"], wide),
        f"{PEFT}model.norm.weight": (wide,),
    }
    for layer in range(text["num_hidden_layers"]):
        at = f"{PEFT}model.layers.{layer}."
        shapes[f"{at}input_layernorm.weight"] = shapes[f"{at}post_attention_layernorm.weight"] = (wide,)
        shapes[f"{at}mlp.gate_proj.weight"] = shapes[f"{at}mlp.up_proj.weight"] = (inner, wide)
        shapes[f"{at}mlp.down_proj.weight"] = (wide, inner)
        shapes[f"{at}self_attn.k_proj.weight"] = (narrow, wide)
        shapes[f"{at}self_attn.o_proj.weight"] = (wide, wide)
        for name, out in (("q_proj", wide), ("v_proj", narrow)):
            shapes[f"{at}self_attn.{name}.base_layer.weight"] = (out, wide)
            shapes[f"{at}self_attn.{name}.lora_A.default.weight"] = (rank, wide)
            shapes[f"{at}self_attn.{name}.lora_B.default.weight"] = (out, rank)
    return shapes | _tower_shapes(vision) | _projector_shapes(vision["hidden_size"], wide)


def _projector_shapes(seen: int, wide: int) -> dict[str, tuple[int, ...]]:
    at = "multi_modal_projector."
    return {
        f"{at}linear_1.weight": (wide, seen),
        f"{at}linear_1.bias": (wide,),
        f"{at}linear_2.weight": (wide, wide),
        f"{at}linear_2.bias": (wide,),
    }


def _tower_shapes(vision: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    at, wide, inner, patch = "vision_tower.vision_model.", vision["hidden_size"], vision["intermediate_size"], 14
    shapes: dict[str, tuple[int, ...]] = {
        f"{at}embeddings.class_embedding": (wide,),
        f"{at}embeddings.patch_embedding.weight": (wide, 3, patch, patch),
        f"{at}embeddings.position_embedding.weight": ((vision["image_size"] // patch) ** 2 + 1, wide),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for layer in range(vision["num_hidden_layers"]):
        block = f"encoder.layers.{layer}."
        norms += [f"{block}layer_norm1", f"{block}layer_norm2"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{at}{block}self_attn.{name}.weight"] = (wide, wide)
            shapes[f"{at}{block}self_attn.{name}.bias"] = (wide,)
        for name, rows, columns in (("fc1", inner, wide), ("fc2", wide, inner)):
            shapes[f"{at}{block}mlp.{name}.weight"] = (rows, columns)
            shapes[f"{at}{block}mlp.{name}.bias"] = (rows,)
    for name in norms:
        shapes[f"{at}{name}.weight"] = shapes[f"{at}{name}.bias"] = (wide,)
    return shapes


def tensors(text: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random tensors of a whole checkpoint."""
    generator = torch.Generator().manual_seed(5)
    shapes = hub_shapes(TEXT | (text or {}), VISION, RANK)
    return {name: (torch.randn(shape, generator=generator) * 0.2).to(dtype) for name, shape in shapes.items()}


def tokenizer(image: int = IMAGE, chatml: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of single words with `<image>` among its added tokens."""
    words = ["<unk>", "<s>", "</s>", "USER", "ASSISTANT", ":", "?", "what", "moves", "is", "the", "circle", "colour"]
    words += [f"w{number}" for number in range(PAD - len(words) - 1)]
    if chatml:
        words[20:22] = ["<|im_start|>", "<|im_end|>"]
    words.insert(image, "<image>")
    words.append("<pad>")
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([AddedToken("<image>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def write(folder: Path, stored: dict[str, Tensor], config: dict[str, Any] | None = None, files: int = 2) -> Path:
    """Writes a checkpoint's folder, its weights in so many files with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or hub_config()))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    (folder / "model.safetensors-deprecated").write_bytes(b"left over on the hub")
    tokenizer().save_pretrained(folder)
    names, placed = sorted(stored), {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = {name: stored[name].clone() for name in names[number::files]}
        save_file(part, folder / file)
        placed |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder
