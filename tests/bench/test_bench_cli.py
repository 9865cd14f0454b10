# SPDX-License-Identifier: Apache-2.0
"""`prunevid bench speed` from end to end, on tiny shapes; no time is asserted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.tiny_qwen import save
from bench.tiny_subjects import subject
from prunevid import cli
from prunevid.bench import Settings, clips, measure_questions, measure_scaling, measure_speed
from prunevid.bench.goals import goals_of
from prunevid.bench.questions import NOTHING
from prunevid.bench.results import ALL_KEPT, ATTACHED, UNPRUNED, Spread
from prunevid.bench.subjects import QUESTION
from prunevid.bench.text import grids
from prunevid.errors import ConfigError
from prunevid.methods import get

TINY = ["--layers", "3", "--width", "128", "--device", "cpu", "--frames", "4", "--resolution", "112x112"]
QUICK = ["--repeats", "2", "--warmup", "0", "--new-tokens", "3"]
METHOD = get("prunevid", retention_ratio=0.25)


def run(*options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.run(["bench", "speed", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = run(*TINY, *QUICK, "--methods", "prunevid,random", "--batches", "1,2", "--out", str(tmp_path), "--plot",
                capsys=capsys)  # fmt: skip
    assert found["subject"]["layers"] == 3 and found["subject"]["width"] == 128
    assert found["machine"]["device"] and found["machine"]["torch"] and found["notes"] == []
    assert set(found["stages"]) == {"decode_video", "preprocess", "vision"}
    assert all(spread["median"] > 0 for spread in found["stages"].values())
    first, second = found["batches"]
    assert [side["name"] for side in first["sides"]] == [UNPRUNED, ATTACHED, ALL_KEPT, "prunevid 20%", "random 20%"]
    assert [side["name"] for side in second["sides"]] == [UNPRUNED, "prunevid 20%", "random 20%"]
    assert (first["frames"], second["frames"]) == ([4], [4, 2])
    plain, attached, kept, pruned, _ = first["sides"]
    assert plain["visual_tokens"] == [32, 32, 32] and plain["ideal"] == plain["speedup"]["median"] == 1
    assert attached["flops"] == kept["flops"] == plain["flops"] > pruned["flops"]
    assert attached["kv_bytes"] == plain["kv_bytes"] > pruned["kv_bytes"]
    assert pruned["visual_tokens"][2] == 6 and pruned["ideal"] > pruned["ideal_causal"] > 1
    assert attached["peak_bytes"] == pytest.approx(plain["peak_bytes"], abs=64), "but for a few numbers"
    assert pruned["peak_bytes"] < plain["peak_bytes"]
    assert plain["merge"] is plain["choose"] is attached["merge"] is None
    assert pruned["merge"]["count"] == pruned["choose"]["count"] == pruned["prefill"]["count"] == 2
    goals = {(goal["name"], goal["side"]) for goal in found["goals"]}
    assert {side for _, side in goals} == {ATTACHED, ALL_KEPT, "prunevid 20%", "random 20%"}
    assert len([goal for goal in found["goals"] if goal["side"] == "prunevid 20%"]) == 5
    memory = [goal for goal in found["goals"] if goal["name"].startswith("peak")]
    assert all(goal["met"] == (goal["value"]["median"] <= 1) for goal in memory)
    assert json.loads((tmp_path / "speed.json").read_text()) == found
    text = (tmp_path / "speed.md").read_text()
    assert "| prunevid 20% | 32 → " in text and "**Goals**" in text and "**Batches**" in text
    assert {path.suffix for path in tmp_path.glob("speed-*")} == {".svg", ".png"}


def test_tables_without_json(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--shape", "llava-onevision-7b", "--layers", "3", "--width", "128", "--device", "cpu", "--frames", "2"]
    assert cli.run(["bench", "speed", *options, *QUICK, "--no-memory", "--cpu-time", "--methods", "fastv"]) == 0
    told = capsys.readouterr().out
    assert "Before the first token" in told and "fastv 20%" in told and "met" in told
    assert "peak memory" not in told


def test_a_model_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(save(tmp_path / "tiny"))
    found = run("--model", folder, "--device", "cpu", "--frames", "4", "--resolution", "64x48", *QUICK, "--retention",
                "own", capsys=capsys)  # fmt: skip
    assert found["subject"]["name"] == "tiny" and found["subject"]["width"] == 32
    assert found["batches"][0]["sides"][-1]["name"] == "prunevid"


def test_shapes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "speed", "--shape", "list"]) == 0
    assert "qwen2.5-vl-7b" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shape", "gpt-9"], "gpt-9"),
        (["--width", "100"], "multiple of 128"),
        (["--methods", "nothing"], "nothing"),
        (["--retention", "x"], "list of numbers"),
        (["--retention", "2"], "above 0 and at most 1"),
        (["--batches", "0"], "batches"),
        (["--resolution", "wide"], "--resolution"),
        (["--repeats", "0"], "repeats is 0"),
        (["--new-tokens", "2"], "new_tokens is 2"),
        (["--plot"], "--out"),
        (["--questions", "0", *TINY], "questions is 0"),
        (["--questions", "2", "--scaling"], "another measurement"),
        (["--questions", "2", "--plot", "--out", "x"], "nothing to draw"),
        (["--model", "m", "--width", "128"], "--width belongs to a shape"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_use_exits_with_2(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "speed", *options]) == 2
    assert words in capsys.readouterr().err


def test_all_sides_run_once_a_round_in_changing_orders() -> None:
    lines: list[str] = []
    settings = Settings(4, 112, 112, methods=(METHOD,), repeats=6, warmup=0, new_tokens=3, memory=False)
    measure_speed(subject(), settings, lines.append)
    rounds = [line.partition(": ") for line in lines if line.startswith("Round")]
    names = [UNPRUNED, ATTACHED, ALL_KEPT, "prunevid 25%", "twin of prunevid 25%"]
    assert Counter(name for _, _, name in rounds) == dict.fromkeys(names, 6)
    orders = [tuple(name for turn, _, name in rounds if turn == f"Round {k + 1} of 6") for k in range(6)]
    assert all(sorted(order) == sorted(names) for order in orders) and len(set(orders)) > 1


def test_without_pyav_the_file_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "can_write", lambda: False)
    settings = Settings(4, 112, 112, methods=(METHOD,), repeats=1, warmup=0, new_tokens=3, memory=False)
    result = measure_speed(subject(), settings, goals=False)
    assert result.stages["decode_video"] is None and "PyAV" in result.notes[0]
    assert [side.name for side in result.batches[0].sides] == [UNPRUNED, "prunevid 25%"] and not result.goals


def test_a_method_that_watches_the_tower_is_not_given_a_replay() -> None:
    settings = Settings(4, 112, 112, methods=(get("visionzip", retention_ratio=0.25),), repeats=1, warmup=0,
                        new_tokens=3, memory=False)  # fmt: skip
    result = measure_speed(subject("llava-onevision-7b"), settings, goals=False)
    assert result.batches[0].sides[1].visual_tokens[2] < result.batches[0].sides[0].visual_tokens[2]


def test_a_method_that_cannot_run_is_left_out_with_the_reason() -> None:
    deep = get("prunevid", pruning_layer=99)
    settings = Settings(4, 112, 112, methods=(deep, METHOD), repeats=1, warmup=0, new_tokens=3, memory=False)
    result = measure_speed(subject(), settings, goals=False)
    assert [side.name for side in result.batches[0].sides] == [UNPRUNED, "prunevid 25%"]
    assert len(result.notes) == 1 and result.notes[0].startswith("prunevid is left out:") and "99" in result.notes[0]


def test_scaling(tmp_path: Path) -> None:
    settings = Settings(4, 112, 112, methods=(METHOD,), repeats=2, warmup=0, new_tokens=3)
    result = measure_scaling(subject(), settings, stage1_frames=(8, 16, 64), prefill_frames=(4, 8))
    assert [one.tokens for one in result.stage1] == [8 * 196, 16 * 196, 64 * 196]
    assert [one.tokens for one in result.prefill] == [32, 64]
    peaks = [one.peak_bytes["stage 1"] for one in result.stage1]
    assert peaks[0] < peaks[1] < peaks[2] < 6 * peaks[1], "memory grows no faster than the clip"
    assert list(result.prefill[0].milliseconds) == [UNPRUNED, "prunevid 25%"]
    assert [grid.title for grid in grids(result)] == ["Stage 1 over frames", "Prefill over tokens"]
    pytest.importorskip("matplotlib")
    from prunevid.bench.plots import write_plots

    assert all(path.stat().st_size > 5000 for path in write_plots(result, tmp_path / "scaling"))


# ---- questions ---------------------------------------------------------------------------------------------------


def test_questions_about_one_clip(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run(
        *TINY, *QUICK, "--methods", "prunevid,random", "--questions", "3", "--out", str(tmp_path), capsys=capsys
    )
    nothing, pruned, random = found["sides"]
    assert [side["name"] for side in found["sides"]] == [NOTHING, "prunevid 20%", "random 20%"]
    assert nothing["visual_tokens"] == [32, 32, 32] and 32 > pruned["visual_tokens"][1] > 6
    assert pruned["visual_tokens"][2] == 6 and random["visual_tokens"] == [32, 6, 6]
    assert nothing["reused_tokens"] == pruned["reused_tokens"] == random["reused_tokens"] > 32
    assert nothing["held_bytes"]["prefix"] > random["held_bytes"]["prefix"] > 0
    assert (pruned["first"]["count"], pruned["further"]["count"], pruned["share"]["count"]) == (2, 6, 2)
    assert pruned["first"]["median"] > pruned["vision"]["median"] > 0 < pruned["share"]["median"]
    assert [goal["side"] for goal in found["goals"]] == [side["name"] for side in found["sides"]]
    assert all(goal["met"] == (goal["value"]["median"] <= goal["bound"] == 0.15) for goal in found["goals"])
    assert json.loads((tmp_path / "questions.json").read_text()) == found
    assert "| random 20% | 32 → 6 → 6 |" in (tmp_path / "questions.md").read_text()


@pytest.mark.parametrize(("shape", "towers"), [("qwen2.5-vl-7b", 1), ("llava-onevision-7b", 1), ("st-llm-7b", 3)])
def test_the_tower_runs_once_for_all_questions_that_it_is_not_asked(shape: str, towers: int) -> None:
    one = subject(shape, layers=3)
    settings = Settings(2, 112, 112, methods=(METHOD,), repeats=2, warmup=1)
    calls = []
    tower = next(module for name, module in one.base.named_children() if name.startswith("vis"))
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        measure_questions(one, settings, 2)
    finally:
        handle.remove()
    assert len(calls) == 2 * 3 * towers, "two sides, three rounds"


def test_another_question_changes_the_text_behind_the_video_alone() -> None:
    one = subject()
    inputs = one.encode([clips.make_frames(4, 112, 112)])
    asked = [one.another_question(inputs, number) for number in range(3)]
    assert asked[0] is inputs and all(other["pixel_values_videos"] is inputs["pixel_values_videos"] for other in asked)
    behind = [other["input_ids"][0, -QUESTION:].tolist() for other in asked]
    assert len(set(map(tuple, behind))) == 3
    assert all(other["input_ids"][0, :-QUESTION].equal(inputs["input_ids"][0, :-QUESTION]) for other in asked)


def test_a_method_that_cannot_be_asked_is_left_out_with_the_reason() -> None:
    settings = Settings(4, 112, 112, methods=(get("prunevid", pruning_layer=99), METHOD), repeats=2, warmup=0)
    result = measure_questions(subject(), settings, 1)
    assert [side.name for side in result.sides] == [NOTHING, "prunevid 25%"]
    assert len(result.notes) == 1 and result.notes[0].startswith("prunevid is left out:")


# ---- goals -------------------------------------------------------------------------------------------------------


def ratios_of(**changes: float | None) -> dict[str, Any]:
    usual: dict[str, float | None] = dict(
        cost=0.5, gain=0.9, share=0.01, step=1.0, memory=0.5, merge=1.5, choose=0.5
    ) | {"causal gain": 0.9}
    return {name: None if v is None else Spread.of([v]) for name, v in (usual | changes).items()} | {"tokens": 6272}


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, None),
        ({"gain": 0.84}, "prefill speed-up / ideal by FLOPs"),
        ({"gain": 0.85}, None),
        ({"share": 0.031}, "stage 1 / unpruned prefill"),
        ({"step": 1.021}, "new token / plain model, same cache length"),
        ({"memory": 1.001}, "peak memory / unpruned"),
        ({"memory": None}, None),
        ({"merge": 2.1}, "stage 1, ms"),
        ({"choose": 1.1}, "stages 2 and 3, ms"),
    ],
)
def test_goals_are_met_or_not(change: dict[str, Any], missed: str | None) -> None:
    goals = goals_of({"prunevid": ratios_of(**change)}, True, {"width": 3584})
    assert [goal.name for goal in goals if not goal.met] == ([missed] if missed else [])
    assert len(goals) == 7 - (change.get("memory", 1) is None)


def test_milliseconds_are_goals_on_a_gpu_at_full_size_alone() -> None:
    for on_gpu, width, tokens in ((False, 3584, 6272), (True, 512, 6272), (True, 3584, 3136)):
        goals = goals_of({"prunevid": {**ratios_of(), "tokens": tokens}}, on_gpu, {"width": width})
        assert not [goal for goal in goals if goal.name.endswith("ms")]


@pytest.mark.parametrize(("cost", "met"), [(1.005, True), (1.02, False)])
def test_an_engine_with_nothing_to_do_is_held_to_its_cost(cost: float, met: bool) -> None:
    goals = goals_of({ATTACHED: ratios_of(cost=cost)}, False, {"width": 512})
    assert [goal.met for goal in goals if goal.name.startswith("prefill with")] == [met]
    assert not [goal for goal in goals if "speed-up" in goal.name]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="frames is 0"):
        Settings(frames=0)
    with pytest.raises(ConfigError, match="batches"):
        Settings(batches=())
