# SPDX-License-Identifier: Apache-2.0
"""Multiplications of a prefill, counted from the decoder's own weights and the tokens that each layer was given.

A multiplication with its addition counts two. Attention counts the whole square of the sequence, as the paper's formula
and torch's counter do; causal kernels leave nearly half of it out, which `causal` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from prunevid.errors import UnsupportedError


def layer_flops(layer: nn.Module, tokens: int, causal: bool = False) -> int:
    """FLOPs of one decoder layer over a sequence of so many tokens: its linear maps and both products of attention.

    Raises:
        UnsupportedError: a layer whose maps are not all applied to every token (a mixture of experts).
    """
    if any("experts" in name for name, _ in layer.named_modules()):
        raise UnsupportedError("The FLOPs of a mixture of experts can't be counted by its weights; take a dense model.")
    linear = sum(module.weight.numel() for module in layer.modules() if isinstance(module, nn.Linear))
    attention: Any = layer.self_attn
    width = attention.o_proj.in_features  # heads * head_dim
    pairs = tokens * (tokens + 1) // 2 if causal else tokens * tokens
    return 2 * tokens * linear + 4 * pairs * width


def prefill_flops(layers: Sequence[nn.Module], tokens: Sequence[int], causal: bool = False) -> int:
    """FLOPs of all decoder layers, layer i over `tokens[i]` tokens."""
    return sum(layer_flops(layer, count, causal) for layer, count in zip(layers, tokens))


def tokens_of_layers(length: int, maps: Sequence[Any], choices: Sequence[int], depth: int) -> list[int]:
    """Tokens of one row that each decoder layer processes.

    Args:
        length: of the unpruned row.
        maps: its `TokenMap`s.
        choices: the layers after which tokens were chosen.
        depth: number of layers.
    """
    tokens = length - sum(item.layout.cells - item.tokens for item in maps)
    text = length - sum(item.layout.cells for item in maps)
    left = {
        layer: text + sum(item.after_choices[step] for item in maps)
        for step, layer in enumerate(choices)
        if maps and all(len(item.steps) > step for item in maps)
    }
    found = []
    for layer in range(depth):
        found.append(tokens)
        tokens = left.get(layer, tokens)
    return found


def visual_tokens(stats: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Visual tokens of all rows together: of the unpruned prompts, after stage 1, and at the end.

    Args:
        stats: of every row (`Pruning.stats`).
    """
    original = sum(row["stage1"]["original_tokens"] for row in stats)
    merged = sum(row["stage1"]["compressed_tokens"] for row in stats)
    kept = sum(row["total"]["retained_ratio"] * row["stage1"]["original_tokens"] for row in stats)
    return original, merged, round(kept)
