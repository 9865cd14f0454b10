# SPDX-License-Identifier: Apache-2.0
"""Asking, writing and going on: killed, full and broken runs lose nothing but the question in hand."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.asking import Plain, embedded, forked, items_about, lines, runner, timeless, wait_for
from evaluation.fixtures import place_clip
from prunevid.builtin.packing import VISUAL
from prunevid.errors import InputError, StoppedError
from prunevid.evaluation.command import ask_all
from prunevid.evaluation.distributed import Place
from prunevid.evaluation.items import Item, VideoSource
from prunevid.evaluation.runner import by_clip
from prunevid.evaluation.runs import ANSWERS, Record, read_answers, read_records
from prunevid.evaluation.writing import Journal, write_json

ALONE = Place()
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def record(key: str, **fields: Any) -> Record:
    return Record(key=key, task="t", video="v", question="q", **fields)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, (0.0, 1.0), (0.0, 2.0)]))))
def test_questions_about_the_same_part_of_a_clip_come_together(parts: list[tuple[int, Any]]) -> None:
    items = [
        Item("mvbench", str(place), "t", VideoSource(Path(str(clip)), bound=bound), "q")
        for place, (clip, bound) in enumerate(parts)
    ]
    groups = by_clip(items)
    expected: list[Any] = []
    for part in parts:  # in the order of the first
        if part not in expected:
            expected.append(part)
    assert [(int(str(group[0].video.path)), group[0].video.bound) for group in groups] == expected
    for group, part in zip(groups, expected):
        assert [int(item.key) for item in group] == [place for place, other in enumerate(parts) if other == part]


def test_a_clip_is_read_and_encoded_once_for_all_its_questions(tmp_path: Path) -> None:
    items, protocol = items_about(tmp_path, seeds=(0, 1), each=3), Plain()
    encoded: list[int] = []
    hook = embedded()[0].model.visual.register_forward_hook(lambda *_: encoded.append(1))
    try:
        ask_all(tmp_path, items, runner(tmp_path, protocol), ALONE)
    finally:
        hook.remove()
    assert len(encoded) == 2 and protocol.loaded == ["0/0", "1/0"]
    assert protocol.asked == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]
    found = read_records(tmp_path / ANSWERS)
    assert list(found) == protocol.asked
    alone = runner(tmp_path)
    for item in items:  # each on its own, without anything shared
        clip = alone.protocol.load(item, alone.frames)
        answer = alone.qa.ask(clip, item.question, max_new_tokens=1)
        one = found[item.key]
        assert (one.text, one.pred, one.correct) == (answer.continuation, answer.text, answer.text == item.answer)
        assert (one.task, one.question, one.answer) == (item.task, item.question, item.answer)
        assert one.video == f"clips/{item.key[0]}.mp4"
        assert one.stats["original_tokens"] == answer.stats["stage1"]["original_tokens"] == VISUAL
        assert one.stats["kept_tokens"] == answer.stats["stage2"]["compressed_tokens"]
        assert one.stats["retained_ratio"] == answer.stats["total"]["retained_ratio"]
        assert one.stats["flops_ratio"] == answer.stats["total"]["flops_ratio"]
        assert one.stats["cache_ratio"] == pytest.approx(1 - answer.stats["stage3"]["reduction_ratio"])
    spent = [found[f"0/{number}"].stats["milliseconds"] for number in range(3)]
    assert [times["decode_video"] > 0 for times in spent] == [True, False, False]
    assert [times["vision"] > 0 for times in spent] == [True, False, False]


def test_a_broken_or_missing_clip_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    items = items_about(tmp_path, seeds=(0, 1, 2))
    (tmp_path / "clips" / "0.mp4").write_bytes(b"no clip")
    (tmp_path / "clips" / "1.mp4").unlink()
    items.append(dataclasses.replace(items[-1], key="2/9", question="unaskable"))
    ask_all(tmp_path, items, runner(tmp_path), ALONE)
    found = read_records(tmp_path / ANSWERS)
    assert found.keys() == {item.key for item in items}
    for key, one in found.items():
        if key in ("2/0", "2/1"):
            assert one.error is None and one.text
        else:
            assert one.error and "\n" not in one.error and one.text == one.pred == "" and one.correct is None
    assert "1.mp4" in str(found["1/0"].error) and "can't be put" in str(found["2/9"].error)


def test_errors_are_asked_again_only_when_wanted(tmp_path: Path) -> None:
    items = items_about(tmp_path, seeds=(0, 1))
    clip = tmp_path / "clips" / "0.mp4"
    clip.rename(tmp_path / "aside.mp4")
    ask_all(tmp_path, items, runner(tmp_path), ALONE)
    (tmp_path / "aside.mp4").rename(clip)
    for retry, asked in ((False, []), (True, ["0/0", "0/1"]), (True, [])):
        protocol = Plain()
        ask_all(tmp_path, items, runner(tmp_path, protocol), ALONE, retry_errors=retry)
        assert protocol.asked == asked
    found = read_answers(tmp_path)
    assert len(found) == 4 and all(one.error is None for one in found.values())
    assert lines(tmp_path / ANSWERS) == 6  # the errors are still there, and count no more


def test_an_error_of_the_model_stops_the_run_and_keeps_what_is_there(tmp_path: Path) -> None:
    class Failing(Plain):
        def read(self, item: Item, text: str, family: str) -> Any:
            if item.key == "1/0":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().read(item, text, family)

    items = items_about(tmp_path)
    with pytest.raises(StoppedError, match=r"^The question 1/0 .*OutOfMemoryError: CUDA out of memory .*--frames"):
        ask_all(tmp_path, items, runner(tmp_path, Failing()), ALONE)
    assert list(read_answers(tmp_path)) == ["0/0", "0/1"]
    assert not any(module._forward_hooks for module in embedded()[0].modules())  # the model is free again
    ask_all(tmp_path, items, runner(tmp_path), ALONE)
    assert read_answers(tmp_path).keys() == {item.key for item in items}


def test_whatever_loading_a_clip_raises_unforeseen_stops_the_run_too(tmp_path: Path) -> None:
    class Failing(Plain):
        def load(self, item: Item, frames: int) -> Any:
            if item.key == "1/0":
                raise ZeroDivisionError("nought")
            return super().load(item, frames)

    with pytest.raises(StoppedError, match="The question 1/0 could not be answered: ZeroDivisionError: nought"):
        ask_all(tmp_path, items_about(tmp_path), runner(tmp_path, Failing()), ALONE)
    assert list(read_answers(tmp_path)) == ["0/0", "0/1"]


@needs_fork
def test_a_killed_run_loses_the_question_in_hand_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    items = items_about(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    ask_all(whole, items, runner(tmp_path), ALONE)
    child = forked(lambda: ask_all(killed, items, runner(tmp_path, Plain(wait_at="1/1")), ALONE))
    try:
        wait_for(lambda: lines(killed / ANSWERS) == 3)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert list(read_answers(killed)) == ["0/0", "0/1", "1/0"]
    protocol = Plain()
    ask_all(killed, items, runner(tmp_path, protocol), ALONE)
    assert protocol.asked == ["1/1", "2/0", "2/1"]
    one, two = read_answers(whole), read_answers(killed)
    assert list(one) == list(two)
    assert [timeless(record) for record in one.values()] == [timeless(record) for record in two.values()]


def test_a_line_that_was_cut_off_anywhere_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS
    first, last = record("a", text="\u2028\x85é"), record("b", text="\U0001f600 ä")
    before = first.line().encode()
    whole = before + last.line().encode()
    for end in [*range(len(before), len(whole) - 16, 7), *range(len(whole) - 16, len(whole))]:
        path.write_bytes(whole[:end])
        assert read_records(path) == {"a": first}
        with Journal(path) as journal:
            assert path.read_bytes() == before
            journal.append(last)
        assert path.read_bytes() == whole
    assert read_records(path) == {"a": first, "b": last}


def test_a_long_line_without_end_is_cut_away_too(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS
    for before in (b"", record("a").line().encode()):
        path.write_bytes(before + b"x" * 200_000)
        Journal(path).close()
        assert path.read_bytes() == before


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / ANSWERS) as journal:
        journal.append(record("a", text="\ud83d?"))
    assert read_records(tmp_path / ANSWERS)["a"].text == "\ud83d?"


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS
    path.write_text(record("a").line() + "{}\n" + record("b").line())
    with pytest.raises(InputError, match=r"answers.jsonl, line 2, is damaged"):
        read_answers(tmp_path)


def test_an_answer_counts_before_an_error_in_whatever_file_it_is(tmp_path: Path) -> None:
    answer, error, later = record("a", text="x"), record("a", error="broken"), record("a", text="y")
    for files, expected in (([answer, error], answer), ([error, answer], answer), ([answer, later], later)):
        for number, one in enumerate(files, start=1):
            (tmp_path / f"answers-0000{number}-of-00002.jsonl").write_text(one.line())
        assert read_answers(tmp_path) == {"a": expected}


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a disk on which so many bytes have room."""

    def fill(room: int) -> None:
        left = [room]

        def write(file: int, content: bytes) -> int:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = os_write(file, content[: left[0]])
            left[0] -= written
            return written

        monkeypatch.setattr(os, "write", write)

    os_write = os.write
    return fill


def test_a_full_disk_ends_a_run_with_a_sentence_and_the_run_goes_on_later(
    tmp_path: Path, full: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = items_about(tmp_path, seeds=(0, 1))
    full(1500)
    with pytest.raises(StoppedError, match=r"answers.jsonl can't be written \(No space left on device\).*go on\.$"):
        ask_all(tmp_path, items, runner(tmp_path), ALONE)
    kept = (tmp_path / ANSWERS).read_bytes()
    assert kept.endswith(b"\n") and 0 < len(read_answers(tmp_path)) < 4
    monkeypatch.undo()
    ask_all(tmp_path, items, runner(tmp_path), ALONE)
    assert (tmp_path / ANSWERS).read_bytes().startswith(kept) and len(read_answers(tmp_path)) == 4


def test_a_document_is_replaced_whole_or_not_at_all(tmp_path: Path, full: Callable[[int], None]) -> None:
    path = tmp_path / "results.json"
    assert write_json(path, {"a": 1})
    full(5)
    with pytest.raises(StoppedError, match=r"results.json can't be written"):
        write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [path]


def test_only_the_first_writes_a_document_that_must_be_new(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert write_json(path, {"a": 1}, fresh=True)
    assert not write_json(path, {"a": 2}, fresh=True)
    assert '"a": 1' in path.read_text() and list(tmp_path.iterdir()) == [path]


@needs_fork
def test_the_systems_own_refusal_to_write_is_met_the_same_way(tmp_path: Path) -> None:
    """A limit on the size of files: the system writes a part of the line, then fails."""
    import resource

    path, size = tmp_path / ANSWERS, len(record("a").line())

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))
        with Journal(path) as journal:
            journal.append(record("a"))
            try:
                journal.append(record("b"))
            except StoppedError:
                os._exit(7)

    _, status = os.waitpid(forked(work), 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert path.read_text() == record("a").line()


def test_a_folder_that_takes_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be written"):
        Journal(tmp_path / "nowhere" / ANSWERS)


def test_a_clip_beside_the_benchmarks_folder_is_named_whole(tmp_path: Path) -> None:
    path = place_clip(0, tmp_path / "else" / "0.mp4")
    one = next(runner(tmp_path / "root").records([[Item("mvbench", "k", "t", VideoSource(path), "what moves ?")]]))
    assert one.video == str(path)
