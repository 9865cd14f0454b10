# SPDX-License-Identifier: Apache-2.0
"""lmms-eval's own evaluator runs our models on a small task of made clips, with and without pruning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmms_eval.evaluator  # noqa: F401  (it takes every sink off the logger when it is first imported)
import pytest
from lmms_eval.models import get_model
from loguru import logger

from lmms import local_models, local_task
from prunevid import attach
from prunevid.errors import ConfigError
from prunevid.integrations.lmms import PARENTS
from prunevid.qa import VideoQA

Run = Callable[..., dict[str, Any]]
SETTINGS = "pruning_layer=2"
EMBEDDED = "device_map=cpu,min_pixels=4096,max_pixels=4096,max_num_frames=16"


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The warnings and notes that were logged."""
    lines: list[str] = []
    number = logger.add(lambda message: lines.append(f"{message.record['level'].name} {message.record['message']}"))
    yield lines
    logger.remove(number)


def kept(lines: list[str]) -> list[str]:
    """Those that tell what was kept."""
    return [line for line in lines if "visual tokens" in line and "a prompt" in line]


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
def test_qwen_without_pruning_is_the_class_it_extends(simple: bool, run: Run, folder: Path, logged: list[str]) -> None:
    given = f"pretrained={folder},{EMBEDDED}"
    theirs = run("qwen2_5_vl", given, force_simple=simple)
    unpruned = run("prunevid_qwen2_5_vl", f"{given},method=none", force_simple=simple)
    assert local_task.answers(unpruned) == local_task.answers(theirs)
    assert local_task.prompts(unpruned) == local_task.prompts(theirs)
    right = theirs["results"]["made_clips"]["right,none"]
    assert unpruned["results"]["made_clips"]["right,none"] == right >= 5 / 6
    assert [line.split(": ")[1] for line in kept(logged)] == [
        "visual tokens 128.0 -> 128.0 a prompt (100.0% kept), prefill FLOPs 100.0% of the unpruned model's; means over "
        "6 prompts with a video of 6"
    ]


def test_qwen_pruned(run: Run, folder: Path, logged: list[str]) -> None:
    results = run("prunevid_qwen2_5_vl", f"pretrained={folder},{EMBEDDED},retention_ratio=0.2,{SETTINGS}")
    numbers = results["throughput"]
    assert numbers["avg_prunevid_visual_tokens"] == 128
    assert abs(numbers["avg_prunevid_visual_tokens_kept"] - 0.2 * 128) <= 1
    assert numbers["avg_prunevid_retained_ratio"] == numbers["avg_prunevid_visual_tokens_kept"] / 128
    assert 0.1 < numbers["avg_prunevid_flops_ratio"] < 0.7
    assert numbers["total_gen_tokens"] > 0
    assert len(kept(logged)) == 1 and kept(logged)[0].startswith("INFO prunevid_qwen2_5_vl, method prunevid: ")
    assert results["results"]["made_clips"]["right,none"] >= 0.5


@pytest.mark.parametrize("name", local_models.ARGUMENTS)
def test_families(name: str, run: Run, tmp_path: Path, logged: list[str]) -> None:
    family, given = local_models.ARGUMENTS[name]
    given = f"pretrained={local_models.save(family, tmp_path / family)},{given}"
    placed = given if "device_map" in given else f"{given},device_map=cpu"  # theirs needs to be told; ours does not
    simple = PARENTS[name].chat is None
    theirs = run(PARENTS[name].model_id, placed, force_simple=simple)
    unpruned = run(name, f"{given},method=none")
    assert local_task.answers(unpruned) == local_task.answers(theirs)
    assert local_task.prompts(unpruned) == local_task.prompts(theirs)
    run(name, f"{given},retention_ratio=0.3,pruning_layer=1,tau=0.5")
    before, after = kept(logged)
    assert "(100.0% kept)" in before
    share = float(after.split(" kept)")[0].split("(")[1].rstrip("%"))
    assert abs(share - 30) < 2, after


def test_tasks_ask_in_the_words_for_the_parent(run: Run, tmp_path: Path) -> None:
    family, given = local_models.ARGUMENTS["prunevid_qwen3_vl"]
    asked = run("prunevid_qwen3_vl", f"pretrained={local_models.save(family, tmp_path / family)},{given}", limit=1)
    assert local_task.prompts(asked)[0].startswith(local_task.SPECIAL)
    assert asked["config"]["model"] == "prunevid_qwen3_vl"


def test_a_wrong_argument_is_one_sentence(run: Run, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^'keep_rate' is no argument of prunevid_qwen2_5_vl .*'keep_ratio'.*\.$"):
        run("prunevid_qwen2_5_vl", f"pretrained={folder},{EMBEDDED},keep_rate=0.2")


def test_the_model_is_pruned_until_all_answers_are_there(task: Path, folder: Path) -> None:
    lm = get_model("prunevid_qwen2_5_vl").create_from_arg_string(
        f"pretrained={folder},{EMBEDDED},{SETTINGS}", {"device": "cpu", "batch_size": 1}
    )
    model = lm.model
    assert lm.pruning.model is model and lm.pruning.method.name == "prunevid"
    local_task.evaluate(task, lm, "")
    assert lm.pruning is None and not model._forward_hooks
    attach(model, "none").detach()  # nothing is attached any more


def test_hidden_errors_are_told(task: Path, tmp_path: Path, logged: list[str]) -> None:
    """lmms-eval's LlavaHf answers "" after an error."""
    family, given = local_models.ARGUMENTS["prunevid_llava_onevision"]
    lm = get_model("prunevid_llava_onevision").create_from_arg_string(
        f"pretrained={local_models.save(family, tmp_path / family)},{given},pruning_layer=1", {"device": "cpu"}
    )

    def fail(**inputs: Any) -> Any:
        raise RuntimeError("no memory")

    lm.model.generate = fail
    results = local_task.evaluate(task, lm, "", limit=2)
    assert local_task.answers(results) == ["", ""]
    assert any(line.startswith("WARNING") and "2 of 2 answers were made without the model" in line for line in logged)


def test_a_method_that_prunes_nothing_is_told(run: Run, logged: list[str]) -> None:
    run("prunevid_builtin", "retention_ratio=1,method=random", limit=1)
    assert [line.split()[0] for line in kept(logged)] == ["WARNING"]


def test_the_embedded_model_as_video_qa_answers(run: Run, task: Path) -> None:
    results = run("prunevid_builtin", "retention_ratio=0.25")
    qa = VideoQA.builtin(retention_ratio=0.25)
    rows = json.loads((task / "questions.json").read_text())
    asked = [qa.ask(row["video"], row["question"], max_new_tokens=2) for row in rows]
    assert local_task.answers(results) == [answer.text for answer in asked]
    shares = [answer.stats["total"] for answer in asked]
    tokens = [answer.stats["stage1"]["original_tokens"] for answer in asked]
    held = sum(share["retained_ratio"] * count for share, count in zip(shares, tokens))
    numbers = results["throughput"]
    assert numbers["avg_prunevid_visual_tokens"] == sum(tokens) / 6
    assert numbers["avg_prunevid_visual_tokens_kept"] == pytest.approx(held / 6)
    assert numbers["avg_prunevid_flops_ratio"] == pytest.approx(sum(share["flops_ratio"] for share in shares) / 6)


def test_any_model_by_its_folder(run: Run, folder: Path) -> None:
    unpruned, pruned = (run("prunevid", f"pretrained={folder},method={name}") for name in ("none", "fastv"))
    assert unpruned["results"]["made_clips"]["right,none"] == 1.0
    before, after = (one["throughput"]["avg_prunevid_visual_tokens_kept"] for one in (unpruned, pruned))
    assert after < before == 128


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("prunevid", "method=none", "pretrained is missing"),
        ("prunevid_builtin", "pretrained=a/b", "prunevid_builtin is the embedded model"),
        ("prunevid_builtin", "prunning_layer=3", "'prunning_layer' is no argument .*'pruning_layer'"),
    ],
)
def test_wrong_arguments_of_our_own_classes(model: str, given: str, message: str, run: Run) -> None:
    with pytest.raises(ConfigError, match=message):
        run(model, given)


def test_a_broken_clip_is_told_and_the_run_goes_on(tmp_path: Path, logged: list[str]) -> None:
    folder = local_task.write(tmp_path)
    (folder / "1.mp4").write_bytes(b"no video")
    results = local_task.evaluate(folder, "prunevid_builtin", "method=none")
    assert [bool(text) for text in local_task.answers(results)] == [True, True, False, False, True, True]
    assert sum(line.startswith("ERROR made_clips, document") and "1.mp4" in line for line in logged) == 2
    assert any("2 of 6 questions have no answer" in line for line in logged)
