# SPDX-License-Identifier: Apache-2.0
"""What the tests that run on every family share: prompts by name, the order of merged tokens, a second turn."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import prunevid
from engine.families import FAMILIES, VideoPrompt, build, make_inputs, make_prompt
from engine.tiny import SPECIAL, VOCABULARY, generate
from prunevid import models

PARTS: dict[str, tuple[Any, ...]] = {
    "one": (5, (3, 2), 6),
    "other": (2, (2, 3), 9),
    "two": (3, (5,), 4, (3, 2), 5),
    "text": (7,),
}
ONE, BATCH = ["one"], ["one", "other", "text", "two"]


def prompts_of(family: str, names: list[str]) -> list[VideoPrompt]:
    """The prompts of these names, rendered for a family."""
    return [make_prompt(family, *PARTS[name], seed=list(PARTS).index(name)) for name in names]


def used(family: str, kernel: str = "sdpa") -> Any:
    """A model that has answered once: transformers leaves recorders of its own on some towers at the first call."""
    model = build(family, kernel)
    generate(model, make_inputs(*prompts_of(family, ONE)), 1)
    return model


def attach(model: Any, family: str, config: Any, **overrides: Any) -> prunevid.Pruning:
    """Attaches with what the family needs to know."""
    return prunevid.attach(model, config, **FAMILIES[family].attach, **overrides)


def order_of(model: Any, config: Any) -> str:
    """The order of merged tokens that "auto" means; the reference permutes nothing but unbroken runs."""
    adapter = models.adapter_for(model)
    usual = adapter.token_order if adapter.contiguous else "raster"
    return usual if config.token_order == "auto" else config.token_order


@functools.cache
def _repeats_rows(family: str, names: tuple[str, ...]) -> bool:
    """Whether the plain model gives every repeated row of these prompts the row's own videos."""
    model, inputs = build(family), make_inputs(*prompts_of(family, list(names)))
    expected = torch.stack(generate(model, inputs, 1).logits)[0].repeat_interleave(2, dim=0)
    try:
        found = generate(model, inputs, 1, do_sample=True, num_return_sequences=2).logits[0]
    except (IndexError, RuntimeError, ValueError):
        return False
    return bool((found - expected).abs().max() < 1e-4)


def repeatable(family: str, names: list[str]) -> list[VideoPrompt]:
    """These prompts, or such with one video a row, or a skipped test, by what transformers itself gets right.

    For beams and several return sequences 5.17 and 5.18 repeat the videos (or pictures) of a row one by one, so that
    two of them come as A, A, B, B instead of A, B, A, B.
    """
    single = ["other" if name == "two" else name for name in names]
    for chosen in (names, single):
        if _repeats_rows(family, tuple(chosen)):
            return prompts_of(family, chosen)
    pytest.skip("this transformers repeats the frames of a row one by one for beams, without pruning too")


def follow_up(family: str, out: Any, prompt: VideoPrompt, text: int, drop: int = 0) -> dict[str, Any]:
    """Inputs of a second turn: the whole conversation so far (less `drop` tokens), then new text."""
    new = torch.randint(len(SPECIAL), VOCABULARY, (len(out.sequences), text))
    ids = torch.cat([out.sequences[:, : out.sequences.shape[1] - drop], new], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if FAMILIES[family].kinds:
        inputs["mm_token_type_ids"] = torch.zeros_like(ids)
        inputs["mm_token_type_ids"][:, : len(prompt)] = prompt.kinds
    return inputs
