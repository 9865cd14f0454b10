# SPDX-License-Identifier: Apache-2.0
"""Pruned generation gives the logits of the reference, in which nothing is dropped and masks hide instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prunevid
from engine.masked_reference import compare, plain_copy
from engine.prompts import IMAGE_FIRST, IMAGE_LAST, IMAGE_ONLY, ONE, OTHER, TEXT, TWO_VIDEOS, settings
from engine.tiny import FAMILIES, KERNELS, LAYERS, build, generate, make_inputs

BATCH = [ONE, OTHER, TEXT, TWO_VIDEOS]
SCENARIOS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "one": ([ONE], {}),
    "batch": (BATCH, {}),
    "two videos": ([TWO_VIDEOS], {}),
    "image before": ([IMAGE_FIRST], {}),
    "image after": ([IMAGE_LAST, ONE], {}),
    "image pruned too": ([IMAGE_FIRST], {"prune_images": True}),
    "images pruned too, batch": ([IMAGE_LAST, TEXT, IMAGE_ONLY, ONE], {"prune_images": True, "token_order": "merged"}),
    "published order": ([ONE], {"token_order": "merged"}),
    "published order, batch": (BATCH, {"token_order": "merged"}),
    "static tokens at the first frame": ([ONE], {"static_position": "first"}),
    "stage 1 only": (BATCH, {"enable_stage2": False}),
    "stage 2 only": (BATCH, {"enable_stage1": False}),
    "no cache compression": ([ONE], {"enable_cache_compression": False}),
    "no cache compression, batch": (BATCH, {"enable_cache_compression": False}),
    "no cache compression, published order": (
        [TWO_VIDEOS],
        {"enable_cache_compression": False, "token_order": "merged"},
    ),
    "first layer": (BATCH, {"pruning_layer": 0}),
    "last layer": (BATCH, {"pruning_layer": LAYERS - 1}),
    "last layer, no cache compression": (
        BATCH,
        {"pruning_layer": LAYERS - 1, "enable_cache_compression": False},
    ),
    "mean": ([ONE, TWO_VIDEOS], {"attention_aggregation": "mean"}),
    "global": ([ONE, TWO_VIDEOS], {"keep_scope": "global"}),
    "peaks": ([ONE, TWO_VIDEOS], {"keep_rule": "peaks"}),
    "peaks, global, batch": (BATCH, {"keep_rule": "peaks", "keep_scope": "global", "enable_stage1": False}),
    "rotary": ([ONE, TWO_VIDEOS], {"score_rope": True}),
    "causal": ([ONE, TWO_VIDEOS], {"score_causal": True}),
    "rotary causal mean global": (
        BATCH,
        {"score_rope": True, "score_causal": True, "attention_aggregation": "mean", "keep_scope": "global"},
    ),
    "rotary, published order": ([ONE, OTHER], {"score_rope": True, "token_order": "merged"}),
    "nothing kept": ([ONE, OTHER], {"keep_ratio": 0.01}),
    "nothing kept, by zero": ([ONE, OTHER], {"keep_ratio": 0}),
    "everything kept": ([ONE, OTHER], {"keep_ratio": 1}),
    "everything static": ([ONE, OTHER], {"tau": -1, "cluster_ratio": 0.3}),
    "everything dynamic": ([ONE, OTHER], {"tau": 2, "dpc_knn_k": 7}),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_every_step(family: str, kernel: str, scenario: str) -> None:
    prompts, overrides = SCENARIOS[scenario]
    config = settings(family, **overrides)
    model = build(family, kernel)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(*prompts), 4)
    compare(plain_copy(model), prompts, out, config, config.token_order)


@pytest.mark.parametrize("family", FAMILIES)
def test_default_order_is_the_adapter_s(family: str) -> None:
    model = build(family)
    config = settings(family, token_order="auto")
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(ONE))
    compare(plain_copy(model), [ONE], out, config, prunevid.models.adapter_for(model).token_order)


def test_real_frame_times_move_the_positions() -> None:
    """Qwen2.5-VL spaces the temporal positions by second_per_grid_ts; kept tokens keep theirs."""
    from engine.tiny import make_clip, make_prompt

    model = build("qwen2_5_vl")
    config = settings("qwen2_5_vl")
    prompt = make_prompt(4, make_clip((3, 3), seconds=2.5), 5)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(prompt))
    compare(plain_copy(model), [prompt], out, config)


@pytest.mark.parametrize("scenario", ["batch", "no cache compression, batch", "image after"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_row_is_the_row_alone(family: str, scenario: str) -> None:
    prompts, overrides = SCENARIOS[scenario]
    model = build(family)
    with prunevid.attach(model, settings(family, **overrides)):
        together = generate(model, make_inputs(*prompts), 6)
        alone = [generate(model, make_inputs(prompt), 6) for prompt in prompts]
    width = max(len(prompt) for prompt in prompts)
    for row, (prompt, own) in enumerate(zip(prompts, alone)):
        assert together.sequences[row, width:].tolist() == own.sequences[0, len(prompt) :].tolist()
        rows = torch.stack(together.logits)[:, row]
        torch.testing.assert_close(rows, torch.cat(own.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_forward_and_a_hand_written_decode_loop(family: str, kernel: str) -> None:
    """`model(**inputs)` without a cache argument makes its own cache inside; a loop goes on with it."""
    from engine.masked_reference import reference

    model, config = build(family, kernel), settings(family)
    inputs = make_inputs(ONE)
    plain = plain_copy(model)
    steps, ids = [], []
    with prunevid.attach(model, config), torch.no_grad():
        out = model(**inputs)
        for _ in range(3):
            steps.append(out.logits[0, -1])
            ids.append(int(steps[-1].argmax()))
            out = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=out.past_key_values)
    ref = reference(plain, ONE, torch.tensor(ids), config)
    torch.testing.assert_close(torch.stack(steps), ref.logits[len(ONE) - 1 : -1], atol=1e-5, rtol=0)
