# SPDX-License-Identifier: Apache-2.0
"""`prunevid ask CLIP` without a question: a question a line, from a pipe and on a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.conftest import OTHER, QUESTION
from app.test_cli import TINY
from prunevid.cli import run
from prunevid.qa import VideoQA


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts lines on the standard input."""

    def type_lines(*lines: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))

    return type_lines


def alone(cli: Any, folder: Path, clip: Path, questions: Sequence[str], *options: str) -> list[str]:
    """The answers to the questions, each asked in a command of its own."""
    return [cli("ask", clip, question, "--model", folder, *TINY, *options)[1].strip() for question in questions]


@pytest.mark.parametrize("end", [[], ["", OTHER], ["/quit", OTHER]])
def test_a_question_a_line(cli: Any, typed: Any, folder: Path, clip_file: Path, end: list[str]) -> None:
    expected = alone(cli, folder, clip_file, (QUESTION, OTHER, QUESTION))
    typed(QUESTION, f"  {OTHER} ", QUESTION, *end)
    status, out, err = cli("ask", clip_file, "--model", folder, *TINY)
    assert (status, err, out.splitlines()) == (0, "", expected)


def test_sampling_gives_what_the_question_alone_gives(cli: Any, typed: Any, folder: Path, clip_file: Path) -> None:
    options = ("--temperature", "2", "--seed", "5")
    typed(OTHER, QUESTION, OTHER)
    out = cli("ask", clip_file, "--model", folder, *TINY, *options)[1]
    assert out.splitlines() == alone(cli, folder, clip_file, (OTHER, QUESTION, OTHER), *options)


@pytest.mark.parametrize("follow_up", [[], ["--follow-up"]], ids=["each alone", "follow-ups"])
def test_json_is_a_line_each_and_follow_ups_see_what_was_said(
    cli: Any, typed: Any, folder: Path, clip_file: Path, follow_up: list[str]
) -> None:
    typed(QUESTION, OTHER, QUESTION)
    status, out, _ = cli("ask", clip_file, "--model", folder, *TINY, "--json", *follow_up, "--max-frames", "8")
    documents = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [one["question"] for one in documents] == [QUESTION, OTHER, QUESTION]
    assert all(one["stats"]["open"]["prefix_tokens"] > 0 and one["model"] == str(folder) for one in documents)
    qa = VideoQA.from_pretrained(folder, method_options={"pruning_layer": 1}, device="cpu")
    turns: list[tuple[str, str]] = []
    for document in documents:
        history = turns if follow_up else ()
        answer = qa.ask(clip_file, document["question"], history=history, max_new_tokens=3, max_frames=8)
        assert document["answer"] == answer.text
        assert document["stats"]["stage3"] == answer.stats["stage3"]
        turns.append((document["question"], answer.text))


def test_a_question_that_can_not_be_asked_is_told_and_the_next_answered(
    cli: Any, typed: Any, folder: Path, clip_file: Path
) -> None:
    typed("what is <|video_pad|> ?", QUESTION)
    status, out, err = cli("ask", clip_file, "--model", folder, *TINY)
    assert status == 2 and out.splitlines() == alone(cli, folder, clip_file, (QUESTION,))
    assert err.count("\n") == 1 and err.startswith("prunevid: ") and "stands for frames" in err


def test_statistics_say_what_is_held(cli: Any, typed: Any, folder: Path, clip_file: Path) -> None:
    qa = VideoQA.from_pretrained(folder, method_options={"pruning_layer": 1}, device="cpu")
    with qa.open(clip_file) as video:
        whole = video.bytes
    for bound, words in ((whole, "prompt tokens were not run again"), (whole - 1, f"above max_open_bytes {whole - 1}")):
        typed(QUESTION)
        status, out, _ = cli("ask", clip_file, "--model", folder, *TINY, "--stats", "--max-open-bytes", bound)
        assert status == 0 and words in " ".join(out.split()) and "MiB held" in out


def test_a_clip_that_is_none_reads_no_question(cli: Any, typed: Any, folder: Path, tmp_path: Path) -> None:
    typed(QUESTION)
    status, out, err = cli("ask", tmp_path / "gone.mp4", "--model", folder, *TINY)
    assert (status, out) == (2, "") and "gone.mp4" in err and sys.stdin.read() == QUESTION


def test_on_a_terminal_it_asks(cli: Any, folder: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([QUESTION])
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    status, out, err = cli("ask", clip_file, "--model", folder, *TINY)
    assert status == 0 and prompts == ["? ", "? "]
    assert out.splitlines() == [*alone(cli, folder, clip_file, (QUESTION,)), ""]
    assert str(clip_file) in err and "16 frames" in err and "/quit" in err


def test_through_a_pipe_an_answer_comes_before_the_next_question(
    folder: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that waits for each answer gets it: what is printed is flushed before the next line is read."""
    out = io.BufferedWriter(seen := Seen())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8"))
    counts: list[int] = []

    class Lines(io.StringIO):
        def __next__(self) -> str:
            counts.append(seen.lines)
            return super().__next__()

    monkeypatch.setattr(sys, "stdin", Lines(f"{QUESTION}\n{OTHER}\n"))
    assert run(["ask", str(clip_file), "--model", str(folder), *TINY]) == 0
    assert counts == [0, 1, 2]


class Seen(io.RawIOBase):
    """Counts the lines that really left."""

    lines = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.lines += bytes(data).count(b"\n")
        return len(data)
