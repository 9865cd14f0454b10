# SPDX-License-Identifier: Apache-2.0
"""The registry of methods, and the example of CONTRIBUTING.md, run as it stands there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from prunevid import PruneVidConfig, attach, methods
from prunevid.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny():
    """The engine tests' builders of tiny models and prompts."""
    folder = str(ROOT / "tests" / "engine")
    sys.path.insert(0, folder)
    try:
        import tiny

        yield tiny
    finally:
        sys.path.remove(folder)


def test_names_and_lookup() -> None:
    assert {"none", "prunevid"} <= set(methods.names()) and methods.names() == sorted(methods.names())
    assert methods.get("prunevid", keep_ratio=0.2).config.keep_ratio == 0.2
    assert methods.get("none").selection_layers == ()
    assert methods.resolve(PruneVidConfig(tau=0.7), tau=0.9).config.tau == 0.9


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: methods.get("prunevit"), "'prunevit' is no pruning method (do you mean 'prunevid' or "),
        (lambda: methods.get("none", keep_ratio=0.2), "'keep_ratio' is no option of the method 'none'"),
        (lambda: methods.get("prunevid", ratio=0.2), "'ratio' is no setting of PruneVid"),
        (lambda: methods.resolve(3), "3 is neither a PruneVidConfig nor a method nor a method's name"),
    ],
)
def test_refusals(call, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        call()


def test_the_example_of_the_contributing_guide_runs(tiny, monkeypatch, tmp_path: Path) -> None:
    """A question's last row chooses a tenth of the visual tokens, in a batch, after layer 2."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL).group(1)
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    path = tmp_path / "example.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "example", module)
    spec.loader.exec_module(module)
    assert "last-row" in methods.names()

    model = tiny.build("qwen2_5_vl")
    prompts = [
        tiny.make_prompt(3, tiny.make_clip(seed=1), 5, seed=1),
        tiny.make_prompt(2, tiny.make_clip(seed=2), 9, seed=2),
    ]
    with torch.no_grad(), attach(model, "last-row", keep=0.1) as pruning:
        model.generate(**tiny.make_inputs(*prompts), max_new_tokens=2, do_sample=False)
    for row in pruning.stats:
        original = row["stage1"]["original_tokens"]
        assert row["stage1"]["compressed_tokens"] == original
        assert row["stage2"]["compressed_tokens"] == int(0.1 * original)


def test_composed_methods_take_from_their_parts_what_nobody_said_for_the_whole() -> None:
    assert methods.get("dtd").position_scheme == methods.get("dtd|fastv").position_scheme == "keep"
    assert methods.get("fastv|tome").position_scheme == methods.get("tome").position_scheme
    assert methods.get("dtd|fastv", positions="renumber").position_scheme == "renumber"
    merge = methods.resolve(PruneVidConfig(enable_stage2=False, prune_images=True, collect_stats=False, verbose=True))
    both = methods.compose(methods.get("fastv"), merge)
    assert both.prunes_images and both.verbose and not both.collect_stats
    assert both.label == "prunevid|fastv" and methods.get("fastv").label == "fastv"
