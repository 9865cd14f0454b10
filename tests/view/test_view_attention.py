# SPDX-License-Identifier: Apache-2.0
"""The question's attention over layers: as stage 2 scores, after every layer, without touching the answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine import matrix
from engine.families import FRAMES, make_inputs, settings
from engine.methods_matrix import model_of
from engine.tiny import generate
from prunevid.builtin.model import WEIGHTS
from prunevid.errors import ConfigError, InputError
from prunevid.models import adapter_for
from prunevid.view import attention_sheet, watch
from prunevid.view.attention import Recorder, layer_scores
from shipped import LAYERS, VISUAL
from view.drawn import chosen_map, clip, clip_file, embedded, merged_map


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "qwen3_vl", "internvl"])
def test_every_layer_is_recorded_and_logits_stay_to_the_bit(family: str) -> None:
    """A batch with padding; the scores are those that stage 2 alone would choose by after that layer."""
    model, prompts = model_of(family), matrix.prompts_of(family, ["one", "other"])
    inputs = make_inputs(*prompts)
    plain = generate(model, inputs, 3)
    with matrix.attach(model, family, Recorder(config=settings(family))) as pruning:
        out = generate(model, inputs, 3)
    assert torch.equal(plain.sequences, out.sequences)
    assert torch.equal(torch.stack(plain.logits), torch.stack(out.logits))
    depth = model.config.get_text_config().num_hidden_layers
    layers = list(range(adapter_for(model).first_selection_layer(model.config), depth))
    assert pruning.method.selection_layers == tuple(layers) and len(layers) > 1
    found = [layer_scores(maps[0]) for maps in pruning.maps]
    for scores, maps in zip(found, pruning.maps):
        assert maps[0].layers == layers and scores.shape == (len(layers), FRAMES * 25)
        assert scores.dtype == np.float32 and (scores > 0).all() and (scores <= 1).all()
        assert len(np.unique(scores.round(6), axis=0)) == len(layers)
    for number, layer in enumerate(layers):
        config = settings(family, enable_stage1=False, pruning_layer=layer)
        with matrix.attach(model, family, config) as pruning:
            generate(model, inputs, 1)
        for scores, maps in zip(found, pruning.maps):
            np.testing.assert_allclose(scores[number], maps[0].scores.numpy(), rtol=1e-6, atol=0)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")
def test_watching_the_embedded_model() -> None:
    qa, question = embedded(), clip().questions[0].text
    watched = watch(qa, clip_file(), question)
    plain, _ = qa.compare(clip_file(), question)
    assert watched.answer.text == plain.text and watched.answer.stats["total"]["retained_ratio"] == 1.0
    assert watched.layers == tuple(range(LAYERS)) and [scores.shape for scores in watched.scores] == [(LAYERS, VISUAL)]
    some = watch(qa, clip_file(), question, layers=[4, 1], max_new_tokens=1)
    assert some.layers == (1, 4) and (some.scores[0] == watched.scores[0][[1, 4]]).all()
    whole, part = attention_sheet(watched), attention_sheet(watched, layers=[2])
    assert whole.width == part.width and whole.height > part.height
    with pytest.raises(ConfigError, match="Layer 3 was not recorded"):
        attention_sheet(some, layers=[1, 3])
    with pytest.raises(ConfigError, match=f"0 to {LAYERS - 1}"):
        watch(qa, clip_file(), question, layers=[LAYERS])
    with pytest.raises(ConfigError, match="each layer once"):
        watch(qa, clip_file(), question, layers=[1, 1])


@pytest.mark.parametrize("item", [chosen_map(), merged_map()])
def test_a_map_of_another_method_holds_none(item: object) -> None:
    with pytest.raises(InputError, match="no attention over layers"):
        layer_scores(item)  # type: ignore[arg-type]
