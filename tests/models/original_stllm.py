# SPDX-License-Identifier: Apache-2.0
"""ST-LLM checkpoints as the original writes them: names and shapes listed by hand, and tiny ones on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizer, LlamaTokenizer

PREFIX = "model.stllm_model."
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Sizes:
    """Of the published model, or of a tiny one."""

    width: int = 1408
    mlp: int = 6144
    blocks: int = 39
    branch: int = 3
    patches: int = 256
    patch: int = 14
    query: int = 768
    query_mlp: int = 3072
    query_layers: int = 12
    query_words: int = 30523
    query_places: int = 512
    text: int = 4096
    text_mlp: int = 11008
    text_layers: int = 32
    words: int = 32001
    inner: int = 1024


TINY = Sizes(32, 48, 4, 2, 16, 4, 24, 32, 2, 0, 64, 16, 24, 2, 0, 8)


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return shapes | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vision(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The ViT, under the names of its own file."""
    width = sizes.width
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width), "pos_embed": (1, sizes.patches + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, sizes.patch, sizes.patch), "patch_embed.proj.bias": (width,)}
    for block in range(sizes.blocks):
        shapes |= attending(f"blocks.{block}", sizes) | norm(f"blocks.{block}.norm2", width)
        shapes |= linear(f"blocks.{block}.mlp.fc1", sizes.mlp, width)
        shapes |= linear(f"blocks.{block}.mlp.fc2", width, sizes.mlp)
    return shapes


def attending(name: str, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    width = sizes.width
    shapes = norm(f"{name}.norm1", width) | linear(f"{name}.attn.qkv", 3 * width, width, bias=False)
    shapes |= {f"{name}.attn.q_bias": (width,), f"{name}.attn.v_bias": (width,)}
    return shapes | linear(f"{name}.attn.proj", width, width)


def branch(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The BT-Adapter, under the names that it has in the ViT."""
    width = sizes.width
    shapes: dict[str, tuple[int, ...]] = {"BTAdapter_cls": (1, 1, width), "BTAdapter_position.weight": (64, width)}
    for block in range(sizes.branch):
        shapes |= attending(f"BTAdapter_S.{block}", sizes) | norm(f"BTAdapter_S.{block}.norm2", width)
        shapes |= linear(f"BTAdapter_S.{block}.mlp.fc1", sizes.mlp, width)
        shapes |= linear(f"BTAdapter_S.{block}.mlp.fc2", width, sizes.mlp)
        shapes |= attending(f"BTAdapter_T.{block}", sizes)
        shapes |= linear(f"BTAdapter_T.{block}.temporal_fc", width, width)
    return shapes


def queries(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The Q-Former, its slots and the layer norm before it, under the names of their own file."""
    width, start = sizes.query, "Qformer.bert.embeddings."
    shapes: dict[str, tuple[int, ...]] = {"query_tokens": (1, 32, width)} | norm("ln_vision", sizes.width)
    shapes |= {f"{start}word_embeddings.weight": (sizes.query_words, width)}
    shapes |= {f"{start}position_embeddings.weight": (sizes.query_places, width)}
    shapes |= norm(f"{start}LayerNorm", width)
    for layer in range(sizes.query_layers):
        name = f"Qformer.bert.encoder.layer.{layer}"
        for kind in ("attention", "crossattention") if layer % 2 == 0 else ("attention",):
            seen = sizes.width if kind == "crossattention" else width
            shapes |= linear(f"{name}.{kind}.self.query", width, width)
            shapes |= linear(f"{name}.{kind}.self.key", width, seen)
            shapes |= linear(f"{name}.{kind}.self.value", width, seen)
            shapes |= linear(f"{name}.{kind}.output.dense", width, width)
            shapes |= norm(f"{name}.{kind}.output.LayerNorm", width)
        for end in ("", "_query"):
            shapes |= linear(f"{name}.intermediate{end}.dense", sizes.query_mlp, width)
            shapes |= linear(f"{name}.output{end}.dense", width, sizes.query_mlp)
            shapes |= norm(f"{name}.output{end}.LayerNorm", width)
    return shapes


def language(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The language model."""
    width = sizes.text
    shapes: dict[str, tuple[int, ...]] = {name: (sizes.words, width) for name in ("model.embed_tokens.weight",)}
    shapes |= {"lm_head.weight": (sizes.words, width), "model.norm.weight": (width,)}
    for layer in range(sizes.text_layers):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            shapes |= linear(f"{name}.self_attn.{part}_proj", width, width, bias=False)
        for part in ("gate", "up"):
            shapes |= linear(f"{name}.mlp.{part}_proj", sizes.text_mlp, width, bias=False)
        shapes |= linear(f"{name}.mlp.down_proj", width, sizes.text_mlp, bias=False)
        shapes |= {f"{name}.{part}_layernorm.weight": (width,) for part in ("input", "post_attention")}
    return shapes


def visual(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """All that is neither language model nor left out, with both additions."""
    inside = {f"visual_encoder.{name}": shape for name, shape in (vision(sizes) | branch(sizes)).items()}
    inside |= queries(sizes) | linear("llama_proj", sizes.text, sizes.query)
    inside |= linear("down_proj", sizes.inner, sizes.text) | linear("up_proj", sizes.text, sizes.inner)
    return {PREFIX + name: shape for name, shape in inside.items()}


def training_only(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """What the original saves and nothing here needs."""
    return {
        f"{PREFIX}Qformer.bert.embeddings.position_ids": (1, sizes.query_places),
        f"{PREFIX}Qformer.cls.predictions.bias": (sizes.query_words,),
        f"{PREFIX}mvm_decoder.0.weight": (sizes.text, 4),
        f"{PREFIX}embed_tokens.weight": (sizes.words, sizes.text),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
    }


def shapes_of(sizes: Sizes, variant: str) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a checkpoint: "qa" has the BT-Adapter, "conversation" the residual's layers."""
    unused = ("BTAdapter",) if variant == "conversation" else ("down_proj", "up_proj")
    kept = {name: shape for name, shape in visual(sizes).items() if not any(part in name for part in unused)}
    return kept | language(sizes) | training_only(sizes)


# ---- on disk ---------------------------------------------------------------------------------------------------------


def llama_tokenizer() -> Any:
    """Letters, bytes and Vicuna's special tokens, with ST-LLM's own meaning of them."""
    characters = [*LETTERS, *LETTERS.upper(), *"\u2581#:?.,()0123456789\n-"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    special = {f"{name}_token": "</s>" for name in ("bos", "eos", "unk")}
    return LlamaTokenizer({word: place for place, word in enumerate(vocabulary)}, [], **special)


def bert_tokenizer() -> Any:
    """Letters, in and after the start of a word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *"?:().,"]
    return BertTokenizer({word: place for place, word in enumerate(words)})


def tiny() -> Sizes:
    """Tiny sizes with the vocabularies of the tokenizers above, a token more in each."""
    words, asked = len(llama_tokenizer()) + 1, len(bert_tokenizer()) + 1
    return Sizes(**{**vars(TINY), "words": words, "query_words": asked})


PARTS: dict[str, Any] = {  # what the converter takes from the published model, in the tiny one
    "vision_config": dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=16, patch_size=4
    ),
    "qformer_config": dict(
        vocab_size=len(bert_tokenizer()) + 1, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64,
    ),
}  # fmt: skip


def random_weights(variant: str, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a tiny checkpoint: half precision, as they are published, but for the buffers."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes_of(tiny(), variant).items():
        fan = shape[-1] if len(shape) > 1 else 4
        value = torch.randn(shape, generator=generator) / fan**0.5 + ("orm" in name and name.endswith("weight"))
        weights[name] = torch.arange(shape[1])[None] if name.endswith("position_ids") else value.half()
    return weights


def write(folder: Path, weights: dict[str, Tensor]) -> Path:
    """A downloaded folder: two files of pickled tensors with their index, settings and tokenizers."""
    folder.mkdir(parents=True)
    names = sorted(weights)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: weights[name].clone() for name in part}, folder / file)
        placed |= {name: file for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    sizes = tiny()
    llama = {"hidden_size": sizes.text, "intermediate_size": sizes.text_mlp, "num_hidden_layers": sizes.text_layers}
    llama |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": 9}
    settings = llama | {"model_type": "llama", "architectures": ["STLLMForCausalLM"], "rms_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(settings))
    llama_tokenizer().save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder / "qformer_tokenizer")
    return folder
