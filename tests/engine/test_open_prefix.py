# SPDX-License-Identifier: Apache-2.0
"""A held prefix: what goes on from it is what the whole prompt gives, for every family, method and way to generate, and
costs what follows the video in the first layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import tiny
from engine.families import FAMILIES, FRAMES, build, language_of, make_inputs, make_prompt, settings
from engine.matrix import attach, prompts_of, repeatable
from engine.methods_matrix import MAIN, NAMES, method_of, model_of
from engine.test_attach_detach import trace
from engine.test_placement import spread
from engine.tiny import KERNELS, LAYERS, generate
from prunevid import PruneVidConfig
from prunevid import attach as attach_one
from prunevid.engine import Held
from prunevid.errors import UnsupportedError
from prunevid.stats import measure_flops

SCENARIOS: dict[str, dict[str, Any]] = {
    "all stages": {},
    "a later layer, cache whole": {"pruning_layer": 2, "enable_cache_compression": False},
    "last layer": {"pruning_layer": LAYERS - 1},
    "stage 1 only": {"enable_stage2": False},
    "nothing to drop": {"tau": 1.5, "cluster_ratio": 1, "keep_ratio": 1.0},
    "peaks": {"keep_rule": "peaks"},
    "rotary causal global": {"score_rope": True, "score_causal": True, "keep_scope": "global", "enable_stage1": False},
}
WAYS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "top_k": 0},
    "several": {"do_sample": True, "top_k": 0, "num_return_sequences": 3},
    "static": {"cache_implementation": "static"},
}
ASKING = ("input_ids", "attention_mask", "mm_token_type_ids")


def questions(family: str) -> list[dict[str, Any]]:
    """Inputs of two questions of different lengths about one clip: the very same pixels."""
    one, two = (make_prompt(family, 5, (3, 2), tail) for tail in (6, 9))
    two.ids[len(one) - 4 :] = two.ids[len(one) - 4 :].flip(0)
    last = int((one.kinds == 2).nonzero()[-1]) + 1
    assert torch.equal(one.ids[:last], two.ids[:last]) and not torch.equal(one.ids[last:], two.ids[last : len(one)])
    inputs, other = make_inputs(one), make_inputs(two)
    return [inputs, {**inputs, **{name: other[name] for name in ASKING if name in other}}]


def border(family: str, inputs: dict[str, Any]) -> int:
    """Tokens up to the last visual one."""
    return int((inputs["input_ids"][0] == FAMILIES[family].placeholder).nonzero()[-1]) + 1


@contextmanager
def ahead(held: Held) -> Iterator[None]:
    """Only the prefix is wanted."""
    held.ahead = True
    yield
    held.ahead = False


def counted(pruning: Any) -> list[dict[str, Any]]:
    """The stats without times."""
    return [{name: part for name, part in row.items() if name != "milliseconds"} for row in pruning.stats]


def compare(model: Any, family: str, method: Any) -> Held:
    """Asks both questions plainly and with a prefix that was made ahead, and asserts that nothing differs."""
    inputs = questions(family)
    with attach(model, family, method) as pruning:
        expected = [(generate(model, one, 3), counted(pruning), pruning.maps) for one in inputs]
        held = Held()
        with pruning.reuse(held=held):
            with ahead(held):
                generate(model, inputs[0], 1)
            assert held.prefix is not None and (held.reused, held.reason) == (0, None)
            prefix = held.prefix
            for one, (whole, stats, maps) in zip(inputs, expected):
                out = generate(model, one, 3)
                assert (held.reused, held.reason) == (border(family, one), None)
                assert torch.equal(out.sequences, whole.sequences) and counted(pruning) == stats
                torch.testing.assert_close(torch.stack(out.logits), torch.stack(whole.logits), atol=1e-5, rtol=0)
                for found, known in zip(pruning.maps[0], maps[0], strict=True):
                    assert found.kept is known.kept or torch.equal(found.kept, known.kept)
            assert held.prefix is prefix
    return held


@pytest.mark.parametrize(("kernel", "scenario"), [*(("sdpa", name) for name in SCENARIOS), ("eager", "all stages")])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "stllm"])
def test_every_family_goes_on_as_with_the_whole_prompt(family: str, kernel: str, scenario: str) -> None:
    compare(build(family, kernel), family, settings(family, **SCENARIOS[scenario]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("family", "kernel", "budget"), [*zip(MAIN, KERNELS, (None, 0.4))], ids=MAIN)
def test_every_method_goes_on_as_with_the_whole_prompt(
    family: str, kernel: str, budget: float | None, name: str
) -> None:
    compare(model_of(family, kernel), family, method_of(name, family, retention_ratio=budget))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", [*MAIN, "qwen3_vl"])
def test_ways_to_generate(family: str, way: str) -> None:
    """The first question leaves the prefix itself, and nothing of its own changes by that, not a bit."""
    repeatable(family, ["one"])
    model, inputs = model_of(family), questions(family)
    with attach(model, family, settings(family)) as pruning:
        held, found = Held(inputs=lambda: inputs), []
        for block in (None, held):
            for one in inputs:
                torch.manual_seed(3)
                with pruning.reuse(held=block):
                    found.append(generate(model, one, 4, **WAYS[way]))
        plain, kept = found[:2], found[2:]
    again = [torch.stack(out.logits) for out in (plain[0], kept[0])]
    assert torch.equal(*again) and torch.equal(plain[0].sequences, kept[0].sequences)
    if held.reason is None:
        assert held.reused == border(family, inputs[1])
    else:  # transformers 5.17 gives the encoder copies of the pixels
        assert "beams" in held.reason and "mm_encoder_outputs" not in inspect.signature(model.forward).parameters
    assert torch.equal(plain[1].sequences, kept[1].sequences)
    steps = [torch.stack(out.logits) for out in (plain[1], kept[1])]
    torch.testing.assert_close(*steps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("overrides", [{}, {"enable_stage2": False}], ids=["choice", "merge alone"])
def test_layers_run_what_follows_the_video_and_then_what_is_kept(overrides: dict[str, Any]) -> None:
    family = "qwen2_5_vl"
    model, inputs, seen = build(family), questions(family), []
    for layer in language_of(model).layers:
        layer.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    with attach(model, family, settings(family, **overrides)) as pruning, pruning.reuse(held=Held()):
        generate(model, inputs[0], 1)
        seen.clear()
        generate(model, inputs[1], 1)
        kept = pruning.stats[0]["stage2"]["compressed_tokens"]
    length = inputs[1]["input_ids"].shape[1]
    after = length - border(family, inputs[1])
    text = length - pruning.stats[0]["stage1"]["original_tokens"]
    early = LAYERS if overrides else 2
    assert seen == [after] * early + [kept + text] * (LAYERS - early)


def test_the_prompt_ahead_runs_no_visual_token_behind_the_choice() -> None:
    model, inputs, seen, held = build("qwen3_vl"), questions("qwen3_vl"), [], Held()
    for layer in language_of(model).layers:
        layer.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    with attach(model, "qwen3_vl", settings("qwen3_vl")) as pruning, pruning.reuse(held=held), ahead(held):
        generate(model, inputs[0], 1)
    row = pruning.stats[0]
    text = inputs[0]["input_ids"].shape[1] - row["stage1"]["original_tokens"]
    assert seen == [text + row["stage1"]["compressed_tokens"]] * 2 + [text] * 2


def test_the_cost_of_a_further_question_at_6000_visual_tokens() -> None:
    """28 layers: its own tokens through those up to the choice, what is kept through the rest, and its scores."""
    model = tiny.build("qwen2_5_vl", layers=28)
    clip = tiny.make_clip((15,) * 4, (10, 10), 0.5)
    inputs = [tiny.make_inputs(tiny.make_prompt(5, clip, tail)) for tail in (20, 25)]
    inputs[1] = {**inputs[0], **{name: inputs[1][name] for name in ASKING}}
    decoder = "Qwen2_5_VLForConditionalGeneration.model.language_model"
    with attach_one(model, PruneVidConfig(tau=0.65)) as pruning, pruning.reuse(held=Held()):
        first, further = (measure_flops(lambda one=one: generate(model, one, 1), decoder)[0] for one in inputs)
        row = pruning.stats[0]
    assert row["stage1"]["original_tokens"] == 6000 and row["stage2"]["layer"] == 9
    kept, merged = (row[name]["compressed_tokens"] for name in ("stage2", "stage1"))
    d, kv, mlp = 64, 32, 128

    def layer(queries: int, keys: int) -> int:
        return queries * (2 * (2 * d * d + 2 * d * kv + 3 * d * mlp) + 4 * d * keys)

    own, text = 26, 32  # behind the video; with what stands before it
    scores = 2 * d * own * (merged + text)
    expected = 10 * layer(own, merged + text) + 18 * layer(kept + text, kept + text) + scores
    assert further == pytest.approx(expected, rel=0.02)
    assert further / first < 0.27  # 18 layers with the published 0.4 of the merged tokens, after 10 with all of them


@pytest.mark.parametrize("family", MAIN)
def test_what_is_no_prefix_of_the_prompt_is_not_used(family: str) -> None:
    """Another beginning, another clip, other settings: run as ever, and the newest prefix is held."""
    model, inputs = model_of(family), questions(family)
    other = {name: value.clone() for name, value in inputs[1].items()}
    other |= {name: inputs[0][name] for name in inputs[0] if name not in ASKING}
    other["input_ids"][0, 1] += 1
    strange = make_inputs(*prompts_of(family, ["other"]))
    dimmer = {**inputs[1], "pixel_values_videos": 0.7 * inputs[1]["pixel_values_videos"]}  # with the very same ids
    held = Held()
    for config in (settings(family), settings(family, keep_ratio=0.6), settings(family, enable_stage1=False)):
        for one in (inputs[0], other, strange, inputs[1], dimmer):
            with attach(model, family, config) as pruning:
                expected = generate(model, one, 2)
                with pruning.reuse(held=held):
                    found = generate(model, one, 2)
            assert (held.reused, held.reason) == (0, None)
            assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["one", "other"], "not the same prompt"),
        (["text"], "one video alone"),
    ],
)
def test_prompts_without_a_prefix_say_why(names: list[str], reason: str) -> None:
    family = "qwen2_5_vl"
    model, inputs, held = model_of(family), make_inputs(*prompts_of(family, names)), Held()
    with attach(model, family, settings(family)) as pruning:
        expected = generate(model, inputs, 2)
        with pruning.reuse(held=held):
            found = generate(model, inputs, 2)
    assert held.prefix is None and reason in str(held.reason)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))


def test_a_question_that_the_video_depends_on_shares_nothing() -> None:
    model, inputs, held = model_of("stllm"), questions("stllm"), Held()
    with attach(model, "stllm", settings("stllm")) as pruning, pruning.reuse(held=held):
        generate(model, inputs[0], 1)
    assert held.prefix is None and "depend on the question" in str(held.reason)


def test_pictures_beside_the_video_share_nothing() -> None:
    family, held = "internvl", Held()
    prompt, model = make_prompt(family, 3, "image", 2, (3, 2), 5), model_of(family)
    with attach_one(model, settings(family), frames_per_video=[-1, FRAMES]) as pruning:
        expected = generate(model, make_inputs(prompt), 2)
        with pruning.reuse(held=held):
            found = [generate(model, make_inputs(prompt), 2) for _ in range(2)]
    assert all(torch.equal(out.sequences, expected.sequences) for out in found)


@pytest.mark.parametrize("broken", [1, LAYERS - 1])
@pytest.mark.parametrize("family", MAIN)
def test_a_question_that_fails_midway_changes_nothing(family: str, broken: int) -> None:
    model, inputs = build(family), questions(family)
    generate(model, inputs[0], 1)
    before = trace(model)

    def fail(*_: Any) -> None:
        raise UnsupportedError("broken")

    with attach(model, family, settings(family)) as pruning:
        expected = [generate(model, one, 3) for one in inputs]
        held = Held()
        for one, whole in zip(inputs, expected):
            handle = language_of(model).layers[broken].register_forward_pre_hook(fail)
            with pytest.raises(UnsupportedError, match="broken"), pruning.reuse(held=held):
                generate(model, one, 3)
            handle.remove()
            with pruning.reuse(held=held):
                out = generate(model, one, 3)
            assert torch.equal(out.sequences, whole.sequences)
            torch.testing.assert_close(torch.stack(out.logits), torch.stack(whole.logits), atol=1e-5, rtol=0)
    assert trace(model) == before


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_model_spread_over_cpu_and_disk(family: str, tmp_path: Path) -> None:
    compare(spread(build(family), tmp_path), family, settings(family))
