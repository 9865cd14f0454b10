# SPDX-License-Identifier: Apache-2.0
"""Finding and loading models: folders, hub ids, and everything that is neither."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import cpu_offload
from transformers import LlamaConfig, LlamaForCausalLM

from app import tiny_qwen
from prunevid import PruneVidConfig, methods
from prunevid.choice import choose_method
from prunevid.errors import ConfigError, InputError, UnsupportedModelError
from prunevid.loading import check_dtype, load, locate, pick_device
from prunevid.methods import Method
from prunevid.qa import VideoQA


def test_a_folder_is_local_and_a_hub_id_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(folder) == (str(folder), True)
    assert locate(str(folder)) == (str(folder), True)
    monkeypatch.chdir(folder.parent)
    assert locate(folder.name) == (folder.name, True)
    assert locate("Qwen/Qwen2.5-VL-7B-Instruct") == ("Qwen/Qwen2.5-VL-7B-Instruct", False)
    assert locate("some-model") == ("some-model", False)


@pytest.mark.parametrize("name", ["./gone", "/no/such/folder", "~/no such model", "a/b/c", "..", "", "models/gone"])
def test_a_path_that_is_not_there_never_goes_to_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models" if name == ".." else tmp_path)
    with pytest.raises((InputError, UnsupportedModelError), match=r"no model folder"):
        locate(name)


def test_a_path_object_is_a_path_even_if_it_looks_like_a_hub_id() -> None:
    with pytest.raises(InputError, match="no model folder"):
        locate(Path("Qwen/Qwen2.5-VL-7B-Instruct"))


def test_a_file_is_no_model_folder(clip_file: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is a file"):
        locate(clip_file)


def test_folders_that_hold_no_video_model(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UnsupportedModelError, match=r"no config\.json.*qwen2_5_vl"):
        load(empty)
    (empty / "config.json").write_text("{not json")
    with pytest.raises(UnsupportedModelError, match="configuration"):
        load(empty)
    (empty / "config.json").write_text(json.dumps({"model_type": "of-nobody"}))
    with pytest.raises(UnsupportedModelError, match="of-nobody"):
        load(empty)


def test_a_text_model_is_refused_with_the_list_of_families(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"type 'llama'.*qwen2_5_vl, qwen2_vl"):
        load(tmp_path)


def test_a_model_without_processor_or_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UnsupportedModelError, match="no processor"):
        load(tmp_path)
    tiny_qwen.processor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="can't be loaded"):
        load(tmp_path)


def test_a_hub_id_without_network_is_one_sentence() -> None:
    with pytest.raises(InputError, match="nobody/has-this-model") as caught:
        load("nobody/has-this-model")
    assert "\n" not in str(caught.value)


def test_loading_arguments_reach_transformers(folder: Path) -> None:
    model, processor = load(folder, device="cpu", dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"


def test_saved_weights_come_back(folder: Path) -> None:
    model, _ = load(folder, device="cpu")
    expected = tiny_qwen.model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_where_files_come_from_is_told_to_model_and_processor_and_nothing_is_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for name in ("AutoModelForImageTextToText", "AutoProcessor"):
        loader = getattr(transformers, name)
        original = loader.from_pretrained

        def spy(path: str, *, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            seen[_name] = kwargs
            return _original(path, **kwargs)

        monkeypatch.setattr(loader, "from_pretrained", spy)
    load(folder, device="cpu", revision="main", processor_kwargs={"use_fast": True})
    model, processor = seen["AutoModelForImageTextToText"], seen["AutoProcessor"]
    assert model == {"dtype": "auto", "revision": "main", "local_files_only": True}
    assert processor == {"revision": "main", "local_files_only": True, "use_fast": True}


def test_device_map_places_the_model_itself(folder: Path) -> None:
    model, _ = load(folder, device_map="cpu")
    assert model.device.type == "cpu"
    with pytest.raises(ConfigError, match="device_map"):
        load(folder, device="cpu", device_map="cpu")


def test_a_model_whose_weights_are_offloaded_answers_as_any(folder: Path, clip_file: Path) -> None:
    """Its first weights are on no device at all; the frames go where it computes."""
    config = PruneVidConfig(pruning_layer=1)
    expected = VideoQA.from_pretrained(folder, config=config, device="cpu").ask(clip_file, "what moves ?")
    qa = VideoQA.from_pretrained(folder, config=config, device="cpu")
    cpu_offload(qa.model, execution_device=torch.device("cpu"))
    assert qa.model.device.type == "meta"
    qa = VideoQA(qa.model, qa.processor, config=config)
    assert qa.ask(clip_file, "what moves ?").texts == expected.texts


@pytest.mark.parametrize("device", ["gpu", "cuda:one", "toaster"])
def test_devices_that_torch_does_not_know(device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        pick_device(device)


def test_devices_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device(None) == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ConfigError, match="no such device"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device(None) == torch.device("cuda")
    with pytest.raises(ConfigError, match="there are 1"):
        pick_device("cuda:1")


def test_dtypes() -> None:
    assert check_dtype(None) == "auto"
    assert check_dtype(torch.float16) is torch.float16
    assert check_dtype("bfloat16") == "bfloat16"
    with pytest.raises(ConfigError, match="float31"):
        check_dtype("float31")


def test_methods_by_name_config_preset_and_value() -> None:
    assert choose_method(None).name == "none"
    assert choose_method("none").name == "none"
    assert choose_method().config == PruneVidConfig()  # type: ignore[attr-defined]
    assert choose_method(preset="conservative").config.tau == 0.7  # type: ignore[attr-defined]
    assert choose_method(config=PruneVidConfig(tau=0.5)).config.tau == 0.5  # type: ignore[attr-defined]
    method = Method()
    assert choose_method(method) is method


def test_defaults_of_a_model_fill_configs_and_the_depth_of_presets() -> None:
    defaults = {"pruning_layer": 1, "keep_ratio": 0.2}
    assert choose_method(defaults=defaults).config.keep_ratio == 0.2  # type: ignore[attr-defined]
    preset = choose_method(preset="paper", defaults=defaults).config  # type: ignore[attr-defined]
    assert (preset.pruning_layer, preset.keep_ratio, preset.dpc_knn_k) == (1, 0.4, 7)
    given = choose_method(config=PruneVidConfig(), defaults=defaults).config  # type: ignore[attr-defined]
    assert given == PruneVidConfig()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": PruneVidConfig(), "preset": "paper"}, "Both"),
        ({"method": "none", "preset": "paper"}, "belongs to the method"),
        ({"method": Method(), "config": PruneVidConfig()}, "belongs to the method"),
        ({"preset": "newspaper"}, "newspaper.*paper"),
        ({"method": "prune-all"}, "prune-all.*none, .*prunevid"),
    ],
)
def test_choices_that_contradict_each_other(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_method(**arguments)


def test_a_budget_fits_every_method_that_prunes() -> None:
    assert choose_method("fastv", retention_ratio=0.15).retention_ratio == 0.15
    assert choose_method("dtd|fastv", retention_tokens=9, average_over_layers=True).average_over_layers
    fixed = methods.get("fastv", retention_ratio=0.5)
    assert choose_method(fixed, retention_ratio=0.2) == dataclasses.replace(fixed, retention_ratio=0.2)
    assert choose_method(PruneVidConfig(tau=0.5), retention_ratio=0.2).config.tau == 0.5  # type: ignore[attr-defined]


def test_options_reach_the_method_or_the_part_that_has_them() -> None:
    assert choose_method("fastv", method_options={"layer": 2, "retention_ratio": 0.5}) == methods.get(
        "fastv", layer=2, retention_ratio=0.5
    )
    both = choose_method("fastv|dtd", method_options={"threshold": 0.2, "layer": 1, "positions": "keep"})
    assert [part.name for part in both.parts] == ["dtd", "fastv"]  # type: ignore[attr-defined]
    assert (both.parts[0].threshold, both.parts[1].layer, both.positions) == (0.2, 1, "keep")  # type: ignore[attr-defined]
    mixed = choose_method(
        "prunevid|fastv", preset="stage1_only", method_options={"tau": 0.9}, defaults={"max_frames": 4}
    )
    assert mixed.parts[0].config.tau == 0.9 and not mixed.parts[0].config.enable_stage2  # type: ignore[attr-defined]
    assert mixed.parts[0].config.max_frames == 4 and mixed.label == "prunevid|fastv"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "fastvv"}, "'fastvv' is no pruning method .do you mean 'fastv'"),
        ({"method": "fastv|magic"}, "'magic' is no pruning method"),
        ({"method": "fastv", "retention_ratio": 1.5}, "retention_ratio is 1.5"),
        ({"method": "fastv", "retention_ratio": 0}, "retention_ratio is 0,"),
        ({"retention_ratio": 0.5, "retention_tokens": 3}, "both given"),
        ({"method": "fastv", "retention_tokens": 0}, "retention_tokens is 0"),
        ({"method": "fastv", "average_over_layers": True}, "give retention_ratio or retention_tokens"),
        ({"method": "fastv", "method_options": {"tau": 0.5}}, "'tau' is no option of the method 'fastv'"),
        ({"method": "dtd|fastv", "method_options": {"tau": 0.5}}, "'tau' is no option of any part of 'dtd.fastv'"),
        ({"method": "dtd|fastv", "method_options": {"keep": 0.5}}, "'keep' is an option of several parts"),
        ({"method": "fastv|pyramiddrop"}, "both act inside the language model"),
        ({"method": "fastv", "preset": "paper"}, "'paper' belongs to the method 'prunevid', but the method is 'fastv'"),
        ({"method": 3}, "3 is neither"),
    ],
)
def test_budgets_and_options_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose_method(**arguments)
    assert "\n" not in str(caught.value)
