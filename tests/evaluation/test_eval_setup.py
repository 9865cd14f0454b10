# SPDX-License-Identifier: Apache-2.0
"""From a request to a model, and the settings that a folder keeps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluation.asking import embedded
from prunevid.builtin import DEFAULTS
from prunevid.cli.common import method_options as parsed
from prunevid.errors import ConfigError, InputError
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.request import Request
from prunevid.evaluation.runs import Record, Settings, read_settings
from prunevid.evaluation.setup import differences, digest, keep_settings, open_model, settings_of, with_published

PUBLISHED = {"pruning_layer": 10, "keep_ratio": 0.4}
PLAIN, APART = (
    SimpleNamespace(model_type="pllava", pllava_adapters=None),
    SimpleNamespace(model_type="pllava", pllava_adapters="adapters.safetensors"),
)
QWEN = SimpleNamespace(model_type="qwen2_5_vl")


def request(**fields: Any) -> Request:
    return Request(**{"benchmark": "mvbench", "data": Path("data"), "out": Path("out"), **fields})


@pytest.mark.parametrize(
    ("fields", "config", "options", "loading"),
    [
        ({}, PLAIN, PUBLISHED, {}),
        ({"method": "prunevid"}, PLAIN, PUBLISHED, {}),
        ({"method": "prunevid|dycoke"}, PLAIN, PUBLISHED, {}),
        ({"retention_ratio": 0.2}, PLAIN, PUBLISHED, {}),
        ({"method": "fastv"}, PLAIN, {}, {}),
        ({"method": "none"}, PLAIN, {}, {}),
        ({"preset": "paper"}, PLAIN, {}, {}),
        ({"method_options": {"tau": 0.7}}, PLAIN, {"tau": 0.7}, {}),
        ({}, QWEN, {}, {}),
        ({}, None, {}, {}),
        ({}, APART, PUBLISHED, {"lora_alpha": 14}),
        ({"benchmark": "vcgbench", "method": "none"}, APART, {}, {"lora_alpha": 4}),
        (
            {"method": "none", "loading": {"lora_alpha": 0.0, "dtype": "float16"}},
            APART,
            {},
            {"lora_alpha": 0.0, "dtype": "float16"},
        ),
        ({"method": "none", "loading": {"lora_alpha": 8.0}}, PLAIN, {}, {"lora_alpha": 8.0}),
    ],
)
def test_the_papers_models_get_what_their_published_runs_had(
    fields: dict[str, Any], config: Any, options: dict[str, Any], loading: dict[str, Any]
) -> None:
    found = with_published(request(**fields), config, PUBLISHED, 4 if "benchmark" in fields else 14)
    assert found == request(**{**fields, "method_options": options, "loading": loading})


SETTINGS = Settings(
    "mvbench", "paper", "m", "pllava", "prunevid", {"config": {"tau": 0.8, "k": None}}, versions={"torch": "2.15.0"}
)


def changed(**fields: Any) -> Settings:
    return dataclasses.replace(SETTINGS, **fields)


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (changed(frames=8), ["frames is 16 there and 8 now"]),
        (
            changed(model="n", dtype="float16"),
            ['model is "m" there and "n" now', 'dtype is "auto" there and "float16" now'],
        ),
        (changed(options={"config": {"tau": 0.7, "k": None}}), ["options.config.tau is 0.8 there and 0.7 now"]),
        (changed(options={}), ["options.config is "]),
        (changed(options={"config": {"tau": 0.8}}), ["options.config.k is null there and not set now"]),
        (changed(options_of_benchmark={"limit": 3}), ["options_of_benchmark.limit is not set there and 3 now"]),
    ],
)
def test_a_changed_setting_is_refused_and_named(tmp_path: Path, now: Settings, named: list[str]) -> None:
    assert keep_settings(tmp_path, SETTINGS) == []
    assert keep_settings(tmp_path, SETTINGS) == []
    with pytest.raises(InputError) as caught:
        keep_settings(tmp_path, now)
    assert all(name in str(caught.value) for name in named)
    assert str(caught.value).count(" there and ") == len(named)
    assert read_settings(tmp_path) == SETTINGS


def test_other_versions_are_told_and_the_run_goes_on(tmp_path: Path) -> None:
    keep_settings(tmp_path, SETTINGS)
    [line] = keep_settings(tmp_path, changed(versions={"torch": "2.14.0"}))
    assert 'torch is "2.15.0" there and "2.14.0" now' in line


@pytest.mark.parametrize("name", ["answers.jsonl", "answers-00001-of-00002.jsonl"])
def test_answers_without_settings_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(Record("k", "t", "v", "q").line())
    with pytest.raises(InputError, match=r"holds answers but no settings\.json"):
        keep_settings(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmark": "mvbench"}'])
def test_settings_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(InputError, match="does not hold the settings of a run"):
        keep_settings(tmp_path, SETTINGS)


def test_only_what_differs_is_named() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}) == []
    assert differences({"a": 1}, {"a": True}) == ["a is 1 there and true now"]


def test_the_settings_of_a_run_hold_all_that_changes_its_answers(tmp_path: Path) -> None:
    items = [Item("mvbench", "k", "t", VideoSource(Path("v.mp4"), bound=(0.0, 1.5)), "q", ("a", "b"), "a", 0)]
    asked = request(
        method="prunevid",
        method_options={"tau": 0.7},
        tasks=("t",),
        limit=1,
        loading={"revision": "main", "device": "cpu"},
    )
    qa = open_model(asked, {}, embedded())
    found = settings_of(asked, qa, SimpleNamespace(name="paper"), items, 16, 100)
    assert (found.model, found.family, found.method) == ("builtin", "qwen2_5_vl", "prunevid")
    config = found.options["config"]
    assert (config["tau"], config["pruning_layer"]) == (0.7, DEFAULTS["pruning_layer"])
    assert (found.dtype, found.attention, found.frames, found.max_new_tokens) == ("float32", "sdpa", 16, 100)
    rest = dict(found.options_of_benchmark)
    assert rest.pop("annotations") == digest(items)
    assert rest == {
        "tasks": ["t"],
        "limit": 1,
        "subtitles": False,
        "subtitles_before_video": False,
        "questions": 1,
        "lora_alpha": None,
        "revision": "main",
    }
    assert found.versions.keys() == {"prunevid", "torch", "transformers", "python", "device"}
    keep_settings(tmp_path, found)
    assert json.dumps(dataclasses.asdict(read_settings(tmp_path))) == json.dumps(dataclasses.asdict(found))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"answer": "b", "right": 1, "facts": {"x": 1}}, True),
        ({"video": VideoSource(Path("/elsewhere/v.mp4"))}, True),
        ({"question": "p"}, False),
        ({"candidates": ("b", "a")}, False),
        ({"video": VideoSource(Path("v.mp4"), bound=(0.0, 1.0))}, False),
        ({"key": "l"}, False),
    ],
)
def test_other_questions_have_another_digest(change: dict[str, Any], same: bool) -> None:
    item = Item("mvbench", "k", "t", VideoSource(Path("v.mp4")), "q", ("a", "b"), "a", 0)
    assert (digest([item]) == digest([dataclasses.replace(item, **change)])) == same


def test_the_embedded_model_refuses_what_it_does_not_take() -> None:
    with pytest.raises(ConfigError, match="device_map is nothing that the embedded model takes"):
        open_model(request(), {"device_map": "auto"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {}),
        (["keep_ratio=0.3", "pruning-layer=5"], {"keep_ratio": 0.3, "pruning_layer": 5}),
        (
            ["a=true", "b=False", "c=None", "d=null", "e=max", "f=a=b"],
            {"a": True, "b": False, "c": None, "d": None, "e": "max", "f": "a=b"},
        ),
        (["keep_ratio"], "must be NAME=VALUE"),
        (["=3"], "must be NAME=VALUE"),
        (["tau=1", "tau=2"], "gives tau twice"),
    ],
)
def test_settings_on_the_command_line(given: list[str], expected: Any) -> None:
    if isinstance(expected, dict):
        assert parsed(given) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            parsed(given)
