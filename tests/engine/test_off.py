# SPDX-License-Identifier: Apache-2.0
"""Attached but with nothing to do, the model computes bit for bit what it computes alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prunevid
from engine.prompts import IMAGE_FIRST, IMAGE_ONLY, ONE, OTHER, TEXT, TWO_VIDEOS, settings
from engine.tiny import FAMILIES, KERNELS, build, generate, make_inputs
from prunevid.config import get_baseline_config

KNOBS = dict(tau=1.5, cluster_ratio=1, keep_ratio=1, pruning_layer=1)
OFF: dict[str, Any] = {
    "baseline": get_baseline_config(),
    "none": "none",
    "nothing to drop": prunevid.PruneVidConfig(**KNOBS),
    "nothing to drop, published order": prunevid.PruneVidConfig(**KNOBS, token_order="merged"),
    "nothing to drop, no stage 1": prunevid.PruneVidConfig(**KNOBS, enable_stage1=False),
    "nothing to drop, cache kept": prunevid.PruneVidConfig(**KNOBS, enable_cache_compression=False),
}
PROMPTS = {
    "video": [ONE],
    "batch": [ONE, OTHER, TEXT, TWO_VIDEOS],
    "image and video": [IMAGE_FIRST],
}
NO_VIDEO = {"text": [TEXT], "image": [IMAGE_ONLY], "text and image": [TEXT, IMAGE_ONLY]}


def _check(family: str, kernel: str, prompts: list[Any], config: Any) -> None:
    model = build(family, kernel)
    inputs = make_inputs(*prompts)
    expected = generate(model, inputs)
    with torch.no_grad():
        forward = model(**inputs).logits
    with prunevid.attach(model, config):
        found = generate(model, inputs)
        with torch.no_grad():
            found_forward = model(**inputs).logits
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))
    assert torch.equal(found_forward, forward)
    after = generate(model, inputs)
    assert torch.equal(torch.stack(after.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_drop_is_bit_equal(family: str, kernel: str, off: str, prompts: str) -> None:
    _check(family, kernel, PROMPTS[prompts], OFF[off])


@pytest.mark.parametrize("prompts", NO_VIDEO)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_without_a_video_are_bit_equal(family: str, kernel: str, prompts: str) -> None:
    _check(family, kernel, NO_VIDEO[prompts], settings(family))
