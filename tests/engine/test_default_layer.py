# SPDX-License-Identifier: Apache-2.0
"""The layer of the choice: 10 of 32 scaled to the model's depth, unless somebody gave one."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable

import pytest

import prunevid
from engine import families, tiny
from engine.masked_reference import compare, plain_copy
from prunevid import PruneVidConfig, builtin, methods
from prunevid.config import PRESETS, get_preset
from prunevid.errors import ConfigError

LAYERS = {1: 0, 2: 1, 4: 1, 6: 2, 12: 4, 28: 9, 32: 10, 36: 11, 40: 12, 80: 25}
PROMPT = tiny.make_prompt(2, tiny.make_clip((3, 2), (3, 4)), 4)

COPIES: dict[str, Callable[[PruneVidConfig], PruneVidConfig]] = {
    "as it is": lambda config: config,
    "replace": lambda config: config.replace(keep_ratio=0.3),
    "dataclasses.replace": lambda config: dataclasses.replace(config, tau=0.7),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda config: pickle.loads(pickle.dumps(config)),
    "asdict": lambda config: PruneVidConfig(**dataclasses.asdict(config)),
}


def layer_of(config: PruneVidConfig, depth: int, first: int = 0) -> int | None:
    """The layer that a config means on a model."""
    return next(iter(methods.resolve(config).for_depth(depth, first).selection_layers), None)


@pytest.mark.parametrize(("depth", "layer"), LAYERS.items())
def test_a_layer_that_was_not_given_follows_the_depth(depth: int, layer: int) -> None:
    assert layer_of(PruneVidConfig(), depth) == layer
    model = tiny.build("qwen2_5_vl", layers=depth)
    with prunevid.attach(model) as pruning:
        tiny.generate(model, tiny.make_inputs(PROMPT), 1)
    assert pruning.stats[0]["stage2"]["layer"] == pruning.method.selection_layers[0] == layer


@pytest.mark.parametrize(
    ("depth", "first", "layer"), [(4, 2, 2), (2, 2, 1), (28, 2, 9), (8, 3, 3), (36, 2, 11), (36, 12, 12)]
)
def test_never_below_the_family_s_lowest_nor_beyond_the_last(depth: int, first: int, layer: int) -> None:
    assert layer_of(PruneVidConfig(), depth, first) == layer
    assert layer_of(PruneVidConfig(pruning_layer=1), depth, first) == 1


def test_the_lowest_layer_of_qwen3_vl_is_used_and_right() -> None:
    settings = copy.deepcopy(families.build("qwen3_vl", "eager").config)
    settings.vision_config.deepstack_visual_indexes = [0, 1, 2]
    model = type(families.build("qwen3_vl", "eager"))(settings).eval().requires_grad_(False)
    tiny.scale_weights(model)
    model.generation_config.eos_token_id = None
    prompts = [families.make_prompt("qwen3_vl", 3, (3, 2), 5)]
    config = PruneVidConfig(tau=0.98, temporal_segment_ratio=0.4)
    with prunevid.attach(model, config) as pruning:
        out = tiny.generate(model, families.make_inputs(*prompts), 3)
    assert pruning.stats[0]["stage2"]["layer"] == 2
    compare(plain_copy(model), prompts, out, config.replace(pruning_layer=2))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("made", COPIES)
def test_copies_and_presets_stay_unset_and_a_given_layer_stays_given(made: str, preset: str) -> None:
    config = dataclasses.replace(get_preset(preset), enable_stage2=True)
    assert layer_of(COPIES[made](config), 28) == 9
    assert layer_of(COPIES[made](config.replace(pruning_layer=10)), 28) == 10
    assert layer_of(COPIES[made](dataclasses.replace(config, pruning_layer=10)), 28) == 10
    assert layer_of(COPIES[made](PruneVidConfig(pruning_layer=10)), 28) == 10


def test_to_other_programs_the_default_is_10() -> None:
    config = PruneVidConfig()
    layer = config.pruning_layer
    assert isinstance(layer, int) and layer == 10 and hash(layer) == hash(10)
    assert (repr(layer), str(layer), f"{layer:d}", json.dumps(dataclasses.asdict(config)["pruning_layer"])) == (
        "10",
        "10",
        "10",
        "10",
    )
    assert "pruning_layer=10," in repr(config)
    assert config == PruneVidConfig(pruning_layer=10)


def test_the_handle_s_method_fits_another_depth_too() -> None:
    """What was scaled for one model is no number that somebody gave."""
    with prunevid.attach(tiny.build("qwen2_vl", layers=4)) as pruning:
        method = pruning.method
    assert method.selection_layers == (1,)
    with prunevid.attach(tiny.build("qwen2_vl", layers=9), method) as pruning:
        assert pruning.method.selection_layers == (3,)
    with prunevid.attach(tiny.build("qwen2_vl", layers=9), method, pruning_layer=8) as pruning:
        assert pruning.method.selection_layers == (8,)


@pytest.mark.parametrize("choice", ["prunevid", PruneVidConfig(), methods.get("prunevid")], ids=["name", "c", "method"])
def test_a_given_layer_that_does_not_exist_is_refused(choice: object) -> None:
    model = tiny.build("qwen2_vl")
    prunevid.attach(model, choice).detach()
    with pytest.raises(ConfigError, match="pruning_layer is 10, but this model's layers allow 0 to 3"):
        prunevid.attach(model, choice, pruning_layer=10)


def test_a_method_without_a_choice_is_handed_on_as_it_is() -> None:
    method = methods.get("none")
    with prunevid.attach(tiny.build("qwen2_vl"), method) as pruning:
        assert pruning.method is method


@pytest.mark.parametrize("config", [None, PruneVidConfig(), get_preset("conservative")])
def test_the_embedded_model_s_layer_is_the_scaled_one(config: PruneVidConfig | None) -> None:
    qa = prunevid.VideoQA.builtin(config=config)
    assert qa.config is not None and qa.config.pruning_layer == builtin.DEFAULTS["pruning_layer"] == 4
