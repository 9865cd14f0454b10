# SPDX-License-Identifier: Apache-2.0
"""The engine on the recorded PLLaVA language model gives the recorded numbers of the original implementation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prunevid
from models.recorded_pllava import RecordedAdapter, build, expand

CASES = ["mha_default", "mha_noise", "all_static", "all_dynamic"]


class Case:
    """Recorded arrays by name as tensors, and the settings that they were recorded with."""

    def __init__(self, shared: Callable[..., Path], name: str) -> None:
        entry = json.loads(shared("golden", "meta.json").read_text())["cases"][name]
        self.weights = shared("golden", entry["weights"])
        self.arrays = np.load(shared("golden", f"{name}.npz"))
        settings = entry["prune"]
        self.layer = settings["selected_layer"]
        self.config = prunevid.PruneVidConfig(
            tau=settings["tau"],
            cluster_ratio=settings["cluster_ratio"],
            temporal_segment_ratio=settings["temporal_segment_ratio"],
            keep_ratio=settings["alpha"],
            pruning_layer=self.layer,
            dpc_knn_k=7,
        )
        prompt = self["generated"][:, : self["input_ids"].shape[1]]
        assert torch.equal(prompt, self["input_ids"])
        ids = expand(prompt)
        self.inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": self["image_features"],
        }

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def forward(self, model: Any, **overrides: Any) -> tuple[Any, prunevid.Pruning]:
        """One pruned forward pass of the prompt."""
        with prunevid.attach(model, self.config, **overrides) as pruning, torch.no_grad():
            return model(**self.inputs), pruning


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the recorded family known for the length of a test."""
    monkeypatch.setattr(prunevid.models, "_ADAPTERS", dict(prunevid.models._ADAPTERS))
    prunevid.models.register(RecordedAdapter)
    yield


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Callable[..., Path]) -> Case:
    """Each recorded case that pruning changes."""
    return Case(shared, request.param)


def close(found: Tensor, recorded: Tensor) -> None:
    torch.testing.assert_close(found, recorded, atol=1e-5, rtol=0)


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
    out, pruning = case.forward(model)
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
            **case.inputs,
            max_new_tokens=len(recorded),
            min_new_tokens=len(recorded),
            eos_token_id=never,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    new = out.sequences[0, case.inputs["input_ids"].shape[1] :]
    assert new.tolist() == case["generated"][0, -len(recorded) :].tolist()
    close(torch.cat(out.scores), recorded)
    assert positions[1:] == case["decode_position_ids"].tolist()


def test_a_slightly_wrong_weight_is_seen(shared: Callable[..., Path]) -> None:
    case = Case(shared, "mha_default")
    model = build(case.weights, "eager")
    model.model.language_model.layers[3].mlp.down_proj.weight.mul_(1.001)
    out, _ = case.forward(model)
    assert (out.logits - case["logits_prefill"]).abs().max() > 1e-4


def test_causal_scores_choose_other_tokens(shared: Callable[..., Path]) -> None:
    case = Case(shared, "mha_default")
    _, pruning = case.forward(build(case.weights, "eager"), score_causal=True)
    kept = pruning.maps[0][0].kept
    assert kept is not None and set(kept.tolist()) != set(case["stage2_topk_image_indices"].tolist())


@pytest.mark.parametrize("overrides", [{}, {"enable_stage2": False}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_renumbered_rows_of_a_batch_are_the_rows_alone(
    shared: Callable[..., Path], kernel: str, overrides: dict[str, Any]
) -> None:
    """Positions that are numbered anew differ from row to row by what was dropped, in a second turn too."""
    case = Case(shared, "all_static")
    model = build(case.weights, kernel)
    ids, features = case.inputs["input_ids"][0], case["image_features"]
    scenes = features.view(16, 144, 64).clone()
    scenes[8:] = scenes[8:].roll(5, dims=1)
    rows = [torch.cat([torch.tensor([7, 9, 11]), ids]), ids, torch.arange(20, 33)]
    videos = [scenes.view(1, -1, 64), features, features[:0]]
    tail = torch.tensor([[3, 5, 8]])
    width = max(len(row) for row in rows)

    def two_turns(which: list[int]) -> list[Tensor]:
        batch = torch.full((len(which), width), 199)
        for at, index in enumerate(which):
            batch[at, width - len(rows[index]) :] = rows[index]
        mask = (batch != 199).long()
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
