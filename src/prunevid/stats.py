# SPDX-License-Identifier: Apache-2.0
"""What one run kept and what it cost: token counts, FLOPs, bytes, and the nested dictionary that reports
them.

Source: `docs/algorithm.md`, section "Accounting". The keys of `row_stats` are a contract with other programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Result = TypeVar("Result")

STAGES = ("decode_video", "vision", "merge", "prefill", "decode")
"""The keys of `stats["milliseconds"]`, in the order in which a question passes them."""


def decoder_flops(tokens: int, hidden: int, mlp: int) -> float:
    """FLOPs of one decoder layer in one prefill, by FastV's formula, which the paper's table follows.

    4nd^2 (the four projections) + 2n^2d (the two attention products) + 2ndm (an MLP of two matrices). Gated
    MLPs have three matrices, and grouped keys and values need less than 4nd^2: `measure_flops` gives the real
    count.

    Args:
        tokens: n, tokens of the whole sequence (text and visual).
        hidden: d, width of the model.
        mlp: m, inner width of the MLP.
    """
    n, d, m = float(tokens), float(hidden), float(mlp)
    return 4 * n * d * d + 2 * n * n * d + 2 * n * d * m


def flops_ratio(
    original: int, merged: int, kept: int, layers: int, selection_layer: int | None, hidden: int, mlp: int
) -> float:
    """FLOPs of the pruned prefill of the language model, as a share of the unpruned one's.

    Args:
        original: tokens of the whole unpruned sequence.
        merged: tokens of the whole sequence after stage 1; layers 0 ... M see these.
        kept: tokens of the whole sequence after stage 2; layers M + 1 ... see these.
        layers: decoder layers of the model.
        selection_layer: M, the 0-based layer after which stage 2 drops tokens; None where stage 2 does not
            act.
        hidden: width of the model.
        mlp: inner width of its MLP.

    Returns:
        The ratio, in (0, 1] for a pruned run; 1.0 for an empty sequence.
    """
    before = layers if selection_layer is None else min(selection_layer + 1, layers)
    pruned = before * decoder_flops(merged, hidden, mlp) + (layers - before) * decoder_flops(kept, hidden, mlp)
    unpruned = layers * decoder_flops(original, hidden, mlp)
    return pruned / unpruned if unpruned else 1.0


def row_stats(
    *,
    original: int,
    merged: int,
    kept: int,
    held: int | None = None,
    static: int,
    scenes: int,
    selection_layer: int | None,
    original_bytes: int,
    compressed_bytes: int,
    flops_ratio: float,
    milliseconds: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """The report of one row of a prefill, with exactly the contract's keys.

    Args:
        original: visual tokens of the unpruned model.
        merged: visual tokens after stage 1.
        kept: visual tokens after stage 2.
        held: those of `kept` that the cache holds after the prompt; None: all of them.
        static: those of `merged` that are static.
        scenes: scenes that stage 1 found, summed over the row's videos.
        selection_layer: layer after which stage 2 acted; None where it did not.
        original_bytes: bytes that the row's keys and values would have without pruning, right after the
            prefill.
        compressed_bytes: bytes that they have.
        flops_ratio: see `flops_ratio`.
        milliseconds: any of `STAGES`; a missing one counts as 0.0.

    Returns:
        `stage1`: original_tokens, compressed_tokens, reduction_percentage (0 ... 100), static_ratio (static
        share of the merged tokens), num_segments. `stage2`: original_tokens, compressed_tokens,
            reduction_percentage, layer.
        `stage3`: original_bytes, compressed_bytes, reduction_ratio (share of the bytes saved, 0 ... 1).
        `total`: retained_ratio (held / original), flops_ratio. `milliseconds`: the five stages.
        A row without visual tokens has nothing reduced: percentages 0, retained_ratio 1.
    """
    return {
        "stage1": {
            "original_tokens": int(original),
            "compressed_tokens": int(merged),
            "reduction_percentage": 100.0 * _saved(original, merged),
            "static_ratio": static / merged if merged else 0.0,
            "num_segments": int(scenes),
        },
        "stage2": {
            "original_tokens": int(merged),
            "compressed_tokens": int(kept),
            "reduction_percentage": 100.0 * _saved(merged, kept),
            "layer": selection_layer,
        },
        "stage3": {
            "original_bytes": int(original_bytes),
            "compressed_bytes": int(compressed_bytes),
            "reduction_ratio": _saved(original_bytes, compressed_bytes),
        },
        "total": {
            "retained_ratio": (kept if held is None else held) / original if original else 1.0,
            "flops_ratio": float(flops_ratio),
        },
        "milliseconds": {stage: float(milliseconds.get(stage, 0.0)) for stage in STAGES},
    }


def _saved(before: int, after: int) -> float:
    """The share that is gone, 0 where there was nothing."""
    return 1.0 - after / before if before else 0.0


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values that a transformers `Cache` holds, read from its tensors.

    Layers that hold no tensors yet count as nothing. A `StaticCache` counts its whole buffer.
    """
    total = 0
    for layer in getattr(cache, "layers", ()):
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            if tensor is not None:
                total += int(tensor.nbytes)
    return total


def measure_flops(run: Callable[[], Result], module: str = "Global") -> tuple[int, Result]:
    """Counts what a call really multiplies, with torch's FlopCounterMode.

    A multiplication with its addition counts two, as in `decoder_flops`.

    Args:
        run: what to count.
        module: name of a module's class, or that with the path to a submodule ("Model.language_model"): only
            what happens in its forward counts. "Global": everything.

    Returns:
        The count, and what `run` returned.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    missing = {} if on_cpu in flop_registry else {on_cpu: _attention_flops}  # torch 2.11 to 2.14 count nothing there
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        result = run()
    return int(sum(counter.get_flop_counts().get(module, {}).values())), result


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Both products of attention, masked or not, by the shapes (B, H, L, d) of its inputs, as torch counts them."""
    return int(2 * query[0] * query[1] * query[2] * key[2] * (query[3] + value[3]))


def describe(stats: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for people: visual tokens through the stages, share of FLOPs, and the cache."""
    first, second, third = stats["stage1"], stats["stage2"], stats["stage3"]
    total = stats["total"]
    where = "" if second["layer"] is None else f" (after layer {second['layer']})"
    return (
        f"visual tokens {first['original_tokens']} -> {first['compressed_tokens']} -> "
        f"{second['compressed_tokens']}{where}, "
        f"{total['retained_ratio']:.1%} kept; prefill FLOPs {total['flops_ratio']:.1%}; "
        f"cache {third['original_bytes'] / 1024:.0f} -> {third['compressed_bytes'] / 1024:.0f} KiB"
    )
