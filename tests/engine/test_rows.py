# SPDX-License-Identifier: Apache-2.0
"""Rows of every family that are padded, moved, taken out, repeated or go on together, each against its reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.families import FAMILIES, build, make_inputs, make_prompt, settings
from engine.masked_reference import plain_copy, reference
from engine.matrix import ONE, attach, order_of, prompts_of
from engine.tiny import KERNELS, PAD, generate

CACHES: list[dict[str, Any]] = [{}, {"enable_cache_compression": False}]
NOTHING = torch.tensor([], dtype=torch.long)


def text(family: str, count: int, seed: int) -> Tensor:
    """(count,) ids of random text."""
    return make_prompt(family, count, seed=seed).ids


def extended(inputs: dict[str, Any], ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Inputs of a later turn: what came before and (B, n) more ids with their mask, without any pixels."""
    longer = {"input_ids": torch.cat([inputs["input_ids"], ids], 1)}
    longer["attention_mask"] = torch.cat([inputs["attention_mask"], mask], 1)
    if "mm_token_type_ids" in inputs:
        longer["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], 1)
    return longer


def last_positions(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Positions of the last token of every row of the unpruned prompt as a bare forward pass numbers them: (3, B, 1),
    or (B, 1) on one axis, where it counts the padding too."""
    if "mm_token_type_ids" not in inputs:
        return torch.full_like(inputs["input_ids"][:, :1], inputs["input_ids"].shape[1] - 1)
    return model.model.get_rope_index(**{k: v for k, v in inputs.items() if "pixel" not in k})[0][..., -1:]


@pytest.mark.parametrize("overrides", [{}, {"enable_stage2": False}], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding(family: str, kernel: str, overrides: dict[str, Any]) -> None:
    """A forward pass over right-padded rows: the pruned rows end at the end, each with its own last token."""
    model, config = build(family, kernel), settings(family, **overrides)
    prompts = prompts_of(family, ["other", "one", "text"])
    inputs = make_inputs(*prompts)
    for row, prompt in enumerate(prompts):
        empty = inputs["input_ids"].shape[1] - len(prompt)
        for name in {"input_ids", "attention_mask", "mm_token_type_ids"} & set(inputs):
            inputs[name][row] = inputs[name][row].roll(-empty)
    assert inputs["input_ids"][2, -1] == PAD
    with attach(model, family, config), torch.no_grad():
        logits = model(**inputs).logits
    plain = plain_copy(model)
    for row, prompt in enumerate(prompts):
        ref = reference(plain, prompt, NOTHING, config, order_of(model, config))
        torch.testing.assert_close(logits[row, -3:], ref.logits[-3:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("overrides", CACHES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_prefill_answered_twice_from_copies_of_the_cache(
    family: str, kernel: str, overrides: dict[str, Any]
) -> None:
    model, config = build(family, kernel), settings(family, **overrides)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ONE)
    before = make_inputs(prompt)
    with attach(model, family, config), torch.no_grad():
        cache = model(**before).past_key_values
        for seed in (1, 2):
            tail = text(family, 3 + seed, seed)[None]
            inputs = extended(before, tail, torch.ones_like(tail))
            out = generate(model, inputs, 3, past_key_values=copy.deepcopy(cache))
            ref = reference(plain, prompt, out.sequences[0, len(prompt) :], config, order_of(model, config))
            torch.testing.assert_close(torch.cat(out.logits), ref.logits[-4:-1], atol=1e-5, rtol=0)
        assert cache.get_seq_length() == len(prompt)


@pytest.mark.parametrize("overrides", CACHES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_of_a_padded_batch(family: str, kernel: str, overrides: dict[str, Any]) -> None:
    """Rows of different lengths go on together; their second questions are left-padded too."""
    model, config = build(family, kernel), settings(family, **overrides)
    plain, prompts = plain_copy(model), prompts_of(family, ["other", "two", "text"])
    before = make_inputs(*prompts)
    width = before["input_ids"].shape[1]
    tails = [text(family, count, seed) for count, seed in ((5, 1), (3, 2), (4, 3))]
    with attach(model, family, config):
        first = generate(model, before, 3)
        padding = torch.tensor([[i < 5 - len(tail) for i in range(5)] for tail in tails])
        tail = torch.full((3, 5), PAD).masked_scatter(~padding, torch.cat(tails))
        new = torch.cat([first.sequences[:, width:], tail], 1)
        mask = torch.cat([torch.ones(3, 3, dtype=torch.long), (~padding).long()], 1)
        second = generate(model, extended(before, new, mask), 3, past_key_values=first.past_key_values)
    logits = torch.stack(second.logits, dim=1)
    for row, prompt in enumerate(prompts):
        new = torch.cat([first.sequences[row, width:], tails[row], second.sequences[row, -3:]])
        ref = reference(plain, prompt, new, config, order_of(model, config))
        torch.testing.assert_close(logits[row], ref.logits[-4:-1], atol=1e-5, rtol=0)


REARRANGED: dict[str, tuple[Any, list[int]]] = {
    "reordered": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 1])), [2, 0, 1]),
    "selected": (lambda cache: cache.batch_select_indices(torch.tensor([2, 0])), [2, 0]),
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize("overrides", CACHES, ids=str)
@pytest.mark.parametrize("change", REARRANGED)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_cache_take_their_padding_along(family: str, change: str, overrides: dict[str, Any]) -> None:
    """Rows that were padded by different amounts are moved, taken out and repeated."""
    model, config = build(family), settings(family, **overrides)
    prompts, (rearrange, order) = prompts_of(family, ["other", "one", "text"]), REARRANGED[change]
    inputs, new = make_inputs(*prompts), torch.tensor([[30], [40], [50]])
    positions = last_positions(model, inputs) + 1
    with attach(model, family, config), torch.no_grad():
        cache = model(**inputs).past_key_values
        rearrange(cache)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
        logits = model(
            input_ids=new[order],
            attention_mask=mask[order],
            position_ids=positions[..., order, :],
            past_key_values=cache,
        ).logits[:, -1]
    plain = plain_copy(model)
    for row, index in enumerate(order):
        ref = reference(plain, prompts[index], new[index], config, order_of(model, config))
        torch.testing.assert_close(logits[row], ref.logits[-1], atol=1e-5, rtol=0)
