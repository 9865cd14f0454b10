# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import prunevid.builtin
from app import tiny_qwen
from app.conftest import QUESTION
from app.test_stats import KEYS
from prunevid.builtin.model import WEIGHTS, build_model, build_processor
from prunevid.builtin.questions import LEARNT
from prunevid.cli import doctor
from prunevid.cli.demo import right

TINY = ["--pruning-layer", "1", "--device", "cpu", "--max-new-tokens", "3"]


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model; with fresh weights where none are shipped yet."""
    if not WEIGHTS.is_file():

        def fresh(device: Any = "cpu", dtype: Any = None, attn_implementation: str = "sdpa") -> tuple[Any, Any]:
            return build_model(attn_implementation).to(device=device, dtype=dtype).eval(), build_processor()

        monkeypatch.setattr(prunevid.builtin, "load", fresh)


def sentence(text: str) -> bool:
    """One line, told by the program."""
    return text.startswith("prunevid: ") and text.count("\n") == 1 and "Traceback" not in text


def test_help_names_every_command_and_option(cli: Any) -> None:
    status, out, err = cli("--help")
    assert (status, err) == (0, "")
    assert all(name in out for name in ("ask", "compare", "demo", "doctor", "--version", "--debug"))
    for command, words in {
        "ask": ("CLIP", "QUESTION", "--model", "--preset", "--max-new-tokens", "--stats", "--json", "--keep-ratio"),
        "compare": ("CLIP", "QUESTION", "--methods", "--retention", "--repeats", "--model", "--json"),
        "demo": ("--seed", "--out", "--json"),
        "doctor": ("--json",),
    }.items():
        status, out, _ = cli(command, "--help")
        assert status == 0
        assert all(word in out for word in words)


def test_version(cli: Any) -> None:
    status, out, _ = cli("--version")
    assert status == 0
    assert out.startswith("prunevid ") and out.strip() != "prunevid"


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["ask"],
        ["ask", "a.mp4", "--flops"],
        ["ask", "a.mp4", "who ?", "--follow-up"],
        ["ask", "a.mp4", "who ?", "--max-open-bytes", "9"],
        ["ask", "a.mp4", "--max-open-bytes", "0"],
        ["ask", "a.mp4", "who ?", "more"],
        ["ask", "a.mp4", "who ?", "--tau", "much"],
        ["ask", "a.mp4", "who ?", "--no-such-option"],
        ["ask", "a.mp4", "who ?", "--temperature", "0"],
        ["demo", "--seed", "-1"],
    ],
)
def test_wrong_use_is_two_and_a_sentence(cli: Any, arguments: list[str]) -> None:
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert sentence(err) and "--help" in err


def test_no_command_prints_help(cli: Any) -> None:
    status, out, err = cli()
    assert status == 2
    assert "doctor" in out + err


def test_ask_prints_the_answer_alone(cli: Any, folder: Path, clip_file: Path) -> None:
    status, out, err = cli("ask", clip_file, QUESTION, "--model", folder, *TINY)
    assert (status, err) == (0, "")
    assert out.count("\n") == 1


def test_ask_with_stats_adds_a_table(cli: Any, folder: Path, clip_file: Path) -> None:
    status, out, _ = cli("ask", clip_file, QUESTION, "--model", folder, *TINY, "--stats", "--flops")
    assert status == 0
    for words in ("visual tokens", "stage 1, merged", "after layer 1", "KV cache", "by formula", "counted", "prefill"):
        assert words in out


def test_ask_in_json(cli: Any, folder: Path, clip_file: Path) -> None:
    options = ["--tau", "0.5", "--keep-ratio", "0.25", "--cluster-ratio", "0.7", "--max-frames", "6", "--start", "1"]
    status, out, err = cli("ask", clip_file, QUESTION, "--model", folder, *TINY, *options, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert set(document) == {"question", "answer", "clip", "stats", "model", "method", "options", "config"}
    assert (document["question"], document["method"], document["model"]) == (QUESTION, "prunevid", str(folder))
    assert {name: set(part) for name, part in document["stats"].items()} == KEYS
    config = document["config"]
    assert (config["tau"], config["keep_ratio"], config["cluster_ratio"], config["pruning_layer"]) == (
        0.5,
        0.25,
        0.7,
        1,
    )
    assert document["clip"]["frames"] == 6
    assert document["clip"]["times"][0] >= 1.0


def test_ask_presets_methods_and_sampling(cli: Any, folder: Path, clip_file: Path) -> None:
    base = ["ask", clip_file, QUESTION, "--model", folder, "--device", "cpu", "--max-new-tokens", 2, "--json"]
    _, out, _ = cli(*base, "--preset", "conservative", "--pruning-layer", 1)
    assert json.loads(out)["config"]["tau"] == 0.7
    _, out, _ = cli(*base, "--method", "none", "--fps", 2)
    document = json.loads(out)
    assert document["config"] is None
    assert document["clip"]["frames"] == 6
    assert document["stats"]["total"]["retained_ratio"] == 1.0
    sampled = [json.loads(cli(*base, "--method", "none", "--temperature", 9, "--seed", 4)[1]) for _ in range(2)]
    assert sampled[0]["answer"] == sampled[1]["answer"]


def test_ask_reads_a_folder_of_pictures(cli: Any, folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    for index, frame in enumerate(tiny_qwen.frames(6)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    arguments = ["ask", tmp_path, QUESTION, "--model", folder, *TINY, "--source-fps", "2", "--json"]
    document = json.loads(cli(*arguments)[1])
    assert document["clip"]["times"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_ask_with_a_budget_for_frames_and_in_chunks(cli: Any, folder: Path, clip_file: Path) -> None:
    arguments = ("ask", clip_file, QUESTION, "--model", folder, *TINY, "--max-frames", "auto", "--token-budget", "60")
    status, out, _ = cli(*arguments, "--vision-chunk-frames", "4", "--json")
    document = json.loads(out)
    fit = document["stats"]["frame_budget"]
    assert status == 0 and fit["budget"] == 60 and fit["within"]
    assert fit["adjusted_frames"] == document["clip"]["frames"] == 24 or fit["spent"] > 30
    assert document["stats"]["vision_chunks"]["frames"] >= 4
    status, out, _ = cli(*arguments, "--vision-chunk-frames", "4", "--stats")
    assert status == 0 and "frame budget" in out and "vision chunks" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tau", "7"], "tau is 7"),
        (["--keep-ratio", "-0.1"], "keep_ratio is -0.1"),
        (["--cluster-ratio", "0"], "cluster_ratio is 0"),
        (["--pruning-layer", "4"], "allow 0 to 3"),
        (["--preset", "newspaper"], "newspaper"),
        (["--method", "magic"], "magic"),
        (["--method", "none", "--tau", "0.5"], "--tau belongs to the method prunevid"),
        (["--method", "none", "--preset", "paper"], "belongs to the method"),
        (["--preset", "baseline", "--retention", "0.5"], "prunes nothing"),
        (["--retention", "1.5"], "retention_ratio is 1.5"),
        (["--retention", "0.5", "--tokens", "3"], "both given"),
        (["--average-over-layers"], "give retention_ratio"),
        (["--start", "2", "--end", "1"], "start"),
        (["--start", "60"], "60"),
        (["--max-frames", "0"], "max_frames is 0"),
        (["--max-frames", "many"], "--max-frames is 'many'"),
        (["--max-frames", "auto"], "give either token_budget or flops_budget"),
        (["--max-frames", "auto", "--token-budget", "9", "--flops-budget", "9"], "2 were given"),
        (["--max-frames", "auto", "--token-budget", "1"], "token_budget is 1"),
        (["--max-frames", "auto", "--flops-budget", "-1"], "flops_budget is -1"),
        (["--token-budget", "9"], "set max_frames='auto'"),
        (["--vision-chunk-frames", "some"], "vision_chunk_frames is 'some'"),
        (["--sampling", "random"], "random"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--max-seconds", "1"], "limit"),
        (["--max-pixels", "100"], "limit"),
        (["--device", "toaster"], "toaster"),
        (["--dtype", "float31"], "float31"),
        (["--model", "./no-such-folder"], "no-such-folder"),
    ],
)
def test_values_that_are_wrong(cli: Any, folder: Path, clip_file: Path, options: list[str], words: str) -> None:
    status, out, err = cli("ask", clip_file, QUESTION, "--model", folder, *TINY, *options)
    assert (status, out) == (2, "")
    assert sentence(err) and words in err


def test_clips_that_are_none(cli: Any, folder: Path, clip_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no clip\n" * 50)
    (tmp_path / "cut.mp4").write_bytes(clip_file.read_bytes()[:400])
    for name in ("gone.mp4", "empty.mp4", "text.mp4", "cut.mp4"):
        status, out, err = cli("ask", tmp_path / name, QUESTION, "--model", folder, *TINY)
        assert (status, out) == (2, ""), name
        assert sentence(err) and name in err
    status, out, err = cli("ask", clip_file, " ", "--model", folder, *TINY)
    assert (status, out) == (2, "")
    assert sentence(err) and "question is empty" in err


def test_what_is_no_wrong_use_is_one(cli: Any, tmp_path: Path, clip_file: Path) -> None:
    status, out, err = cli("ask", clip_file, QUESTION, "--model", tmp_path)
    assert (status, out) == (1, "")
    assert sentence(err) and "config.json" in err


def test_debug_adds_the_traceback_wherever_it_stands(cli: Any, tmp_path: Path) -> None:
    for arguments in (["--debug", "ask", tmp_path / "a.mp4", ""], ["ask", tmp_path / "a.mp4", "", "--debug"]):
        status, _, err = cli(*arguments)
        assert status == 2
        assert "Traceback" in err and "question is empty" in err


def test_an_unexpected_error_is_one_sentence(
    cli: Any, folder: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("prunevid.qa.generate", broken)
    status, out, err = cli("ask", clip_file, QUESTION, "--model", folder, *TINY)
    assert (status, out) == (1, "")
    assert sentence(err) and "RuntimeError: out of memory" in err and "--debug" in err


def test_without_a_model_the_embedded_one_answers(cli: Any, clip_file: Path) -> None:
    status, out, _ = cli("ask", clip_file, "how many objects are there ?", "--json", "--max-new-tokens", "2")
    assert status == 0
    document = json.loads(out)
    assert document["model"] == "builtin"
    assert document["config"]["pruning_layer"] == prunevid.builtin.DEFAULTS["pruning_layer"]
    assert document["stats"]["total"]["retained_ratio"] < 1


def test_demo_shows_both_answers_and_leaves_the_clip(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    status, out, _ = cli("demo", "--seed", "3", "--out", path, "--json")
    assert status == 0
    document = json.loads(out)
    assert Path(document["clip"]) == path.resolve() and path.stat().st_size > 0
    made = prunevid.builtin.make_clip(3)
    asked = [(entry["question"], entry["expected"]) for entry in document["questions"]]
    assert asked == [(one.text, one.answer) for one in made.questions if one.kind in LEARNT]
    for entry in document["questions"]:
        for side in ("unpruned", "pruned"):
            assert {name: set(part) for name, part in entry[side]["stats"].items()} == KEYS
            assert entry[side]["correct"] == right(entry[side]["answer"], entry["expected"])
        assert entry["unpruned"]["stats"]["total"]["retained_ratio"] == 1.0
        assert entry["pruned"]["stats"]["total"]["retained_ratio"] < 1.0
    assert document["summary"]["questions"] == len(asked)


def test_demo_as_a_table(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = cli("demo", "--out", tmp_path / "clip.mp4", "--preset", "aggressive")
    assert status == 0
    assert str(tmp_path / "clip.mp4") in out.replace("\n", "")
    for words in ("expected", "unpruned", "pruned", "KV cache", "Right:", "prunevid ask"):
        assert words in out


def test_demo_overwrites_nothing_unasked(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.mp4"
    path.write_text("precious")
    for out, words in ((path, "--force"), (tmp_path, "folder"), (tmp_path / "gone" / "a.mp4", "make it first")):
        status, _, err = cli("demo", "--out", out)
        assert status == 2
        assert sentence(err) and words in err
    assert path.read_text() == "precious"


def test_doctor(cli: Any) -> None:
    status, out, _ = cli("doctor", "--json")
    document = json.loads(out)
    assert status == 0 and document["healthy"] is True
    checks = {check["name"]: check for check in document["checks"]}
    for name in ("python", "torch", "transformers", "av", "cpu", "sdpa", "eager", "write and read a clip"):
        assert checks[name]["works"], name
    assert checks["embedded model"]["works"]
    assert {"cuda", "mps", "flash_attention_2"} <= {name.split(":")[0] for name in checks}
    assert "GiB in bfloat16" in checks["Qwen/Qwen2.5-VL-7B-Instruct"]["detail"]
    status, out, _ = cli("doctor")
    assert status == 0
    assert "Everything essential works." in out


@pytest.mark.parametrize(
    ("rooms", "words", "works"),
    [
        ([("cuda:0", 139.0), ("cpu", 64.0)], "would run on cuda:0: about 19 GiB", True),
        ([("cuda:0", 8.0), ("cpu", 64.0)], "would run on cpu, slowly", True),
        ([("cpu", 12.0)], "the largest memory here is 12 GiB", False),
        ([], "the largest memory here is 0 GiB", False),
    ],
)
def test_doctor_judges_models_by_memory(
    rooms: list[tuple[str, float]], words: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_memory", lambda: rooms)
    seven = next(check for check in doctor.checkpoints() if "7B" in check.name)
    assert seven.works is works and words in seven.detail


def test_on_a_terminal_a_spinner_says_what_is_done_and_the_answer_stays_alone(
    cli: Any, folder: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    status, out, err = cli("ask", clip_file, QUESTION, "--model", folder, *TINY)
    assert status == 0 and out.count("\n") == 1 and "\x1b" not in out
    assert "Answering" in err


def test_doctor_says_what_is_broken(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise RuntimeError("no weights [here]")

    monkeypatch.setattr(prunevid.builtin, "load", gone)
    status, out, _ = cli("doctor")
    assert status == 1
    assert "no weights [here]" in out and "Broken: embedded model." in out


def start(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "prunevid.cli", *arguments], capture_output=True, text=True, **options)


def test_the_process_ends_with_the_status(tmp_path: Path) -> None:
    done = start("ask", str(tmp_path / "gone.mp4"), "who ?", "--model", str(tmp_path / "gone"))
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence(done.stderr)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, prunevid.cli as cli; status = cli.run(['ask', '--help']);"
        "print([name for name in ('torch', 'transformers', 'av', 'numpy') if name in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"
