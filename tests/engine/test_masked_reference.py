# SPDX-License-Identifier: Apache-2.0
"""The reference is right itself: it equals the plain model and a really short sequence, and it prunes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import loop_merge
from engine.masked_reference import plain_copy, reference
from engine.tiny import (
    FAMILIES,
    KERNELS,
    TAU,
    build,
    generate,
    make_clip,
    make_image,
    make_inputs,
    make_prompt,
)
from prunevid.config import PruneVidConfig, get_baseline_config

PROMPTS = {
    "one": make_prompt(5, make_clip((3, 3)), 6),
    "two": make_prompt(3, make_clip((3, 2), seed=1), 4, make_clip((4,), (4, 5), seed=2), 5, seed=1),
    "image": make_prompt(3, ("image", make_image()), 2, make_clip((2, 3), seed=3), 5, seed=2),
    "text": make_prompt(9, seed=3),
}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_hiding_nothing_is_the_plain_model(family: str, kernel: str, name: str) -> None:
    model = build(family, kernel)
    prompt = PROMPTS[name]
    out = generate(model, make_inputs(prompt), 4)
    new = out.sequences[0, len(prompt) :]
    for config in (
        get_baseline_config(),
        PruneVidConfig(tau=2, cluster_ratio=1, keep_ratio=1, pruning_layer=1),
    ):
        ref = reference(plain_copy(model), prompt, new, config, "raster")
        torch.testing.assert_close(ref.logits[len(prompt) - 1 : -1], torch.cat(out.logits), atol=1e-5, rtol=0)
        assert ref.kept == ref.original


@pytest.mark.parametrize("order", ["merged", "raster"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hiding_equals_a_short_sequence(family: str, order: str) -> None:
    """Stage 1 alone: the plain language model over the merged tokens only, on their positions."""
    model = build(family)
    prompt = PROMPTS["one"]
    config = PruneVidConfig(tau=TAU[family], temporal_segment_ratio=0.4, enable_stage2=False)
    ref = reference(plain_copy(model), prompt, torch.tensor([], dtype=torch.long), config, order)
    inputs = make_inputs(prompt)
    seen: dict = {}
    hook = model.model.language_model.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    model(**inputs)
    hook.remove()
    start = prompt.kinds.tolist().index(2)
    end = start + len(ref.original)
    features = seen["inputs_embeds"][0, start:end]
    tokens = sorted(ref.tokens[0], key=lambda token: token.representative if order == "raster" else 0)
    embeds = torch.stack([features[list(token.members)].mean(0) for token in tokens])
    rows = [*range(start), *(start + token.representative for token in tokens), *range(end, len(prompt))]
    hidden = seen["inputs_embeds"][:, rows]
    hidden[0, start : start + len(tokens)] = embeds
    positions = model.model.get_rope_index(
        prompt.ids[None], prompt.kinds[None], video_grid_thw=inputs["video_grid_thw"]
    )
    out = model.model.language_model(inputs_embeds=hidden, position_ids=positions[0][:, :, rows])
    logits = model.lm_head(out.last_hidden_state)[0]
    torch.testing.assert_close(ref.logits[end:], logits[start + len(tokens) :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_clips_are_really_merged_and_really_dropped(family: str) -> None:
    model = build(family)
    prompt = PROMPTS["one"]
    config = PruneVidConfig(tau=TAU[family], temporal_segment_ratio=0.4, pruning_layer=1)
    new = torch.tensor([50, 51])
    ref = reference(plain_copy(model), prompt, new, config, "raster")
    assert ref.scenes == [[3, 3]]
    static = [token for token in ref.tokens[0] if token.group[1] < 0]
    assert len(static) == 18, "two scenes of 18 still cells, each set clustered to half"
    assert any(len(token.members) > 3 for token in static)
    assert any(len(token.members) > 1 for token in ref.tokens[0] if token.group[1] >= 0)
    assert sorted(cell for token in ref.tokens[0] for cell in token.members) == list(range(216))
    assert len(ref.merged) == 2 * 9 + 6 * 9
    assert len(ref.kept) == 8 * int(0.4 * 9)
    plain = reference(plain_copy(model), prompt, new, get_baseline_config(), "raster")
    assert (plain.logits[-3:] - ref.logits[-3:]).abs().max() > 0.3


def test_loops_on_a_hand_made_case() -> None:
    points = torch.tensor([0.0, 0.1, 0.25, 5.0, 5.15, 5.4])[:, None]
    assert loop_merge.dpc_knn(points, 2, 3) == ([0, 0, 0, 1, 1, 1], [1, 4])
    assert loop_merge.refine([0, 0, 1, 0, 1, 1, 1]) == [0, 0, 1, 1, 1, 1, 1], "the gap of two joins the longer run"
    assert loop_merge.refine([0, 1, 0, 1]) == [0, 0, 0, 0]
    assert loop_merge.refine([2, 0, 0, 1, 1, 1]) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("case", ["mha_default", "all_static"])
def test_loops_match_the_recorded_stage_1(shared: Callable[..., Path], case: str) -> None:
    arrays = np.load(shared("golden", f"{case}.npz"))
    settings = json.loads(shared("golden", "meta.json").read_text())["cases"][case]["prune"]
    features = torch.from_numpy(arrays["image_features"]).view(16, 144, 64)
    ratios = settings["cluster_ratio"], settings["temporal_segment_ratio"]
    merged, tokens, scenes = loop_merge.merge(features, settings["tau"], *ratios, 7, "middle")
    assert scenes == arrays["window_sizes"].tolist()
    sizes = [sum(t.group == (scene, -1) for t in tokens) for scene in range(len(scenes))]
    assert sizes == arrays["static_sizes"].tolist()
    torch.testing.assert_close(merged, torch.from_numpy(arrays["merged_features"])[0], atol=1e-5, rtol=0)
