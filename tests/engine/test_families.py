# SPDX-License-Identifier: Apache-2.0
"""Every family, the same matrix: nothing to drop is bit-equal; what is dropped equals hiding it.

The rest of the matrix: `test_generation`, `test_attach_detach`, `test_unsupported` and much of `test_edges`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prunevid
from engine.families import FAMILIES, FRAMES, WITH_IMAGES, build, make_inputs, make_prompt, settings
from engine.masked_reference import compare, plain_copy, reference
from engine.matrix import BATCH, ONE, attach, order_of, prompts_of
from engine.test_attach_detach import trace
from engine.tiny import KERNELS, LAYERS, generate
from prunevid import models
from prunevid.config import get_baseline_config
from prunevid.errors import ConfigError, InputError, UnprunedWarning, UnsupportedError

SCENARIOS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one": (ONE, {}),
    "batch": (BATCH, {}),
    "published order": (["two", "one"], {"token_order": "merged"}),
    "raster order": (["two", "one"], {"token_order": "raster"}),
    "stage 1 only": (BATCH, {"enable_stage2": False}),
    "stage 2 only": (BATCH, {"enable_stage1": False}),
    "no cache compression": (BATCH, {"enable_cache_compression": False}),
    "last layer": (["two", "text"], {"pruning_layer": LAYERS - 1}),
    "rotary causal mean global": (
        ["one", "two"],
        {"score_rope": True, "score_causal": True, "attention_aggregation": "mean", "keep_scope": "global"},
    ),
    "nothing kept": (ONE, {"keep_ratio": 0}),
}
OFF: dict[str, Any] = {
    "baseline": get_baseline_config(),
    "nothing to drop": prunevid.PruneVidConfig(tau=1.5, cluster_ratio=1, keep_ratio=1, pruning_layer=1),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_every_step(family: str, kernel: str, scenario: str) -> None:
    names, overrides = SCENARIOS[scenario]
    prompts, config, model = prompts_of(family, names), settings(family, **overrides), build(family, kernel)
    with attach(model, family, config):
        out = generate(model, make_inputs(*prompts), 3)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", WITH_IMAGES)
def test_images_beside_videos_stay_whole(family: str, kernel: str) -> None:
    """Before and after a video, in one batch, with the tiles that the family cuts a large image into."""
    model, config = build(family, kernel), settings(family)
    parts: list[tuple[Any, ...]] = [(3, "image", 2, (3, 2), 5), (2, (2, 3), 1, "image", 6), (2, "image", 3)]
    prompts = [make_prompt(family, *part, seed=seed) for seed, part in enumerate(parts)]
    images = {"frames_per_video": [-1, FRAMES, FRAMES, -1, -1]} if FAMILIES[family].attach else {}
    with prunevid.attach(model, config, **images) as pruning:
        out = generate(model, make_inputs(*prompts), 3)
    assert [len(maps) for maps in pruning.maps] == [1, 1, 0]
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_drop_is_bit_equal(family: str, kernel: str, off: str) -> None:
    model = build(family, kernel)
    cases = [(make_inputs(*prompts_of(family, BATCH)), OFF[off])]
    cases.append((make_inputs(*prompts_of(family, ["text"])), settings(family)))
    for inputs, config in cases:
        expected = generate(model, inputs, 3)
        with torch.no_grad():
            forward = model(**inputs).logits
        with attach(model, family, config):
            found = generate(model, inputs, 3)
            with torch.no_grad():
                assert torch.equal(model(**inputs).logits, forward)
        assert torch.equal(found.sequences, expected.sequences)
        assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_are_merged_and_chosen_from(family: str) -> None:
    """The matrix is not vacuous: static and dynamic tokens are found, and the logits move."""
    model, inputs = build(family), make_inputs(*prompts_of(family, ONE))
    expected = generate(model, inputs, 2)
    with attach(model, family, settings(family)) as pruning:
        found = generate(model, inputs, 2)
    ((token_map,),) = pruning.maps
    video = prompts_of(family, ONE)[0].videos[0]
    layout = token_map.layout
    assert (layout.frames, layout.height * layout.width, layout.tail) == (video.frames, video.cells, video.tail)
    assert token_map.merged.scene_lengths and sum(token_map.merged.static_sizes) > 0
    assert sum(token_map.merged.dynamic_sizes) > 0
    stats = pruning.stats[0]
    original = video.frames * video.cells + video.tail
    assert stats["stage1"]["original_tokens"] == original
    assert original > stats["stage1"]["compressed_tokens"] == token_map.tokens + video.tail
    assert stats["stage2"]["compressed_tokens"] == len(token_map.kept) + video.tail < token_map.tokens + video.tail
    assert (torch.stack(found.logits) - torch.stack(expected.logits)).abs().max() > 0.1


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_row_is_the_row_alone(family: str, kernel: str, overrides: dict[str, Any]) -> None:
    prompts, model = prompts_of(family, BATCH), build(family, kernel)
    with attach(model, family, settings(family, **overrides)):
        together = generate(model, make_inputs(*prompts), 4)
        alone = [generate(model, make_inputs(prompt), 4) for prompt in prompts]
    width = max(map(len, prompts))
    for row, (prompt, own) in enumerate(zip(prompts, alone)):
        assert together.sequences[row, width:].tolist() == own.sequences[0, len(prompt) :].tolist()
        rows = torch.stack(together.logits)[:, row]
        torch.testing.assert_close(rows, torch.cat(own.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_forward_and_a_hand_written_decode_loop(family: str, kernel: str) -> None:
    """`model(**inputs)` without a cache argument makes its own cache inside; a loop goes on with it."""
    model, config = build(family, kernel), settings(family)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ONE)
    steps, ids = [], []
    with attach(model, family, config), torch.no_grad():
        out = model(**make_inputs(prompt))
        for _ in range(3):
            steps.append(out.logits[0, -1])
            ids.append(int(steps[-1].argmax()))
            out = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=out.past_key_values)
    ref = reference(plain, prompt, torch.tensor(ids), config, order_of(model, config))
    torch.testing.assert_close(torch.stack(steps), ref.logits[len(prompt) - 1 : -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_vl_moe"])
def test_no_token_goes_before_the_last_deepstack_features(family: str) -> None:
    model = build(family)
    before = trace(model)
    with pytest.raises(ConfigError, match=r"pruning_layer is 0.*1 to 3"):
        prunevid.attach(model, settings(family, pruning_layer=0))
    assert trace(model) == before
    prunevid.attach(model, settings(family, pruning_layer=0, enable_stage2=False)).detach()


def test_frames_that_lost_tokens_already_are_refused() -> None:
    model = build("video_llama_3")
    inputs = make_inputs(*prompts_of("video_llama_3", ONE))
    kept = torch.ones(int((inputs["input_ids"] == model.config.video_token_id).sum()), dtype=torch.bool)
    with prunevid.attach(model, settings("video_llama_3")):
        generate(model, inputs | {"video_compression_mask": kept}, 2)
        kept[3] = False
        with pytest.raises(UnsupportedError, match="use_token_compression=False"):
            generate(model, inputs | {"video_compression_mask": kept}, 2)
    with pytest.raises(UnsupportedError, match="video_merge_sizes"):
        models.adapter_for(model).layouts(model.model, {"video_grid_thw": inputs["video_grid_thw"]}, None)


@pytest.mark.parametrize("family", [name for name, kind in FAMILIES.items() if kind.attach])
def test_images_are_frames_only_where_the_caller_says_so(family: str) -> None:
    model, config = build(family), settings(family)
    prompts = prompts_of(family, ["two", "one"])
    inputs = make_inputs(*prompts)
    expected = generate(model, inputs, 2)
    with prunevid.attach(model, config) as pruning:
        generate(model, make_inputs(*prompts_of(family, ["text"])), 2)
        with pytest.warns(UnprunedWarning, match="frames_per_video"):
            found = generate(model, inputs, 2)
        assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))
        pruning.frames_per_video = 0
        found = generate(model, inputs, 2)
        assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))
        assert pruning.stats[0]["stage1"]["original_tokens"] == 0
        for wrong in (4, [5, 5], [5, 5, -6]):
            pruning.frames_per_video = wrong
            with pytest.raises(InputError, match="frames_per_video"):
                generate(model, inputs, 2)
        pruning.frames_per_video = FRAMES
        every = generate(model, inputs, 2)
        pruning.frames_per_video = [5, 5, 5]
        found = generate(model, inputs, 2)
        assert torch.equal(torch.stack(found.logits), torch.stack(every.logits))
        pruning.frames_per_video = [5, -5, 5]
        found = generate(model, inputs, 2)
        assert [len(maps) for maps in pruning.maps] == [1, 1]
        assert (torch.stack(found.logits)[:, 0] - torch.stack(every.logits)[:, 0]).abs().max() > 1e-3
        torch.testing.assert_close(torch.stack(found.logits)[:, 1], torch.stack(every.logits)[:, 1], atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="frames_per_video"):
        prunevid.attach(build("qwen3_vl"), settings("qwen3_vl"), frames_per_video=5)
