# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of the families that lmms-eval has classes for, saved as the folders that those classes load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app import tiny_qwen
from app.test_families_qa import MODELS, PROCESSORS
from engine.families import build

# What each of our names runs on here, with arguments that its class needs on a CPU and for small pictures.
_QWEN = "device_map=cpu,min_pixels=4096,max_pixels=4096"
ARGUMENTS = {
    "prunevid_qwen2_vl": ("qwen2_vl", f"{_QWEN},max_num_frames=8"),
    "prunevid_qwen3_vl": ("qwen3_vl", f"{_QWEN},max_num_frames=8"),
    "prunevid_llava_onevision": ("llava_onevision", "max_frames_num=8,dtype=float32"),
}
# As in the published checkpoints, where the tokenizer's template takes a message as text.
_LLAVA = {"image": "<image>", "video": "<video>"}
_TEXT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def save(family: str, folder: Path) -> Path:
    """Writes a model of the family and its processor, whose token ids agree."""
    model, processor = MODELS.get(family, build)(family), PROCESSORS[family][0]()
    tokens = {"image": tiny_qwen.SPECIAL[6], "video": tiny_qwen.SPECIAL[7]}
    if family == "llava_onevision":
        tokens = _LLAVA
        _rename(processor, tokens)
        model.resize_token_embeddings(len(processor.tokenizer))
    for kind, token in tokens.items():
        number = processor.tokenizer.convert_tokens_to_ids(token)
        for name in (f"{kind}_token_index", f"{kind}_token_id"):
            if hasattr(model.config, name):
                setattr(model.config, name, number)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _rename(processor: Any, tokens: dict[str, str]) -> None:
    """Gives a processor other placeholders, and a template for messages of text."""
    processor.tokenizer.add_tokens(list(tokens.values()), special_tokens=True)
    for kind, token in tokens.items():
        setattr(processor, f"{kind}_token", token)
        setattr(processor, f"{kind}_token_id", processor.tokenizer.convert_tokens_to_ids(token))
    processor.chat_template = processor.tokenizer.chat_template = _TEXT_TEMPLATE
