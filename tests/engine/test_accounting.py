# SPDX-License-Identifier: Apache-2.0
"""What was kept and what it costs: statistics, cache lengths, maps, attention maps never made, low precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import prunevid
from engine.masked_reference import compare, plain_copy
from engine.prompts import ONE, OTHER, TEXT, TWO_VIDEOS, settings
from engine.tiny import FAMILIES, KERNELS, LAYERS, build, generate, make_clip, make_inputs, make_prompt
from prunevid.stats import flops_ratio

BATCH = [ONE, OTHER, TEXT, TWO_VIDEOS]
TOKEN_BYTES = 2 * 2 * 16 * 4  # keys and values, two heads of 16 float32 channels


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("prompts", [[ONE], [TWO_VIDEOS], BATCH], ids=["one", "two videos", "batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_true(family: str, prompts: list[Any], compress: bool) -> None:
    model, config = build(family), settings(family, enable_cache_compression=compress)
    with prunevid.attach(model, config) as pruning:
        out = generate(model, make_inputs(*prompts), 2)
        stats = pruning.stats
    refs = compare(plain_copy(model), prompts, out, config)
    assert len(stats) == len(prompts)
    for row, ref, prompt in zip(stats, refs, prompts):
        first, second, third, total = (row[name] for name in ("stage1", "stage2", "stage3", "total"))
        assert first["original_tokens"] == len(ref.original)
        assert first["compressed_tokens"] == second["original_tokens"] == len(ref.merged)
        assert second["compressed_tokens"] == len(ref.kept)
        assert first["num_segments"] == sum(len(scenes) for scenes in ref.scenes)
        if not prompt.videos:
            assert total == {"retained_ratio": 1.0, "flops_ratio": 1.0}
            assert third["reduction_ratio"] == 0 == first["reduction_percentage"] == second["reduction_percentage"]
            continue
        assert second["layer"] == 1
        static = sum(token.group[1] < 0 for tokens in ref.tokens for token in tokens)
        assert first["static_ratio"] == pytest.approx(static / len(ref.merged))
        assert first["reduction_percentage"] == pytest.approx(100 - 100 * len(ref.merged) / len(ref.original))
        assert second["reduction_percentage"] == pytest.approx(100 - 100 * len(ref.kept) / len(ref.merged))
        assert total["retained_ratio"] == pytest.approx(len(ref.kept) / len(ref.original))
        merged = len(prompt) - len(ref.original) + len(ref.merged)
        kept = len(prompt) - len(ref.original) + len(ref.kept)
        assert total["flops_ratio"] == pytest.approx(flops_ratio(len(prompt), merged, kept, LAYERS, 1, 64, 128))
        early = kept if compress else merged
        held = (2 * early + (LAYERS - 2) * kept) * TOKEN_BYTES
        assert third["original_bytes"] == LAYERS * len(prompt) * TOKEN_BYTES
        assert third["compressed_bytes"] == held
        assert third["reduction_ratio"] == pytest.approx(1 - held / third["original_bytes"])
        assert set(row["milliseconds"]) == {"decode_video", "vision", "merge", "prefill", "decode"}
        assert all(row["milliseconds"][name] > 0 for name in ("vision", "merge", "prefill"))


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}, {"enable_stage2": False}], ids=str)
@pytest.mark.parametrize("prompts", [[ONE], BATCH], ids=["one", "batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cache_lengths(family: str, prompts: list[Any], overrides: dict[str, Any]) -> None:
    """Every layer holds the longest row's kept tokens and what was generated, and reports the unpruned length."""
    model, config = build(family), settings(family, **overrides)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(*prompts), 4)
    refs = compare(plain_copy(model), prompts, out, config)
    width = max(len(prompt) for prompt in prompts)
    text = [len(prompt) - len(ref.original) for prompt, ref in zip(prompts, refs)]
    late = max(n + len(ref.kept) for n, ref in zip(text, refs)) + 3
    early = max(n + len(ref.merged) for n, ref in zip(text, refs)) + 3 if overrides else late
    cache = out.past_key_values
    assert [layer.keys.shape[-2] for layer in cache.layers] == [early] * 2 + [late] * 2
    assert [layer.values.shape[-2] for layer in cache.layers] == [early] * 2 + [late] * 2
    assert {cache.get_seq_length(layer) for layer in range(LAYERS)} == {width + 3}


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_holds_what_the_plain_layers_would(family: str) -> None:
    """Keys of layer 0 are those of the kept tokens on their own rotary positions: gathering changed no value."""
    model = build(family)
    seen: dict[str, Any] = {}
    config = settings(family, enable_stage1=False)
    with torch.no_grad():
        plain = model(**make_inputs(ONE)).past_key_values.layers[0].keys
    with prunevid.attach(model, config) as pruning, torch.no_grad():
        out = model(**make_inputs(ONE))
        seen["stats"] = pruning.stats
    ref = compare(plain_copy(model), [ONE], generate_with(model, config), config)[0]
    places = [i for i in range(len(ONE)) if i not in set(ref.original) - set(ref.kept)]
    torch.testing.assert_close(out.past_key_values.layers[0].keys, plain[:, :, places], atol=1e-6, rtol=0)


def generate_with(model: Any, config: Any) -> Any:
    with prunevid.attach(model, config):
        return generate(model, make_inputs(ONE), 2)


class _Maps(TorchDispatchMode):
    """Records every floating-point result whose last two sizes are both at least `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if not isinstance(tensor, torch.Tensor) or tensor.dim() < 2 or not tensor.is_floating_point():
                continue
            if min(tensor.shape[-2:]) >= self.size:
                self.found.append(f"{func} {tuple(tensor.shape)}")
        return result


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_attention_map_is_made(family: str, rope: bool) -> None:
    """Under sdpa no result has the sequence's length twice; under eager attention the same watch sees the maps."""
    prompt = make_prompt(100, make_clip((3, 3)), 6)
    config = settings(family, score_rope=rope, score_causal=rope)
    inputs = make_inputs(prompt)
    for kernel in KERNELS:
        model = build(family, kernel)
        with prunevid.attach(model, config) as pruning, torch.no_grad():
            with _Maps(150) as maps:  # 106 + 2 text tokens and 72 merged ones; wider than every other size
                model(**inputs)
            assert pruning.stats[0]["stage1"]["compressed_tokens"] > 50
        assert bool(maps.found) == (kernel == "eager"), maps.found[:3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_low_precision(family: str, kernel: str, dtype: torch.dtype) -> None:
    """The logits stay near the float32 run's; the sizes follow from the sizes of the groups."""
    config = settings(family)
    full = build(family, kernel)
    with prunevid.attach(full, config), torch.no_grad():
        expected = full(**make_inputs(ONE)).logits[0, -1]
    model = build(family, kernel).to(dtype)
    with prunevid.attach(model, config) as pruning:
        out = generate(model, make_inputs(ONE, OTHER, TEXT), 4)
        kept = pruning.stats[0]["stage2"]["compressed_tokens"]
        alone = generate(model, make_inputs(ONE), 4)
    assert out.past_key_values.layers[0].keys.dtype == dtype
    assert all(step.isfinite().all() for step in out.logits)
    assert 15 <= kept <= 30
    first = alone.logits[0][0].float()
    assert torch.corrcoef(torch.stack([first, expected]))[0, 1] > 0.9
    assert torch.corrcoef(torch.stack([out.logits[0][0].float(), expected]))[0, 1] > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_tell_where_every_cell_went(family: str) -> None:
    model, config = build(family), settings(family)
    with prunevid.attach(model, config) as pruning:
        out = generate(model, make_inputs(*BATCH), 2)
        maps = pruning.maps
    refs = compare(plain_copy(model), BATCH, out, config)
    assert [len(row) for row in maps] == [1, 1, 0, 2]
    for row, ref in zip(maps, refs):
        start = 0
        for video, tokens in zip(row, ref.tokens):
            cells = sum(len(token.members) for token in tokens)
            expected = torch.full((cells,), -1)
            for number, token in enumerate(tokens):
                expected[list(token.members)] = number
            own = torch.tensor(ref.original[start : start + cells])
            kept = [i for i, t in enumerate(tokens) if int(own[t.representative]) in set(ref.kept)]
            check_map(video, expected, [t.representative for t in tokens], kept)
            start += cells


def check_map(video: Any, assignment: torch.Tensor, representatives: list[int], kept: list[int]) -> None:
    assert video.merged.assignment.tolist() == assignment.tolist()
    assert video.merged.representative.tolist() == representatives
    assert video.kept.tolist() == kept
    order = video.scores.argsort(descending=True)
    assert video.scores.shape == (len(representatives),) and int(order[0]) in kept


@pytest.mark.parametrize("family", FAMILIES)
def test_reuse_encodes_a_clip_once(family: str) -> None:
    """Inside `reuse()` several questions about the very same pixels encode and merge once, with equal results."""
    model = build(family)
    first = make_inputs(ONE)
    second = make_inputs(make_prompt(5, *ONE.videos, 9, seed=8))
    second["pixel_values_videos"] = first["pixel_values_videos"]
    calls: list[int] = []
    model.model.visual.register_forward_hook(lambda *a: calls.append(1))
    with prunevid.attach(model, settings(family)) as pruning:
        expected = [generate(model, inputs) for inputs in (first, second)]
        assert len(calls) == 2
        with pruning.reuse():
            found = [generate(model, inputs) for inputs in (first, second, first)]
            assert len(calls) == 3
            generate(model, make_inputs(OTHER))
            changed = dict(first, pixel_values_videos=first["pixel_values_videos"].flip(0))
            different = generate(model, changed)
            assert len(calls) == 5
        generate(model, first)
        assert len(calls) == 6
    for out, own in zip(found, [*expected, expected[0]]):
        assert torch.equal(out.sequences, own.sequences)
        torch.testing.assert_close(torch.stack(out.logits), torch.stack(own.logits), atol=1e-6, rtol=0)
    assert not torch.equal(torch.stack(different.logits), torch.stack(expected[0].logits))
