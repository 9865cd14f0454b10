# SPDX-License-Identifier: Apache-2.0
"""Models spread over devices by accelerate, and decoding compiled to one graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch._dynamo.utils import counters
from transformers import CompileConfig

import prunevid
from engine.families import build, language_of, make_inputs, settings
from engine.matrix import BATCH, ONE, attach, prompts_of
from engine.test_attach_detach import hooks
from engine.tiny import LAYERS, generate

SPREAD = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "smolvlm", "video_llama_3")
COMPILED = ("qwen2_5_vl", "llava_onevision", "internvl")


def spread(model: Any, folder: Path) -> Any:
    """Some of the decoder's layers, its end and Qwen's vision tower on the disk, as a `device_map` would place them.

    (With SigLIP's tower there, the plain LLaVA-OneVision fails: accelerate does not bring its pooling head back.)
    """
    language, base = language_of(model), model.model
    parts = {**dict(base.named_children()), **dict(base.named_parameters(recurse=False))}
    places = {f"model.{name}": "disk" if name == "visual" else "cpu" for name in parts}
    (name,) = (name for name, part in parts.items() if part is language)
    del places[f"model.{name}"]
    places |= {f"model.{name}.{part}": "cpu" for part, _ in language.named_children() if part != "layers"}
    places |= {f"model.{name}.layers.{index}": ("cpu", "disk")[index in (1, 2)] for index in range(LAYERS)}
    places["lm_head"] = "disk"
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def logits(output: Any) -> torch.Tensor:
    """(steps, rows, vocabulary) of a call of `generate`."""
    return torch.stack(output.logits)


@pytest.mark.parametrize("first", ["attach", "dispatch"])
@pytest.mark.parametrize("family", SPREAD)
def test_a_model_on_cpu_and_disk_is_pruned_like_any(family: str, first: str, tmp_path: Path) -> None:
    model, config, inputs = build(family), settings(family), make_inputs(*prompts_of(family, BATCH))
    plain = generate(model, inputs, 3)
    with attach(model, family, config) as pruning:
        expected, kept = generate(model, inputs, 3), pruning.maps
    before = hooks(model)
    if first == "dispatch":
        spread(model, tmp_path)
    with attach(model, family, config) as pruning:
        if first == "attach":
            spread(model, tmp_path)
        assert next(language_of(model).layers[1].parameters()).device.type == "meta"
        found = generate(model, inputs, 3)
        assert torch.equal(logits(found), logits(expected))
        for maps, others in zip(pruning.maps, kept):
            assert all(torch.equal(one.kept, two.kept) for one, two in zip(maps, others))
    assert hooks(model) == before
    assert torch.equal(logits(generate(model, inputs, 3)), logits(plain))


@pytest.fixture
def graphs() -> Iterator[Any]:
    """Counts what torch compiles in a test, from nothing."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
    torch._dynamo.reset()


def compiled(model: Any, inputs: dict[str, Any]) -> Any:
    """`generate` with a static cache whose decoding steps are compiled (without a code generator, which is the same for
    the questions that are asked here)."""
    how = CompileConfig(backend="eager", fullgraph=True, mode=None)
    how._compile_all_devices = True
    return generate(model, inputs, 4, cache_implementation="static", compile_config=how)


@pytest.mark.parametrize(
    ("family", "overrides"), [*((family, {}) for family in COMPILED), ("smolvlm", {"enable_cache_compression": False})]
)
def test_compiled_decoding_is_one_graph(family: str, overrides: dict[str, Any], graphs: Any) -> None:
    model, inputs = build(family), make_inputs(*prompts_of(family, BATCH))
    with attach(model, family, settings(family, **overrides)):
        expected = generate(model, inputs, 4)
        found = compiled(model, inputs)
    assert graphs() == (1, 0)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(logits(found), logits(expected), atol=1e-5, rtol=0)


def test_a_graph_serves_later_attachments_and_no_other_cache(graphs: Any) -> None:
    """Attached anew for every question, with other settings in between, and unpruned."""
    family, known, before = "llava_onevision", {}, {}
    model, config = build(family), settings(family)
    late = config.replace(enable_cache_compression=False)
    inputs = make_inputs(*prompts_of(family, ["one", "text"]))
    for chosen in (None, config, late, config.replace(keep_ratio=0.2), config, None, late):
        if chosen is None:
            expected, found = generate(model, inputs, 4), compiled(model, inputs)
        else:
            with attach(model, family, chosen):
                expected = generate(model, inputs, 4)
            with attach(model, family, chosen):
                found = compiled(model, inputs)
        torch.testing.assert_close(logits(found), logits(expected), atol=1e-5, rtol=0)
        before = before or hooks(model)  # transformers has placed its own by now
        known.setdefault(None if chosen is None else chosen.enable_cache_compression, graphs()[0])
        assert graphs() == (len(known), 0)
    assert hooks(model) == before


def test_the_first_pass_of_a_pruned_prompt_is_not_compiled(graphs: Any) -> None:
    model, inputs = build("qwen2_5_vl"), make_inputs(*prompts_of("qwen2_5_vl", ONE))
    with attach(model, "qwen2_5_vl", settings("qwen2_5_vl")):
        model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="compile only decoding"):
            generate(model, inputs, 4)


def test_the_stats_are_of_the_handle_that_ran() -> None:
    """The thread's state outlives a handle; what it reports does not."""
    model, inputs = build("qwen2_5_vl"), make_inputs(*prompts_of("qwen2_5_vl", ONE))
    with attach(model, "qwen2_5_vl", settings("qwen2_5_vl")) as pruning:
        generate(model, inputs, 1)
    assert pruning.stats
    with prunevid.attach(model, settings("qwen2_5_vl")) as pruning:
        assert pruning.stats == [] and pruning.maps == []
