# SPDX-License-Identifier: Apache-2.0
"""From the text of --model_args to a method, and how lmms-eval finds our models."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from lmms_eval.models import get_model, get_model_manifest, list_available_models
from lmms_eval.utils import simple_parse_args_string

from prunevid import methods
from prunevid.choice import choose_method
from prunevid.config import PruneVidConfig
from prunevid.errors import ConfigError, MissingDependencyError
from prunevid.integrations import lmms
from prunevid.integrations.lmms import arguments

THEIRS = {"pretrained", "device_map", "max_num_frames", "fps"}
CLASSES = [
    (name, kind) for name, parent in lmms.PARENTS.items() for kind in ("simple", "chat") if getattr(parent, kind)
]


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("pretrained=a/b", choose_method()),
        ("method=none", choose_method("none")),
        ("method=None,pretrained=a", choose_method("none")),
        ("retention_ratio=0.2", choose_method(retention_ratio=0.2)),
        ("retention_ratio=1,method=random", choose_method("random", retention_ratio=1)),
        ("retention_tokens=24,method=uniform", choose_method("uniform", retention_tokens=24)),
        ("preset=paper", choose_method(preset="paper")),
        ("preset=none,keep_ratio=3e-1", choose_method(method_options={"keep_ratio": 0.3})),
        ("tau=-1,pruning_layer=4", choose_method(config=PruneVidConfig(tau=-1, pruning_layer=4))),
        (
            "enable_stage2=False,score_rope=true",
            choose_method(config=PruneVidConfig(enable_stage2=False, score_rope=True)),
        ),
        ("attention_aggregation=mean", choose_method(config=PruneVidConfig(attention_aggregation="mean"))),
        ("method=fastv,layer=3", choose_method("fastv", method_options={"layer": 3})),
        ("method=tome|fastv,layer=3", choose_method("tome|fastv", method_options={"layer": 3})),
        (
            "method=fastv,retention_ratio=0.5,average_over_layers=True",
            choose_method("fastv", retention_ratio=0.5, average_over_layers=True),
        ),
        ("method=fastv,retention_ratio='0.5'", choose_method("fastv", retention_ratio=0.5)),
    ],
)
def test_method_from_text(text: str, method: methods.Method) -> None:
    ours, theirs = arguments.split(simple_parse_args_string(text), THEIRS)
    assert arguments.choose(ours, "prunevid_qwen2_5_vl", THEIRS) == method
    assert theirs.keys() <= THEIRS and not ours.keys() & THEIRS


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("True", True),
        ("none", None),
        ("-2", -2),
        (-2.0, -2),
        (0.5, 0.5),
        ("[8,16]", (8, 16)),
        ("mean", "mean"),
        (True, True),
    ],
)
def test_types(given: Any, found: Any) -> None:
    value = arguments.typed(given)
    assert value == found and type(value) is type(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_frames_num=3", "'max_frames_num' is no argument of prunevid_qwen2_5_vl .do you mean 'max_num_frames'"),
        ("tua=0.5", "'tua' is no argument .*'tau'.*pruning_layer.*pretrained"),
        ("method=fastv,tau=0.5", "'tau' is no argument .*method 'fastv': .*layer"),
        ("max_frames=8", "'max_frames' has no effect.*max_num_frames"),
        ("video_sampling=fps", "'video_sampling' has no effect"),
        ("method=prunvid", "'prunvid' is no pruning method.*'prunevid'"),
        ("method=prunvid,tau=1", "'prunvid' is no pruning method.*'prunevid'"),
        ("preset=papr", "'papr' is no preset"),
        ("retention_ratio=1.5", "retention_ratio is 1.5"),
        ("retention_ratio=half", "retention_ratio is 'half'"),
        ("pruning_layer=2.5", "pruning_layer is 2.5, but must be a whole number"),
        ("average_over_layers=True", "average_over_layers says how to count a budget"),
        ("preset=paper,method=fastv", "The preset 'paper' belongs to the method 'prunevid'"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        arguments.choose(simple_parse_args_string(text), "prunevid_qwen2_5_vl", THEIRS)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_lmms_eval_lists_our_names() -> None:
    assert {*lmms.PARENTS, *lmms.OWN} <= set(list_available_models())
    assert {manifest.model_id for manifest in lmms.manifests()} == {*lmms.PARENTS, *lmms.OWN}


@pytest.mark.parametrize("name", lmms.PARENTS)
def test_both_kinds_are_those_of_the_parent(name: str) -> None:
    ours, theirs = get_model_manifest(name), get_model_manifest(lmms.PARENTS[name].model_id)
    assert bool(ours.simple_class_path) <= bool(theirs.simple_class_path)
    assert bool(ours.chat_class_path) <= bool(theirs.chat_class_path)


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_classes_extend_those_of_lmms_eval(name: str, kind: str) -> None:
    simple = kind == "simple"
    ours, theirs = get_model(name, force_simple=simple), get_model(lmms.PARENTS[name].model_id, force_simple=simple)
    assert issubclass(ours, theirs) and ours is not theirs
    assert ours.is_simple is simple and ours.model_id == name
    assert ours is get_model(name, force_simple=simple)


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_no_option_of_a_method_is_an_argument_of_theirs(name: str, kind: str) -> None:
    theirs = arguments.accepted(get_model(lmms.PARENTS[name].model_id, force_simple=kind == "simple").__init__)
    assert theirs > {"pretrained", "device"}
    options = set(arguments.CHOICE).union(*(arguments._options(method) for method in methods.names()))
    assert not theirs & options


def test_without_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)
    with pytest.raises(MissingDependencyError, match="extra 'lmms'"):
        lmms.manifests()
