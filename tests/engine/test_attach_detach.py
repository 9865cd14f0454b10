# SPDX-License-Identifier: Apache-2.0
"""Attaching leaves no trace once detached, whatever happened in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

import prunevid
from engine.families import FAMILIES, build, language_of, make_inputs, settings
from engine.masked_reference import compare, plain_copy
from engine.matrix import ONE, attach, order_of, prompts_of, used
from engine.tiny import KERNELS, generate
from prunevid.errors import AlreadyAttachedError, ConfigError

_CHANGING = {"rope_deltas"}  # transformers' own state of the last prompt


def trace(model: nn.Module) -> dict[str, Any]:
    """Everything by which an attached model could differ: classes, attributes, hooks, configurations."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules():
        attributes = {key: id(value) for key, value in vars(module).items() if not isinstance(value, dict)}
        hooks = {
            key: [(number, id(hook)) for number, hook in value.items()]
            for key, value in vars(module).items()
            if isinstance(value, dict) and "hook" in key
        }
        seen[name] = (type(module), {k: v for k, v in attributes.items() if k not in _CHANGING}, hooks)
        seen[name + " attributes"] = sorted(vars(module))
    seen["config"] = model.config.to_dict()
    seen["kernels"] = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    seen["generation"] = model.generation_config.to_dict()
    return seen


def hooks(model: nn.Module) -> dict[str, Any]:
    """Hook dictionaries alone."""
    return {name: value[2] for name, value in trace(model).items() if isinstance(value, tuple)}


class _Fails(Exception):
    pass


class _FailingStreamer(BaseStreamer):
    def __init__(self, calls: int) -> None:
        self.left = calls

    def put(self, value: Tensor) -> None:
        self.left -= 1
        if self.left < 0:
            raise _Fails

    def end(self) -> None:
        pass


class _FailingProcessor(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise _Fails


def _fail_in(module: nn.Module) -> Any:
    def hook(*arguments: Any) -> None:
        raise _Fails

    return module.register_forward_hook(hook)


FAILURES = ["streamer on the prompt", "streamer", "processor", "vision", "first layer", "chosen layer", "last layer"]


def one(family: str) -> dict[str, Any]:
    """Inputs of the family's prompt "one"."""
    return make_inputs(*prompts_of(family, ONE))


def _vision_of(model: Any) -> nn.Module:
    """The first vision part that the model has, whatever the family calls it."""
    names = ("visual", "vision_tower", "video_tower", "vision_model")
    return next(getattr(model.model, name) for name in names if hasattr(model.model, name))


def _run_until_failure(model: Any, family: str, failure: str) -> None:
    options: dict[str, Any] = {}
    handle = None
    if failure.startswith("streamer"):
        options["streamer"] = _FailingStreamer(0 if "prompt" in failure else 2)
    elif failure == "processor":
        options["logits_processor"] = [_FailingProcessor()]
    else:
        layers = language_of(model).layers
        places = {"vision": _vision_of(model), "first layer": layers[0], "chosen layer": layers[1]}
        handle = _fail_in(places.get(failure, layers[-1]))
    with pytest.raises(_Fails):
        generate(model, one(family), **options)
    if handle is not None:
        handle.remove()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_detaching_restores_the_model(family: str, kernel: str) -> None:
    model = build(family, kernel)
    expected = generate(model, one(family))
    before = trace(model)
    with attach(model, family, settings(family)) as pruning:
        assert hooks(model) != {name: value[2] for name, value in before.items() if isinstance(value, tuple)}
        pruned = generate(model, one(family))
    assert trace(model) == before
    pruning.detach()
    assert trace(model) == before, "detaching twice is harmless"
    handle = attach(model, family, settings(family))
    again = generate(model, one(family))
    handle.detach()
    assert trace(model) == before
    assert torch.equal(torch.stack(again.logits), torch.stack(pruned.logits))
    after = generate(model, one(family))
    assert torch.equal(torch.stack(after.logits), torch.stack(expected.logits))
    assert not torch.equal(torch.stack(pruned.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exception_inside_generate_leaves_nothing(family: str, failure: str) -> None:
    model, config = used(family), settings(family)
    plain, prompts = plain_copy(model), prompts_of(family, ["other"])
    before = trace(model)
    with attach(model, family, config):
        resting = hooks(model)
        _run_until_failure(model, family, failure)
        assert hooks(model) == resting
        out = generate(model, make_inputs(*prompts))
    compare(plain, prompts, out, config, order_of(model, config))
    assert trace(model) == before
    with pytest.raises(_Fails), attach(model, family, config):
        generate(model, one(family), streamer=_FailingStreamer(1))
    assert trace(model) == before


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_hook_outlives_the_prefill(family: str, kernel: str) -> None:
    model = used(family, kernel)
    before, seen = hooks(model), []

    class Watcher(BaseStreamer):
        def put(self, value: Tensor) -> None:
            seen.append(hooks(model))

        def end(self) -> None:
            seen.append(hooks(model))

    with attach(model, family, settings(family)):
        resting = hooks(model)
        generate(model, one(family), streamer=Watcher())
    assert len(seen) == 6 and all(found == resting for found in seen)
    layers = [name for name, found in resting.items() if ".layers." in name and found != before[name]]
    assert layers == []


@pytest.mark.parametrize("family", FAMILIES)
def test_attaching_twice_is_refused(family: str) -> None:
    model = used(family)
    before = trace(model)
    with attach(model, family, settings(family)) as pruning:
        with pytest.raises(AlreadyAttachedError, match="detach"):
            prunevid.attach(model, "none")
        generate(model, one(family))
        assert pruning.stats[0]["total"]["retained_ratio"] < 1
    assert trace(model) == before
    prunevid.attach(model, "none").detach()


@pytest.mark.parametrize("layer", [4, 10])
def test_a_layer_beyond_the_model_is_refused(layer: int) -> None:
    model = build("qwen2_5_vl")
    before = trace(model)
    with pytest.raises(ConfigError, match=f"pruning_layer.*{layer}.*3"):
        prunevid.attach(model, settings("qwen2_5_vl", pruning_layer=layer))
    assert trace(model) == before
    prunevid.attach(model, settings("qwen2_5_vl", pruning_layer=layer, enable_stage2=False)).detach()


def test_overrides_names_and_bad_choices() -> None:
    model = build("qwen2_vl")
    before = trace(model)
    with prunevid.attach(model, settings("qwen2_vl"), keep_ratio=1.0) as pruning:
        generate(model, one("qwen2_vl"))
        assert pruning.stats[0]["stage2"]["reduction_percentage"] == 0
    with prunevid.attach(model, "prunevid", pruning_layer=1) as pruning:
        generate(model, one("qwen2_vl"))
        assert pruning.stats[0]["stage2"]["layer"] == 1
    for choice, overrides in (("nonsense", {}), (settings("qwen2_vl"), {"colour": 1}), (3, {})):
        with pytest.raises(ConfigError):
            prunevid.attach(model, choice, **overrides)
    assert trace(model) == before
