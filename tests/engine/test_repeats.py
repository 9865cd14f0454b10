# SPDX-License-Identifier: Apache-2.0
"""Several sequences of a prompt with several pictures or videos: right, or refused where transformers is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.families import build, make_inputs, settings
from engine.matrix import attach, prompts_of
from engine.tiny import generate
from prunevid.engine.repeats import refuse_interleaved, refuse_mixed
from prunevid.errors import UnsupportedError


def _equal(model: Any, prompts: list[Any], **options: Any) -> bool:
    """Whether all sequences of a prompt have the logits of the prompt alone."""
    together = torch.stack(generate(model, make_inputs(*prompts), 2, **options).logits)
    alone = [torch.stack(generate(model, make_inputs(prompt), 2).logits) for prompt in prompts]
    expected = torch.cat([logits for logits in alone for _ in range(together.shape[1] // len(prompts))], dim=1)
    return bool((together - expected).abs().max() < 1e-4)


@pytest.mark.parametrize("names", [["one"], ["two"], ["text", "one"], ["two", "text"]], ids="-".join)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "video_llava", "internvl", "smolvlm"])
def test_refused_only_where_the_plain_model_is_wrong(family: str, names: list[str]) -> None:
    model, prompts = build(family), prompts_of(family, names)
    options: dict[str, Any] = {"num_return_sequences": 2, "do_sample": True, "top_k": 1}
    right = _equal(model, prompts, **options)
    with attach(model, family, settings(family)):
        if right:
            assert _equal(model, prompts, **options)
            return
        with pytest.raises(UnsupportedError, match="2 beams or return sequences"):
            generate(model, make_inputs(*prompts), 2, num_beams=2)
        generate(model, make_inputs(*prompts), 2)


A, B, C = (torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
CASES: dict[str, tuple[list[int], list[int], list[torch.Tensor], bool]] = {
    # prompts of the rows, placeholders of the rows, pictures, refused
    "by rows": ([0, 0], [4, 4], [A, B, A, B], False),
    "one by one": ([0, 0], [4, 4], [A, A, B, B], True),
    "one a row": ([0, 0, 1, 1], [2, 2, 2, 2], [A, A, B, B], False),
    "two prompts": ([0, 0, 1, 1], [4, 4, 2, 2], [A, A, B, B, C, C], True),
    "two prompts by rows": ([0, 0, 1, 1], [4, 4, 2, 2], [A, B, A, B, C, C], False),
    "none in one": ([0, 0, 1, 1], [0, 0, 4, 4], [A, A, B, B], True),
    "four copies": ([0, 0, 0, 0], [4] * 4, [A] * 4 + [B] * 4, True),
    "still pictures": ([0, 0], [4, 4], [A, A, A, A], False),
    "other prompts": ([0, 1], [4, 4], [A, A, B, B], False),
    "one row": ([0], [8], [A, A, B, B], False),
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_that_were_repeated_one_by_one(case: str) -> None:
    prompts, counts, pictures, refused = CASES[case]
    ids = torch.tensor([[10 + prompt] * 9 for prompt in prompts])
    placeholders = torch.arange(9)[None] < torch.tensor(counts)[:, None]
    if refused:
        with pytest.raises(UnsupportedError, match="update transformers"):
            refuse_interleaved(ids, placeholders, torch.stack(pictures))
    else:
        refuse_interleaved(ids, placeholders, torch.stack(pictures))


@pytest.mark.parametrize(
    ("entries", "tokens", "refused"),
    [
        ([A, B, A, B], [6, 6], False),
        ([A, A, B, B], [6, 6], True),
        ([A, A, B, B], [3, 3, 3, 3], False),
        ([A, A, B, C, B, C], [3, 3, 6, 6], False),
        ([A, A, B, B, C, C], [3, 3, 6, 6], True),
        ([A[:0], A[:0], B, C, B, C], [0, 0, 6, 6], False),
        ([A, A, A, A], [6, 6], False),
    ],
)
def test_features_that_were_repeated_one_by_one(entries: list[torch.Tensor], tokens: list[int], refused: bool) -> None:
    if refused:
        with pytest.raises(UnsupportedError, match="update transformers"):
            refuse_mixed(entries, tokens, 2)
    else:
        refuse_mixed(entries, tokens, 2)
    refuse_mixed(entries, tokens, 1)
