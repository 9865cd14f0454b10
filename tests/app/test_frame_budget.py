# SPDX-License-Identifier: Apache-2.0
"""As many frames as a budget carries: what is predicted, measured and adjusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app import tiny_qwen
from app.test_families_qa import QUESTION, _qa
from prunevid import methods
from prunevid.errors import ConfigError, InputError, PruneVidError
from prunevid.frame_budget import Costs, FrameBudget, fit
from prunevid.qa import VideoQA
from shipped import CELLS

COUNT = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", count=COUNT)


def _with(qa: VideoQA, method: str, **options: Any) -> VideoQA:
    return VideoQA(qa.model, qa.processor, method=method, **options)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm", "internvl"])
def test_a_budget_of_the_method_is_predicted_exactly(family: str, clip: Path) -> None:
    """One frame more would cost more than the budget, and nothing has to be measured."""
    qa = _with(_qa(family), "fastv", retention_ratio=0.3)
    budget = 30
    answer = qa.ask(clip, QUESTION, max_frames="auto", token_budget=budget, max_new_tokens=2)
    found, frames = answer.stats["frame_budget"], len(answer.clip.times)
    assert found["predicted_frames"] == found["adjusted_frames"] == frames < COUNT
    assert found["predicted"] == found["measured"] == found["spent"] == answer.stats["stage2"]["compressed_tokens"]
    assert found["spent"] <= budget and found["within"]
    more = qa.ask(clip, QUESTION, max_frames=frames + 1, max_new_tokens=1)
    assert more.stats["stage2"]["compressed_tokens"] > budget
    same = qa.ask(clip, QUESTION, max_frames=frames, max_new_tokens=2)
    assert same.text == answer.text and same.clip == answer.clip and same.stats["stage2"] == answer.stats["stage2"]


@pytest.mark.parametrize("method", ["prunevid", "fastv", "tome|fastv", "lookm"])
@pytest.mark.parametrize("unit", ["tokens", "flops"])
def test_what_is_not_known_is_measured_and_adjusted_once(method: str, unit: str, clip: Path) -> None:
    qa, prefills = _with(_qa("qwen2_5_vl"), method), []
    handle = qa.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: prefills.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    costs = {}
    for frames in (4, COUNT):
        one = qa.ask(clip, QUESTION, max_frames=frames, max_new_tokens=1)
        costs[frames] = one.stats["stage2"]["compressed_tokens"]
        if unit == "flops":
            config = qa.model.model.language_model.config
            from prunevid.stats import decoder_flops

            whole = decoder_flops(prefills[-1], config.hidden_size, config.intermediate_size)
            costs[frames] = one.stats["total"]["flops_ratio"] * config.num_hidden_layers * whole
    prefills.clear()
    budget = (costs[4] + costs[COUNT]) / 2
    given = {"token_budget": int(budget)} if unit == "tokens" else {"flops_budget": budget}
    answer = qa.ask(clip, QUESTION, max_frames="auto", max_new_tokens=1, **given)
    handle.remove()
    found = answer.stats["frame_budget"]
    assert len(prefills) == 2  # one to measure, one to answer
    assert found["unit"] == unit and found["available_frames"] == COUNT
    assert found["adjusted_frames"] == len(answer.clip.times) > 4
    assert found["within"] == (found["spent"] <= found["budget"])
    if method != "prunevid":  # whose costs depend on what is in the frames
        assert found["spent"] == pytest.approx(budget, rel=0.2)
    if found["measured"] < 0.8 * found["predicted"]:
        assert found["adjusted_frames"] > found["predicted_frames"]


def test_the_adjustment_is_by_what_was_measured() -> None:
    """Costs that are twice what is predicted halve the frames; those that are nothing take all."""

    class Steady(Costs):
        available, least = 40, 2
        factor = 1.0

        def __init__(self, amount: int) -> None:
            self._budget = FrameBudget(tokens=amount)

        def of(self, frames: int) -> float:
            return self.factor * 10.0 * frames

        def tokens(self, frames: int) -> tuple[int, int]:
            return 10 * frames, 10 * frames + 3

        def learn(self, frames: int, stats: dict[str, Any]) -> float:
            self.factor = stats["factor"]
            return self.of(frames)

    def found(amount: int, factor: float) -> tuple[int, int]:
        costs = Steady(amount)
        done = fit(costs, costs._budget, lambda frames: {"factor": factor})
        assert done.length == 10 * done.frames + 3 and done.measured == factor * done.predicted
        return done.tried, done.frames

    assert found(200, 2.0) == (20, 10)
    assert found(200, 0.5) == (20, 40)
    assert found(200, 0.8) == (20, 25)
    assert found(200, 0.0) == (20, 40)
    assert found(10, 0.2) == (2, 5)
    costs = Steady(200)
    assert fit(costs, costs._budget, None).frames == 20
    for measure in (None, lambda frames: {"factor": 1.0}):
        with pytest.raises(InputError, match=r"token_budget is 19, but 2 frame\(s\) of this clip are going to cost 20"):
            fit(Steady(19), FrameBudget(tokens=19), measure)
    with pytest.raises(InputError, match="cost 100 tokens"):
        fit(Steady(20), FrameBudget(tokens=20), lambda frames: {"factor": 5.0})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_frames": "auto"}, "give either token_budget or flops_budget; 0 were given"),
        ({"max_frames": "auto", "token_budget": 9, "flops_budget": 9.0}, "2 were given"),
        ({"max_frames": "auto", "token_budget": 0}, "token_budget is 0"),
        ({"max_frames": "auto", "token_budget": True}, "token_budget is True"),
        ({"max_frames": "auto", "flops_budget": "much"}, "flops_budget is 'much'"),
        ({"max_frames": 4, "token_budget": 9}, "token_budget is 9, but max_frames is 4"),
        ({"flops_budget": 9}, "flops_budget is 9, but max_frames is None"),
        ({"max_frames": "auto", "token_budget": 1}, "give more"),
        ({"max_frames": "all"}, "max_frames is 'all'"),
    ],
)
def test_refusals_are_one_sentence(options: dict[str, Any], words: str, clip: Path) -> None:
    qa = _qa("qwen2_5_vl")
    with pytest.raises((ConfigError, InputError)) as caught:
        qa.ask(clip, QUESTION, **options)
    assert words in str(caught.value) and str(caught.value).count(". ") == 0
    with pytest.raises(PruneVidError, match="sampled already"):
        qa.ask(qa.load_clip(clip), QUESTION, max_frames="auto", token_budget=90)


def test_the_embedded_model_sees_more_frames_for_the_same_tokens() -> None:
    from prunevid.builtin.clips import make_clip

    made = make_clip(3)
    frames = {}
    for method in ("none", "prunevid"):
        qa = VideoQA.builtin(method=method)
        answer = qa.ask(made.frames, "what moves?", max_frames="auto", token_budget=2 * CELLS + 5, source_fps=made.fps)
        frames[method] = len(answer.clip.times)
        assert answer.stats["frame_budget"]["within"]
    assert frames["none"] == 4 < frames["prunevid"]


def test_expected_tokens() -> None:
    assert methods.get("none").expected_tokens(100) == (100, 100)
    assert methods.get("prunevid").expected_tokens(100) == (50, 20)
    assert methods.get("prunevid", retention_ratio=0.1).expected_tokens(100) == (25, 10)
    assert methods.get("prunevid", enable_stage2=False).expected_tokens(100) == (50, 50)
    assert methods.get("fastv", retention_tokens=30).expected_tokens(100) == (100, 30)
    assert methods.get("tome", retention_ratio=0.5).expected_tokens(100) == (50, 50)


def test_accuracy_against_frames_at_equal_cost(capsys: pytest.CaptureFixture[str]) -> None:
    from prunevid.builtin.frames import at_equal_cost, main, table

    runs = [VideoQA.builtin("none"), VideoQA.builtin("fastv", 0.25)]
    points = at_equal_cost([25, 50], runs, clips=2, questions=3)
    assert [(point.budget, point.method) for point in points] == [
        (25, "none"), (25, "fastv at 0.25"), (50, "none"), (50, "fastv at 0.25")
    ]  # fmt: skip
    assert [point.frames for point in points] == [2, 8, 4, 16]
    assert [point.spent for point in points] == [25, 25, 50, 50]
    assert all(point.score.questions == 6 for point in points)
    shown = table(points)
    assert shown.count("\n") == 5 and "| 25 | fastv at 0.25 | 8.0 | 25 |" in shown
    main(["--flops", "2e8", "--methods", "none", "--clips", "1", "--questions", "2", "--json"])
    [point] = json.loads(capsys.readouterr().out)
    assert point["unit"] == "flops" and 0 < point["spent"] <= 2e8
