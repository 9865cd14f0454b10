# SPDX-License-Identifier: Apache-2.0
"""One call of `model.generate` and what to take from it: texts, statistics, times, counted FLOPs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from prunevid.engine.timing import now
from prunevid.models import adapter_for, base_of
from prunevid.stats import measure_flops

_SAMPLING = (
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "generation_config",
)


_CONTEXT = 8  # tokens of the prompt that are decoded together with the answer


@dataclass(frozen=True)
class Run:
    """What one call gave, an entry for each row of the batch; `continuations` as `Answer.continuation`."""

    texts: list[list[str]]
    stats: list[dict[str, Any]]
    maps: list[list[Any]]
    continuations: list[str]


def input_device(model: Any) -> torch.device:
    """Where a model's inputs go: its device, or, where its weights are offloaded, the one that it computes on."""
    device = torch.device(model.device)
    if device.type != "meta":
        return device
    place = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if place is None:
        place = next((weight.device for weight in model.parameters() if weight.device.type != "meta"), "cpu")
    return torch.device(place)


def greedy_by_default(model: Any, processor: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` that decode greedily unless `kwargs` say anything about sampling."""
    options = dict(kwargs)
    if not any(name in options for name in _SAMPLING):
        # The model's own generation config may ask for sampling; its temperature would only make a warning.
        options.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    elif "do_sample" not in options and "generation_config" not in options:
        options["do_sample"] = True
    known = getattr(getattr(model, "generation_config", None), "pad_token_id", None)
    padding = getattr(getattr(processor, "tokenizer", None), "pad_token_id", None)
    if known is None and padding is not None:
        options.setdefault("pad_token_id", padding)
    return options


def generate(model: Any, processor: Any, inputs: dict[str, Any], options: dict[str, Any], pruning: Any) -> Run:
    """Generates for a batch and reads the pruning's statistics.

    Args:
        inputs: from `prunevid.prompting.Prompter.encode`; B rows of S tokens, padded on the left.
        options: for `model.generate`.
        pruning: the handle that is attached to the model.

    Returns:
        B rows; several texts a row where several sequences were asked for. `decode` in the milliseconds is
        what is left of the call when vision, merge and prefill are taken off.
    """
    device = input_device(model)
    started = now(device)
    out = model.generate(**inputs, **options)
    spent = now(device) - started
    sequences = getattr(out, "sequences", out)
    rows, prompt = inputs["input_ids"].shape
    texts = processor.tokenizer.batch_decode(sequences[:, prompt:], skip_special_tokens=True)
    each = max(1, len(texts) // rows)
    stats = _one_per_row(pruning.stats, rows)
    for row in stats:
        times = row.get("milliseconds")
        if times is not None:
            known = times.get("vision", 0.0) + times.get("merge", 0.0) + times.get("prefill", 0.0)
            times["decode"] = max(0.0, spent - known)
    return Run(
        [[text.strip() for text in texts[row * each : (row + 1) * each]] for row in range(rows)],
        stats,
        _one_per_row(getattr(pruning, "maps", None), rows, list),
        [_continuation(processor.tokenizer, row, prompt) for row in sequences[:: max(1, len(sequences) // rows)]],
    )


def _continuation(tokenizer: Any, ids: Any, prompt: int) -> str:
    """What follows the prompt in the text of a whole sequence, with the space that it begins with.

    Tokenizers that mark a word's start within its first token lose that space when the new tokens are decoded alone.
    """
    start = max(0, prompt - _CONTEXT)
    head, whole = (tokenizer.decode(ids[start:end], skip_special_tokens=True) for end in (prompt, len(ids)))
    if whole.startswith(head):
        return str(whole[len(head) :])
    return str(tokenizer.decode(ids[prompt:], skip_special_tokens=True))


def _one_per_row(entries: Any, rows: int, empty: Any = dict) -> list[Any]:
    """Entry for each row; beams and several sequences repeat a row's entry, of which the first is taken."""
    entries = list(entries or [])
    if not entries or len(entries) % rows:
        return [empty() for _ in range(rows)]
    return [copy.deepcopy(entry) if empty is dict else entry for entry in entries[:: len(entries) // rows]]


def count_prefill(model: Any, inputs: dict[str, Any]) -> int:
    """FLOPs of the language model in one prefill of these inputs, counted, with whatever is attached to the model.

    Merging and scoring count where they happen in it; the vision tower and the output projection don't, as pruning
    leaves them alone.
    """
    language_model = adapter_for(model).language_model(base_of(model))
    name = next(name for name, module in model.named_modules() if module is language_model)
    options = greedy_by_default(model, None, {"max_new_tokens": 1})
    return measure_flops(lambda: model.generate(**inputs, **options), f"{type(model).__name__}.{name}")[0]
