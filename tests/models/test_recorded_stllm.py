# SPDX-License-Identifier: Apache-2.0
"""ST-LLM's visual path against numbers that the original left, its weights renamed by the converter's own rules."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prunevid.models.stllm import STLLMConfig, STLLMModel
from prunevid.models.stllm.converting import PART, plan
from prunevid.models.stllm.modeling import residual_indices

TOLERANCE = 1e-5  # the recorded numbers reach 10; torch 2.2 made them
KERNELS = ("eager", "sdpa")
VARIANTS = ("btadapter", "plain")


@functools.cache
def _recorded(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    meta = json.loads((folder / "stllm_meta.json").read_text())
    arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "stllm_tiny.npz").items()}
    return meta, arrays, load_file(folder / "stllm_weights.safetensors")


@pytest.fixture
def recorded(shared: Callable[..., Path]) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Sizes, arrays, and weights under the original's names."""
    for name in ("stllm_meta.json", "stllm_tiny.npz", "stllm_weights.safetensors"):
        shared("golden", name)
    return _recorded(shared("golden"))


def make(meta: dict[str, Any], weights: dict[str, Tensor], variant: str, residual: bool = False) -> STLLMModel:
    """The model with these weights; every one of its visual weights is loaded, and none is left over."""
    vit, qformer = meta["vit"], meta["qformer"]
    branch = variant == "btadapter"
    config = STLLMConfig(
        vision_config=dict(
            hidden_size=vit["hidden"],
            num_attention_heads=vit["heads"],
            num_hidden_layers=vit["depth"],
            intermediate_size=int(vit["hidden"] * vit["mlp_ratio"]),
            image_size=vit["image"],
            patch_size=vit["patch"],
            layer_norm_eps=vit["block_ln_eps"],
        ),
        qformer_config=dict(
            vocab_size=qformer["vocab_size"],
            hidden_size=qformer["hidden_size"],
            num_hidden_layers=qformer["num_hidden_layers"],
            num_attention_heads=qformer["num_attention_heads"],
            intermediate_size=qformer["intermediate_size"],
            max_position_embeddings=qformer["max_position_embeddings"],
            layer_norm_eps=qformer["layer_norm_eps"],
            cross_attention_frequency=qformer["cross_attention_freq"],
        ),
        text_config=dict(
            vocab_size=8, hidden_size=meta["llm_hidden"], intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=4, pad_token_id=0,
        ),
        num_query_tokens=meta["num_query"],
        bt_adapter_depth=meta["btadapter_depth"] if branch else 0,
        video_input="residual" if residual else "all",
        residual_frames=meta["residual_size"],
        residual_size=weights[PART + "down_proj.weight"].shape[0],
        output_norm_eps=meta["vit"]["ln_vision_eps"],
    )  # fmt: skip
    used = {name: value for name, value in weights.items() if branch or "BTAdapter" not in name}
    chosen = plan({name: value.dtype for name, value in used.items()}, residual)
    made = {
        target.name.removeprefix("model."): (target.make or (lambda value: value))(*(used[n] for n in target.sources))
        for target in chosen.targets
    }
    model = STLLMModel(config).eval().requires_grad_(False)
    missing, unexpected = model.load_state_dict(made, strict=False)
    assert not unexpected and all(name.startswith("language_model.") for name in missing)
    return model


def encode(model: STLLMModel, arrays: dict[str, Tensor]) -> Tensor:
    """(1, tokens, C) that the language model sees."""
    video = arrays["pixel_values"][None]
    return model.get_video_features(video, qformer_input_ids=arrays["qformer_input_ids"]).pooler_output


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_tower_queries_and_tokens(recorded: Any, kernel: str, variant: str) -> None:
    meta, arrays, weights = recorded
    model = make(meta, weights, variant)
    model.set_attn_implementation(kernel)
    assert model.vision_model.encoder.layers[0].self_attn.config._attn_implementation == kernel
    close(model.vision_model.blocks(arrays["pixel_values"][None])[0], arrays[f"vit_{variant}"])
    features = model.vision_model(arrays["pixel_values"][None])
    close(model.query(features, arrays["qformer_input_ids"])[0], arrays[f"qformer_{variant}"])
    close(encode(model, arrays)[0], arrays[f"llm_tokens_{variant}"].flatten(0, 1))


def test_residual(recorded: Any) -> None:
    """Recorded without the BT-Adapter, as the conversation weights run."""
    meta, arrays, weights = recorded
    kept = residual_indices(meta["frames"], meta["residual_size"])
    assert kept == arrays["residual_index"].tolist()
    model = make(meta, weights, "plain", residual=True)
    close(model.residual(arrays["llm_tokens_plain"][None]).flatten(1, 2), arrays["residual_tokens"])
    close(encode(model, arrays), arrays["residual_tokens"])
    others = arrays["llm_tokens_plain"][None].flip(1)  # the same mean, other frames
    assert (model.residual(others).flatten(1, 2) - arrays["residual_tokens"]).abs().max() > 0.1


@pytest.mark.parametrize(
    "name",
    [
        "visual_encoder.blocks.0.mlp.fc1.weight",
        "visual_encoder.blocks.5.attn.v_bias",
        "visual_encoder.BTAdapter_T.2.temporal_fc.weight",
        "visual_encoder.BTAdapter_S.1.attn.q_bias",
        "visual_encoder.BTAdapter_position.weight",
        "visual_encoder.BTAdapter_cls",
        "ln_vision.weight",
        "Qformer.bert.encoder.layer.2.crossattention.self.key.weight",
        "Qformer.bert.embeddings.word_embeddings.weight",
        "query_tokens",
        "llama_proj.bias",
    ],
)
def test_a_changed_weight_shows(recorded: Any, name: str) -> None:
    """Negative control: what the parity test compares depends on every part."""
    meta, arrays, weights = recorded
    noise = torch.randn(weights[PART + name].shape)  # a factor would vanish in a layer norm
    changed = weights | {PART + name: weights[PART + name] + 0.05 * weights[PART + name].std() * noise}
    found = encode(make(meta, changed, "btadapter"), arrays)[0]
    assert (found - arrays["llm_tokens_btadapter"].flatten(0, 1)).abs().max() > 10 * TOLERANCE


def test_the_bt_adapter_and_its_frames_matter(recorded: Any) -> None:
    """Negative control: without it, and with the frames in another order, the features differ."""
    meta, arrays, weights = recorded
    plain, full = make(meta, weights, "plain"), make(meta, weights, "btadapter")
    video = arrays["pixel_values"][None]
    expected = arrays["vit_btadapter"]
    assert (plain.vision_model.blocks(video)[0] - expected).abs().max() > 0.1
    assert (full.vision_model.blocks(video.flip(1)).flip(1)[0] - expected).abs().max() > 0.01
    close(plain.vision_model.blocks(video.flip(1)).flip(1)[0], arrays["vit_plain"])


def test_the_text_matters(recorded: Any) -> None:
    """Negative control: the Q-Former reads the question, in its order."""
    meta, arrays, weights = recorded
    model = make(meta, weights, "btadapter")
    turned = arrays | {"qformer_input_ids": arrays["qformer_input_ids"].flip(1)}
    assert (encode(model, turned) - encode(model, arrays)).abs().max() > 0.01
