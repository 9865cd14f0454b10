# SPDX-License-Identifier: Apache-2.0
"""One run on several processes: places, shares, locks, waiting and merging."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.asking import Plain, forked, items_about, lines, runner, timeless, wait_for
from prunevid.errors import ConfigError, InputError, StoppedError
from prunevid.evaluation.command import ask_all
from prunevid.evaluation.distributed import Others, Place, at_work, claimed, merge
from prunevid.evaluation.items import Item
from prunevid.evaluation.runner import by_clip
from prunevid.evaluation.runs import ANSWERS, Record, parts_of, read_answers, read_records

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
TWO = (Place(0, 2), Place(1, 2, 1))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Place(3, 8, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Place(1, 2, 1)),
        ({"RANK": "", "WORLD_SIZE": ""}, Place()),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None),
        ({"RANK": "1"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "one", "WORLD_SIZE": "2"}, None),
    ],
)
def test_a_process_finds_its_place(environment: dict[str, str], expected: Place | None) -> None:
    if expected is not None:
        assert Place.of_environment(environment) == expected
    else:
        with pytest.raises(ConfigError, match=f"RANK={environment['RANK']}.* name no place"):
            Place.of_environment(environment)


@given(st.integers(0, 30), st.integers(1, 7))
def test_every_clip_is_in_one_share_and_shares_are_even(clips: int, world: int) -> None:
    groups: list[Any] = [[clip] for clip in range(clips)]
    shares = [Place(rank, world).share(groups) for rank in range(world)]
    assert sorted(clip for share in shares for [clip] in share) == list(range(clips))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("place", "given", "gpus", "expected"),
    [
        (Place(), {"device": "cuda:1"}, 2, {"device": "cuda:1"}),
        (Place(), {"device_map": "auto"}, 2, {"device_map": "auto"}),
        (Place(5, 8, 1), {}, 4, {"device": "cuda:1"}),
        (Place(5, 8, 1), {"device": "cuda", "dtype": "bfloat16"}, 4, {"device": "cuda:1", "dtype": "bfloat16"}),
        (Place(1, 2, 1), {}, 0, {"device": "cpu"}),
        (Place(1, 2, 1), {"device": "cpu"}, 4, {"device": "cpu"}),
        (Place(1, 2, 1), {"device": "cuda:0"}, 4, "takes a GPU of its own; say cuda"),
        (Place(1, 2, 1), {"device_map": "auto"}, 4, "spreads one model over all GPUs, but 2 processes"),
    ],
)
def test_each_process_has_a_device_of_its_own(place: Place, given: Any, gpus: int, expected: Any) -> None:
    if isinstance(expected, dict):
        assert place.loading(given, gpus) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            place.loading(given, gpus)


def test_a_folder_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with claimed(folder, Place()):
        for other in (Place(), Place(0, 2), Place(1, 2)):
            with pytest.raises(InputError, match="Another run is at work in"), claimed(folder, other):
                pass
    with claimed(folder, Place(0, 2)), claimed(folder, Place(1, 2)):  # processes of one run
        for other in (Place(), Place(1, 2), Place(2, 3)):
            with pytest.raises(InputError, match="Another run is at work in"), claimed(folder, other):
                pass
        assert at_work(folder / Place(1, 2).lock)
    with claimed(folder, Place()):
        assert not at_work(folder / Place(1, 2).lock)


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be made"), claimed(tmp_path / "file" / "run", Place()):
        pass


@needs_fork
def test_a_killed_run_lets_go_of_its_folder(tmp_path: Path) -> None:
    def work() -> None:
        with claimed(tmp_path, Place()):
            (tmp_path / "in").touch()
            signal.pause()

    child = forked(work)
    try:
        wait_for((tmp_path / "in").exists)
        with pytest.raises(InputError, match="Another run"), claimed(tmp_path, Place()):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with claimed(tmp_path, Place()):
        pass


def single(folder: Path, items: list[Item]) -> dict[str, Record]:
    """The answers of one process."""
    folder.mkdir()
    ask_all(folder, items, runner(folder.parent), Place())
    return merge(folder, items)


def same(one: dict[str, Record], two: dict[str, Record]) -> bool:
    """The same records in the same order, but for times."""
    return list(map(timeless, one.values())) == list(map(timeless, two.values()))


@needs_fork
def test_two_processes_one_of_them_killed_and_the_rest_asked_by_three_then_by_one(tmp_path: Path) -> None:
    items = items_about(tmp_path, seeds=(0, 1, 2, 3), each=2)
    expected, folder = single(tmp_path / "single", items), tmp_path / "several"
    folder.mkdir()

    def work(place: Place, wait_at: str | None = None) -> None:
        with claimed(folder, place):
            ask_all(folder, items, runner(tmp_path, Plain(wait_at=wait_at)), place)

    main, other = forked(lambda: work(TWO[0])), forked(lambda: work(TWO[1], "3/0"))
    wait_for(lambda: lines(folder / TWO[0].file) == 4 and lines(folder / TWO[1].file) == 2)
    assert at_work(folder / TWO[0].lock)  # the main one waits
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(main, 0)[1]) == 3  # and does not for ever
    assert read_answers(folder).keys() == {item.key for item in items} - {"3/0", "3/1"}
    third = forked(lambda: work(Place(2, 3)))  # of three processes, the one that has nothing left to ask
    assert os.waitstatus_to_exitcode(os.waitpid(third, 0)[1]) == 0
    protocol = Plain()
    with claimed(folder, Place()):
        ask_all(folder, items, runner(tmp_path, protocol), Place())
        found = merge(folder, items)
    assert protocol.asked == ["3/0", "3/1"]
    assert same(found, expected) and list(found) == [item.key for item in items]
    assert parts_of(folder) == [] and list(read_records(folder / ANSWERS)) == list(found)


@needs_fork
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    items = items_about(tmp_path, seeds=(0, 1, 2), each=2)
    (tmp_path / "clips" / "1.mp4").write_bytes(b"no clip")
    expected, folder = single(tmp_path / "single", items), tmp_path / "several"
    folder.mkdir()

    def work(place: Place) -> None:
        with claimed(folder, place):
            ask_all(folder, items, runner(tmp_path), place)

    child = forked(lambda: work(TWO[1]))
    work(TWO[0])
    assert os.waitpid(child, 0)[1] == 0
    assert [lines(folder / place.file) for place in TWO] == [4, 2]
    found = merge(folder, items)
    assert same(found, expected) and sum(one.error is not None for one in found.values()) == 2


def records(folder: Path, place: Place, keys: list[str], error: str | None = None) -> None:
    """Puts records into the file of a process."""
    with (folder / place.file).open("a") as file:
        file.writelines(Record(key, "t", "v", "q", error=error).line() for key in keys)


def test_the_main_process_does_not_wait_for_one_that_is_gone(tmp_path: Path) -> None:
    items = items_about(tmp_path, seeds=(0, 1), each=2)
    groups, told = by_clip(items), []
    records(tmp_path, TWO[1], ["1/0"])
    with pytest.raises(StoppedError, match=r"^Process 2 of 2 ended with 1 of its 2 questions not answered; .*same"):
        Others(tmp_path, groups, TWO[0], patience=0.2, pause=0.01).wait(told.append)
    assert told == ["Waiting for 1 of 2 processes."]
    records(tmp_path, TWO[1], ["1/1"])
    Others(tmp_path, groups, TWO[0]).wait(told.append)
    assert len(told) == 1  # nothing to wait for


def test_one_that_was_seen_at_work_is_not_waited_for_once_it_has_ended(tmp_path: Path) -> None:
    others = Others(tmp_path, by_clip(items_about(tmp_path, seeds=(0, 1), each=1)), TWO[0])
    with claimed(tmp_path, TWO[1]):
        others.look()
    told: list[str] = []
    with pytest.raises(StoppedError, match="ended with 1 of its 1 questions"):
        others.wait(told.append)
    assert told == []


@needs_fork
def test_a_look_at_a_lock_keeps_nobody_from_beginning(tmp_path: Path) -> None:
    def looking() -> None:
        (tmp_path / "looking").touch()
        while not (tmp_path / "enough").exists():
            at_work(tmp_path / TWO[1].lock)

    child = forked(looking)
    wait_for((tmp_path / "looking").exists)
    try:
        for _ in range(50):
            with claimed(tmp_path, TWO[1]):
                pass
    finally:
        (tmp_path / "enough").touch()
        assert os.waitpid(child, 0)[1] == 0


def test_a_file_that_grows_is_waited_for_even_where_locks_are_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = items_about(tmp_path, seeds=(0, 1), each=4)
    clock, left = [0.0], ["1/0", "1/1", "1/2", "1/3"]

    def sleep(seconds: float) -> None:
        clock[0] += 8.0
        if left:
            records(tmp_path, TWO[1], [left.pop(0)])

    monkeypatch.setattr("prunevid.evaluation.distributed.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("prunevid.evaluation.distributed.time.sleep", sleep)
    Others(tmp_path, by_clip(items), TWO[0], patience=10.0).wait()
    assert clock[0] == 32.0


def test_errors_that_are_asked_again_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their records are there from before, so that only the other process's lock says whether it is done."""
    items = items_about(tmp_path, seeds=(0, 1), each=1)
    records(tmp_path, TWO[1], ["1/0"], error="broken")
    steps: list[Any] = [claimed(tmp_path, TWO[1])]
    steps += [steps[0].__enter__, lambda: None, lambda: steps[0].__exit__(None, None, None)]
    paused: list[int] = []

    def sleep(seconds: float) -> None:
        paused.append(1)
        steps[len(paused)]()

    monkeypatch.setattr("prunevid.evaluation.distributed.time.sleep", sleep)
    Others(tmp_path, by_clip(items), TWO[0], retrying=True).wait()
    assert len(paused) == 3  # not begun, at work, at work; then seen to have ended
    Others(tmp_path, by_clip(items), TWO[0]).wait()
    assert len(paused) == 3
