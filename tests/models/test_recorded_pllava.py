# SPDX-License-Identifier: Apache-2.0
"""PLLaVA's port with the engine gives the recorded numbers of the original implementation, from the pixels on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

import prunevid
from models.recorded import CASES, PAD, TOKENS, Case, Shared, build, close, config, pixels, show
from prunevid.models.pllava import PLLaVAForConditionalGeneration


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Shared) -> Case:
    """Each recorded case that pruning changes."""
    return Case(shared, request.param)


def forward(case: Case, model: Any, **overrides: Any) -> tuple[Any, prunevid.Pruning]:
    """One pruned forward pass of the prompt with the recorded features."""
    with prunevid.attach(model, case.config, **overrides) as pruning, torch.no_grad():
        return model(**case.prompt(model)), pruning


@pytest.fixture(scope="module")
def seen(shared: Shared) -> tuple[Any, Any, Any]:
    """What the model makes of the recorded pixels: the vision tower's output, the features, and a pruned pass."""
    case = Case(shared, "mha_default")
    model = build(case.weights, "eager")
    found: dict[str, Any] = {}
    language, recorded = model.model, pixels(shared)
    with torch.no_grad():
        found["tower"] = language.vision_tower(recorded[0], output_hidden_states=True).hidden_states[-2]
        found["features"] = language.get_video_features(recorded).pooler_output
        with prunevid.attach(model, case.config) as pruning:
            found["logits"] = model(**case.ids, pixel_values_videos=recorded).logits
    return case, found, pruning.maps[0][0]


def test_from_pixels_to_features(seen: Any) -> None:
    case, found, _ = seen
    close(found["tower"], case["vision_hidden_m2"])
    close(found["features"], case["image_features"])
    assert found["features"].shape == (1, TOKENS, 64)


def test_from_pixels_to_kept_tokens_and_logits(seen: Any) -> None:
    case, found, token_map = seen
    close(token_map.merged.features, case["merged_features"][0])
    close(token_map.scores, case["stage2_scores"])
    assert token_map.kept.tolist() == sorted(case["stage2_topk_image_indices"].tolist())
    close(found["logits"], case["logits_prefill"])


def test_a_slightly_wrong_projector_is_seen(seen: Any, shared: Shared) -> None:
    case, _, _ = seen
    model = build(case.weights, "eager")
    model.model.multi_modal_projector.linear_2.weight.mul_(1.001)
    with torch.no_grad():
        found = model.model.get_video_features(pixels(shared)[:, :1]).pooler_output
    assert (found[:, :144] - case["image_features"][:, :144]).abs().max() > 1e-4


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_prefill(case: Case, kernel: str) -> None:
    model = build(case.weights, kernel)
    language = model.model.language_model
    seen: dict[str, Any] = {"positions": []}
    language.layers[0].register_forward_pre_hook(
        lambda m, a, k: seen.update(embeds=(a[0] if a else k["hidden_states"]).clone()), with_kwargs=True
    )
    language.layers[case.layer].register_forward_hook(lambda m, a, out: seen.update(hidden=out.clone()))
    language.rotary_emb.register_forward_pre_hook(
        lambda m, a, k: seen["positions"].append(k["position_ids"]), with_kwargs=True
    )
    out, pruning = forward(case, model)
    close(seen["embeds"], case["inputs_embeds"])
    assert torch.equal(seen["positions"][0], case["position_ids_full"])
    close(seen["hidden"], case["hidden_at_M"])
    (token_map,) = pruning.maps[0]
    assert token_map.merged.scene_lengths == case["window_sizes"].tolist()
    assert list(token_map.merged.static_sizes) == case["static_sizes"].tolist()
    assert list(token_map.merged.dynamic_sizes) == case["dynamic_sizes"].tolist()
    close(token_map.merged.features, case["merged_features"][0])
    close(token_map.scores, case["stage2_scores"])
    assert token_map.kept.tolist() == sorted(case["stage2_topk_image_indices"].tolist())
    for index, layer in enumerate(out.past_key_values.layers):
        close(layer.keys, case[f"kv_key_{index}"])
        close(layer.values, case[f"kv_value_{index}"])
    close(out.logits, case["logits_prefill"])


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_greedy_answer(case: Case, kernel: str) -> None:
    model = build(case.weights, kernel)
    recorded = case["gen_scores"][0]
    never = recorded.isinf().all(0).nonzero()[:, 0].tolist()  # the end of text was held back
    positions: list[int] = []
    model.model.language_model.rotary_emb.register_forward_pre_hook(
        lambda m, a, k: positions.append(int(k["position_ids"][0, -1])), with_kwargs=True
    )
    with prunevid.attach(model, case.config), torch.no_grad():
        out = model.generate(
            **case.prompt(model),
            max_new_tokens=len(recorded),
            min_new_tokens=len(recorded),
            eos_token_id=never,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    new = out.sequences[0, case.ids["input_ids"].shape[1] :]
    assert new.tolist() == case["generated"][0, -len(recorded) :].tolist()
    close(torch.cat(out.scores), recorded)
    assert positions[1:] == case["decode_position_ids"].tolist()


def test_a_slightly_wrong_weight_is_seen(shared: Shared) -> None:
    case = Case(shared, "mha_default")
    model = build(case.weights, "eager")
    model.model.language_model.layers[3].mlp.down_proj.weight.mul_(1.001)
    out, _ = forward(case, model)
    assert (out.logits - case["logits_prefill"]).abs().max() > 1e-4


def test_causal_scores_choose_other_tokens(shared: Shared) -> None:
    case = Case(shared, "mha_default")
    _, pruning = forward(case, build(case.weights, "eager"), score_causal=True)
    kept = pruning.maps[0][0].kept
    assert kept is not None and set(kept.tolist()) != set(case["stage2_topk_image_indices"].tolist())


def test_positions_without_gaps_give_other_logits(shared: Shared) -> None:
    """The layers after the choice must see the positions that the tokens had."""
    case = Case(shared, "mha_default")
    model = build(case.weights, "eager")
    language = model.model.language_model

    def renumbered(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        tables = language.rotary_emb(states, torch.arange(states.shape[1])[None])
        return args, {**kwargs, "position_embeddings": tables}

    for layer in language.layers[case.layer + 1 :]:
        layer.self_attn.register_forward_pre_hook(renumbered, with_kwargs=True)
    out, _ = forward(case, model)
    assert out.logits.shape == case["logits_prefill"].shape
    assert (out.logits - case["logits_prefill"]).abs().max() > 0.1


def test_bypass_is_the_stock_model(shared: Shared) -> None:
    """Without pruning it is transformers' own LLaVA on the same features, bit for bit."""
    case = Case(shared, "all_static")
    model = build(case.weights)
    stock = LlavaForConditionalGeneration(LlavaConfig(**_of_llava(model.config))).eval()
    stock.load_state_dict(model.state_dict())
    prompt = case.prompt(model)
    pictures = case["image_features"][0].repeat_interleave(4, 0)  # LLaVA's own count of tokens, four for one
    with torch.no_grad():
        plain = model(**prompt).logits
        with prunevid.attach(model, prunevid.get_baseline_config()):
            assert torch.equal(model(**prompt).logits, plain)
        where = (prompt["input_ids"] == model.config.image_token_index)[..., None]
        embeds = stock.get_input_embeddings()(prompt["input_ids"]).masked_scatter(where, pictures[::4])
        assert torch.equal(stock(inputs_embeds=embeds, attention_mask=prompt["attention_mask"]).logits, plain)


def _of_llava(settings: Any) -> dict[str, Any]:
    return {
        "text_config": copy.deepcopy(settings.text_config),
        "vision_config": copy.deepcopy(settings.vision_config),
        "image_token_index": settings.image_token_index,
    }


@pytest.mark.parametrize("groups", [1, 2])
def test_shared_keys_are_repeated_keys(shared: Shared, groups: int) -> None:
    """Fewer key heads choose and answer as many equal ones do (the original stops here)."""
    case = Case(shared, "mha_default")
    shared_heads = PLLaVAForConditionalGeneration(config(num_key_value_heads=groups)).eval().requires_grad_(False)
    for weight in shared_heads.model.language_model.layers.parameters():
        weight.mul_(3.0 if weight.dim() > 1 else 1.0)
    twin = PLLaVAForConditionalGeneration(config()).eval().requires_grad_(False)
    weights = shared_heads.state_dict()
    for name in weights:
        if name.endswith(("k_proj.weight", "v_proj.weight")) and "language_model" in name:
            weights[name] = weights[name].view(groups, 16, -1).repeat_interleave(4 // groups, 0).flatten(0, 1)
    twin.load_state_dict(weights)
    (one, first), (other, second) = forward(case, shared_heads), forward(case, twin)
    (left,), (right,) = first.maps[0], second.maps[0]
    close(left.scores, right.scores, 1e-6)
    assert left.kept is not None and 0 < len(left.kept) < left.merged.features.shape[0]
    assert torch.equal(left.kept, right.kept)
    close(one.logits, other.logits)


@pytest.mark.parametrize("overrides", [{}, {"enable_stage2": False}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_renumbered_rows_of_a_batch_are_the_rows_alone(shared: Shared, kernel: str, overrides: dict[str, Any]) -> None:
    """Positions that are numbered anew differ from row to row by what was dropped, in a second turn too."""
    case = Case(shared, "all_static")
    model = build(case.weights, kernel)
    ids, features = case.ids["input_ids"][0], case["image_features"]
    scenes = features.view(16, 144, 64).clone()
    scenes[8:] = scenes[8:].roll(5, dims=1)
    rows = [torch.cat([torch.tensor([7, 9, 11]), ids]), ids, torch.arange(20, 33)]
    shown = show(model, scenes.view(-1, 64), features[0])
    videos = [shown[:1], shown[1:], shown[:0]]
    tail = torch.tensor([[3, 5, 8]])
    width = max(len(row) for row in rows)

    def two_turns(which: list[int]) -> list[Tensor]:
        batch = torch.full((len(which), width), PAD)
        for at, index in enumerate(which):
            batch[at, width - len(rows[index]) :] = rows[index]
        mask = (batch != PAD).long()
        pixels = torch.cat([videos[index] for index in which])
        options = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=2)
        options |= dict(return_dict_in_generate=True, output_logits=True)
        given = {"pixel_values_videos": pixels} if len(pixels) else {}
        first = model.generate(input_ids=batch, attention_mask=mask, **given, **options)
        more = torch.cat([first.sequences, tail.expand(len(which), -1)], dim=1)
        mask = torch.cat([mask, torch.ones(len(which), 7, dtype=torch.long)], dim=1)
        second = model.generate(input_ids=more, attention_mask=mask, past_key_values=first.past_key_values, **options)
        logits = torch.cat([torch.stack(first.logits), torch.stack(second.logits)])
        return [logits[:, at] for at in range(len(which))]

    with prunevid.attach(model, case.config, **overrides) as pruning, torch.no_grad():
        together = two_turns([0, 1, 2])
        counts = [stats["stage1"]["compressed_tokens"] for stats in pruning.stats]
        assert len(set(counts)) == 3, "the rows are shifted by different amounts"
        alone = [two_turns([index])[0] for index in range(3)]
    for found, expected in zip(together, alone):
        close(found, expected)
