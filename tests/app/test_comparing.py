# SPDX-License-Identifier: Apache-2.0
"""Several methods side by side: from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import prunevid
from app import tiny_qwen
from app.conftest import QUESTION
from prunevid import PruneVidConfig, builtin, methods
from prunevid.answers import Answer
from prunevid.builtin.model import WEIGHTS
from prunevid.comparing import Side, alike, contestants
from prunevid.engine import Encodings
from prunevid.errors import ConfigError, InputError, UnsupportedError
from prunevid.methods import Method
from prunevid.qa import VideoQA
from shipped import LAYERS, VISUAL

PRUNING = [name for name in methods.names() if name != "none"]
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the embedded model."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    builtin.write_clip(builtin.make_clip(1), path)
    return path


@pytest.fixture(scope="module")
def embedded() -> VideoQA:
    """The embedded model, unpruned."""
    return VideoQA.builtin("none")


@pytest.fixture(scope="module")
def question() -> str:
    """What it is asked."""
    return builtin.make_clip(1).questions[0].text


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two methods that fail, each in its way."""

    class Impossible(Method):
        name: ClassVar[str] = "impossible"

        @property
        def merges(self) -> bool:
            return True

        def merge(self, video: Any) -> Any:
            raise UnsupportedError("This needs a tower of marble.")

    class Broken(Impossible):
        name: ClassVar[str] = "broken"

        def merge(self, video: Any) -> Any:
            raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    methods.register(Impossible)
    methods.register(Broken)
    yield


def answer_of(embedded: VideoQA, clip_path: Path, question: str, method: Any) -> Answer:
    """The same question, asked the ordinary way."""
    return VideoQA(embedded.model, embedded.processor, method=method).ask(
        clip_path, question, max_new_tokens=1, max_frames=builtin.FRAMES
    )


def test_every_method_meets_its_budget_and_answers_as_when_asked_alone(
    embedded: VideoQA, clip_path: Path, question: str
) -> None:
    found = embedded.compare_methods(clip_path, question, "all", retention=(0.25, 0.1), repeats=1)
    assert [(side.method, side.retention) for side in found.sides] == [
        (name, share) for share in (0.25, 0.1) for name in PRUNING
    ]
    plain = answer_of(embedded, clip_path, question, "none")
    assert (found.unpruned.answer, found.unpruned.tokens, found.unpruned.same) == (plain.text, VISUAL, True)
    for side in found.sides:
        assert side.reason is None, side
        assert abs(side.tokens - side.retention * VISUAL) <= 1 and side.original_tokens == VISUAL
        assert side.same == alike(side.answer, plain.text)
        assert set(side.milliseconds) == {"vision", "merge", "prefill", "decode", "total"}
        assert side.mean_ratio >= side.retained_ratio - 1e-9
        chosen = methods.get(side.method, retention_ratio=side.retention)
        if side.method == "prunevid":
            chosen = chosen.replace(**builtin.DEFAULTS)
        alone = answer_of(embedded, clip_path, question, chosen)
        assert side.answer == alone.text, side.method
        assert side.flops_ratio == alone.stats["total"]["flops_ratio"], side.method
        assert side.retained_ratio == alone.stats["total"]["retained_ratio"], side.method


def test_means_over_layers_count_every_layer(embedded: VideoQA, clip_path: Path, question: str) -> None:
    """FastV after layer 1 (0-based): two layers see every token, the other ones the rest."""
    method = methods.get("fastv", layer=2, retention_ratio=0.5, average_over_layers=True)
    side = embedded.compare_methods(clip_path, question, [method, "tome|fastv"], repeats=1).sides[0]
    assert side.mean_ratio == pytest.approx((2 * VISUAL + (LAYERS - 2) * side.tokens) / (LAYERS * VISUAL))
    assert side.tokens == VISUAL * 2 // 5 and side.mean_ratio == 0.5


def test_the_tower_runs_once_for_all_that_ask_the_same_of_it(embedded: VideoQA, clip_path: Path, question: str) -> None:
    """Once to warm up, once for those that ask nothing, once for each request, whatever the repeats."""
    calls = []
    handle = embedded.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    names = ["fastv", "random", "prumerge", "prumerge+", "visionzip"]
    try:
        embedded.compare_methods(clip_path, question, names, retention=(0.25, 0.1), repeats=2)
    finally:
        handle.remove()
    assert len(calls) == 2 + len({methods.get(name).tower for name in names} - {None})


def test_runs_take_turns_after_one_that_is_not_timed(
    embedded: VideoQA, clip_path: Path, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    embedded.compare_methods(clip_path, question, "fastv,random", retention=[0.2], repeats=2, tell=told.append)
    sides = ["none", "fastv at 0.2", "random at 0.2"]
    turns = [f"{turn}: {side}" for turn in ("Warming up", "Run 1 of 2", "Run 2 of 2") for side in sides]
    assert told == ["Warming up", *turns]


def test_what_fails_has_the_reason_and_the_model_stays_as_it_was(
    embedded: VideoQA, clip_path: Path, question: str, plugin: None
) -> None:
    found = embedded.compare_methods(clip_path, question, "impossible,fastv,broken", repeats=1)
    assert [side.reason for side in found.sides] == [
        "This needs a tower of marble.",
        None,
        "ZeroDivisionError: by zero",
    ]
    assert found.sides[1].answer and not found.sides[0].same
    assert embedded.ask(clip_path, question).text == found.unpruned.answer


@pytest.mark.parametrize("repeats", [0, -1])
def test_comparisons_that_are_refused(embedded: VideoQA, clip_path: Path, question: str, repeats: int) -> None:
    with pytest.raises(ConfigError, match="repeats is"):
        embedded.compare_methods(clip_path, question, "fastv", repeats=repeats)
    with pytest.raises(InputError, match="question is empty"):
        embedded.compare_methods(clip_path, " ", "fastv")
    with embedded.open(clip_path), pytest.raises(UnsupportedError, match="held open"):
        embedded.compare_methods(clip_path, question, "fastv")


def test_contestants() -> None:
    assert [method.name for method in contestants("all")] == PRUNING
    assert [method.label for method in contestants("fastv, none,fastv,dtd|fastv")] == ["fastv", "dtd|fastv"]
    config = contestants(["prunevid"], (0.5,), defaults={"pruning_layer": 1})[0].config  # type: ignore[attr-defined]
    assert config == PruneVidConfig(pruning_layer=1)
    for wrong, says in (("magic", "magic"), ("none", "no method to compare"), ("", "no pruning method")):
        with pytest.raises(ConfigError, match=says):
            contestants(wrong)
    with pytest.raises(ConfigError, match="retention_ratio is 2"):
        contestants("fastv", (2,))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [("Red.", " red", True), ("red", "blue", False), ("", "", True), ("a b", "a  b", False)],
)
def test_alike(first: str, second: str, same: bool) -> None:
    assert alike(first, second) is same


def test_shared_encodings_are_found_by_what_was_asked(settings: PruneVidConfig) -> None:
    """Two prunings of one model: the second finds the features of the first, and merges by itself."""
    qa = VideoQA(tiny_qwen.model(), tiny_qwen.processor(), config=settings)
    inputs = qa._answering.prompter.encode([qa.load_clip(list(tiny_qwen.frames(8)))], [QUESTION])
    calls: list[int] = []
    qa.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    shared, logits = Encodings(keep_merged=False), {}
    for name in ("none", "prunevid", "visionzip", "visionzip", "dtd"):
        with prunevid.attach(qa.model, qa.method if name == "prunevid" else name) as pruning, pruning.reuse(shared):
            logits[name] = qa.model(**inputs).logits[:, -1]
            merged = pruning.maps[0][0].merged
            assert (merged is None) == (name == "none")
    assert len(calls) == 2
    for name, found in logits.items():
        with prunevid.attach(qa.model, qa.method if name == "prunevid" else name):
            torch.testing.assert_close(found, qa.model(**inputs).logits[:, -1], rtol=0, atol=0)
    shared.forget()
    assert shared.recall(inputs["pixel_values_videos"], ("video", None, False)) == (None, None)


def test_a_loaded_model_and_the_embedded_one_take_budgets_and_options(folder: Path, clip_file: Path) -> None:
    loaded = VideoQA.from_pretrained(
        folder, method="fastv", retention_ratio=0.15, method_options={"layer": 2}, device="cpu"
    )
    stats = loaded.ask(clip_file, QUESTION, max_new_tokens=1).stats
    assert stats["stage2"]["layer"] == 1
    assert stats["stage2"]["compressed_tokens"] == round(0.15 * stats["stage1"]["original_tokens"])
    inside = VideoQA.builtin("fastv", 0.5, average_over_layers=True, method_options={"layer": 2})
    assert (inside.method.retention_ratio, inside.method.average_over_layers) == (0.5, True)
    assert inside.method.selection_layers == (1,)
    both = VideoQA.builtin("prunevid|fastv", preset="stage1_only", retention_tokens=9)
    assert both.method.label == "prunevid|fastv" and both.method.retention_tokens == 9


# ---- the command line --------------------------------------------------------------------------------------------


def test_compare_in_json(cli: Any, folder: Path, clip_file: Path) -> None:
    options = ["--methods", "prunevid,fastv,dtd|fastv", "--retention", "0.5,0.25", "--device", "cpu"]
    more = ["--max-frames", "6", "--max-new-tokens", "2", "--repeats", "1", "--json"]
    status, out, err = cli("compare", clip_file, QUESTION, "--model", folder, *options, *more)
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert set(document) == {
        *("question", "model", "clip", "repeats", "milliseconds_reading", "unpruned", "methods"),
    }
    assert (document["model"], document["clip"]["frames"], document["repeats"]) == (str(folder), 6, 1)
    assert document["unpruned"]["retained_ratio"] == 1.0
    assert [(side["method"], side["retention"]) for side in document["methods"]] == [
        (name, share) for share in (0.5, 0.25) for name in ("prunevid", "fastv", "dtd|fastv")
    ]
    for side in document["methods"]:
        assert set(side) == set(Side.__dataclass_fields__)
        assert abs(side["tokens"] - side["retention"] * side["original_tokens"]) <= 1
    assert document["methods"][0]["options"]["config"]["tau"] == 0.8
    assert [part["method"] for part in document["methods"][2]["options"]["parts"]] == ["dtd", "fastv"]


def test_compare_as_a_table(
    cli: Any, clip_path: Path, question: str, monkeypatch: pytest.MonkeyPatch, plugin: None
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--methods", "fastv,tome|fastv,impossible", "--retention", "0.25,0.1", "--repeats", "1"]
    status, out, err = cli("compare", clip_path, question, *options)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    for words in (["unpruned", "300 → 300", "100%"], ["fastv", "0.25", "300 → 75", "yes"], ["tome|fastv", "300 → 30"]):
        assert any(all(word in line for word in words) for line in lines), words
    assert "(1) impossible at 0.25: This needs a tower of marble." in out
    assert "of 4" in out and max(map(len, lines)) <= 120


def test_compare_of_failures_alone_is_one(cli: Any, clip_path: Path, question: str, plugin: None) -> None:
    status, out, err = cli("compare", clip_path, question, "--methods", "impossible,broken", "--repeats", 1, "--json")
    assert status == 1 and err == "prunevid: None of the methods could run; the output says why.\n"
    assert [bool(side["reason"]) for side in json.loads(out)["methods"]] == [True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "fastvv"], "'fastv'"),
        (["--methods", "none"], "no method to compare"),
        (["--methods", "fastv|sparsevlm"], "both act inside"),
        (["--retention", "0.5,1.5"], "retention_ratio is 1.5"),
        (["--retention", "0"], "retention_ratio is 0"),
        (["--retention", "half"], "--retention"),
        (["--average-over-layers"], "give retention_ratio"),
        (["--repeats", "0"], "repeats is 0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--model", "./no-such-folder"], "no-such-folder"),
    ],
)
def test_compare_used_wrongly(cli: Any, clip_path: Path, question: str, options: list[str], words: str) -> None:
    status, out, err = cli("compare", clip_path, question, *options)
    assert (status, out) == (2, "")
    assert err.startswith("prunevid: ") and err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("options", "method", "tokens"),
    [
        (["--method", "fastv", "--retention", "0.15"], "fastv", 45),
        (["--retention", "0.15"], "prunevid", 45),
        (["--method", "visionzip", "--tokens", "21"], "visionzip", 21),
        (["--method", "tome|fastv", "--tokens", "21"], "tome|fastv", 21),
        (["--preset", "paper", "--retention", "0.25", "--average-over-layers", "--tau", "0.6"], "prunevid", None),
        (["--method", "prunevid|fastv", "--preset", "stage1_only", "--tokens", "9", "--tau", "0.6"], None, 9),
    ],
)
def test_ask_with_a_budget(
    cli: Any, clip_path: Path, question: str, options: list[str], method: str | None, tokens: int | None
) -> None:
    status, out, err = cli("ask", clip_path, question, *options, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["method"] == (method or "prunevid|fastv")
    left = document["stats"]["stage2"]["compressed_tokens"]
    assert left == tokens if tokens else left < 0.25 * VISUAL
    if "--tau" in options:
        config = document["options"]["parts"][0]["config"] if method is None else document["config"]
        assert config["tau"] == 0.6


def test_options_of_prunevid_with_another_method(cli: Any, clip_path: Path, question: str) -> None:
    for options in (["--tau", "0.5"], ["--preset", "paper"]):
        status, out, err = cli("ask", clip_path, question, "--method", "fastv", *options)
        assert (status, out) == (2, "") and "fastv" in err and "belongs to the method" in err
