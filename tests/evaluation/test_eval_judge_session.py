# SPDX-License-Identifier: Apache-2.0
"""Judging whole runs: what is asked, kept, taken up again, limited and written."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation.judge_server import Answer, Server, fails, generic, pair, says, serving, temporal, write_run
from prunevid.errors import ConfigError, InputError, JudgeError, StoppedError
from prunevid.evaluation.judging.cache import REPLIES, STUB_REPLIES, replies_in
from prunevid.evaluation.judging.endpoint import Endpoint
from prunevid.evaluation.judging.session import Judged, judge_run
from prunevid.evaluation.judging.stub import StubJudge
from prunevid.evaluation.runs import RESULTS, Record, read_run

pytestmark = pytest.mark.usefixtures("no_proxy")
RECORDS = [generic(), temporal(), *pair()]
ASPECT = re.compile(r"only as a (.*?) score")
SCORES = {
    "factual accuracy": 5,
    "detail orientation": 4.5,
    "contextual understanding": 3,
    "temporal accuracy": 2,
    "consistency": 1,
}


@pytest.fixture
def server(server: Server) -> Server:
    server.answer = by_aspect
    return server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", RECORDS)


def by_aspect(body: dict[str, Any], number: int) -> Answer:
    """A score for each aspect, so that a mix-up shows."""
    name = ASPECT.search(body["messages"][1]["content"]).group(1)
    return says(f"{{'score': {SCORES[name]}}}")


def judged(folder: Path, server: Server, model: str = "judge-1", **options: Any) -> Judged:
    named = {name: options.pop(name) for name in ("temperature", "attempts") if name in options}
    return judge_run(read_run(folder), endpoint(server.url, model, **named), **options)


@functools.cache
def endpoint(url: str, model: str, **options: Any) -> Endpoint:
    """One for all tests: each would read the machine's certificates anew."""
    return Endpoint(model, base_url=url, environment={}, pause=0.01, **options)


def lines(folder: Path, name: str = REPLIES) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_a_whole_run(folder: Path, server: Server) -> None:
    (folder / RESULTS).write_text('{"n": 4}', encoding="utf-8")
    told: list[tuple[int, int]] = []
    found = judged(folder, server, tell=lambda done, total: told.append((done, total)))
    part = found.part
    assert found.unfinished is None and part["complete"] and not part["stub"]
    means = {aspect: values["mean"] for aspect, values in part["aspects"].items()}
    assert means == {"CI": 5.0, "DO": 4.5, "CU": 3.0, "TU": 2.0, "CO": 1.0}
    assert part["macro_mean"] == part["micro_mean"] == pytest.approx(3.1)
    assert part["judge"]["model"] == "judge-1" and part["judge"]["reported_model"] == "judge-1-0125"
    assert part["judge"]["endpoint"] == server.url and part["judge"]["temperature"] == 0.0
    assert part["judge"]["first"] <= part["judge"]["last"]
    assert part["tokens"] == {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    assert (part["consistency"], part["wording"], part["requests_now"]) == ("prunevid", "prunevid", 5)
    assert json.loads((folder / RESULTS).read_text(encoding="utf-8")) == {"n": 4, "judge": part}
    assert told[0] == (0, 5) and told[-1] == (5, 5) and len(told) == 6


def test_what_is_kept_of_a_reply(folder: Path, server: Server) -> None:
    judged(folder, server)
    found = {line["aspect"]: line for line in lines(folder)}
    assert set(found) == {"CI", "DO", "CU", "TU", "CO"}
    line = found["DO"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line.pop("date"))
    assert re.fullmatch(r"[0-9a-f]{64}", line.pop("messages_sha256"))
    assert line == {
        "key": "generic/17",
        "aspect": "DO",
        "model": "judge-1",
        "reported_model": "judge-1-0125",
        "endpoint": server.url,
        "temperature": 0.0,
        "stub": False,
        "reply": "{'score': 4.5}",
        "score": 4.5,
        "reason": None,
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
    }
    assert found["CO"]["key"] == "consistency/5"
    assert len({line["messages_sha256"] for line in lines(folder)}) == 5


def _other_answer(folder: Path) -> dict[str, Any]:
    write_run(folder, [generic(pred="A dog barks."), *RECORDS[1:]])
    return {}


@pytest.mark.parametrize(
    ("change", "asked_again"),
    [
        (lambda folder: {}, 0),
        (_other_answer, 3),
        (lambda folder: {"model": "judge-2"}, 5),
        (lambda folder: {"temperature": 0.5}, 5),
        (lambda folder: {"wording": "original"}, 5),
        (lambda folder: {"consistency": "fixed"}, 1),
    ],
    ids=["nothing", "answer", "model", "temperature", "wording", "consistency"],
)
def test_what_changed_is_asked_again_and_nothing_else(
    folder: Path, server: Server, change: Any, asked_again: int
) -> None:
    first = judged(folder, server)
    more = change(folder)
    again = judged(folder, server, **more)
    assert again.part["requests_now"] == asked_again and len(server.bodies) == 5 + asked_again
    assert again.part["replies"] == 5
    if not asked_again:
        assert {**again.part, "requests_now": 0, "tokens_now": 0} == {
            **first.part,
            "requests_now": 0,
            "tokens_now": 0,
        }
    judged(folder, server)
    assert len(server.bodies) == 5 + asked_again


def test_another_endpoint_is_another_judge(folder: Path, server: Server) -> None:
    judged(folder, server)
    with serving() as other:
        assert judged(folder, other).part["requests_now"] == 5


def test_equal_questions_are_asked_once(tmp_path: Path, server: Server) -> None:
    folder = write_run(tmp_path, [generic(1), generic(2), generic(3, question="And then?")])
    part = judged(folder, server).part
    assert len(server.bodies) == 6 and part["aspects"]["CI"]["n"] == 3 and part["replies"] == 6


def test_three_replies_then_zero(tmp_path: Path, server: Server) -> None:
    texts = ["I can't.", "{}", "{'score': 9}"]
    server.answer = lambda body, number: says(texts[(number - 1) % 3])
    folder = write_run(tmp_path, [temporal()])
    part = judged(folder, server).part
    assert len(server.bodies) == 3
    aspect = part["aspects"]["TU"]
    assert (aspect["mean"], aspect["n"], aspect["failed"]) == (0.0, 1, {"score out of range": 1})
    assert [line["reason"] for line in lines(folder)] == [
        "no dictionary",
        "no score in the dictionary",
        "score out of range",
    ]
    judged(folder, server)
    assert len(server.bodies) == 3


def test_a_later_reply_counts_and_the_tries_outlive_a_stop(tmp_path: Path, server: Server) -> None:
    server.answer = lambda body, number: says("hm" if number < 3 else "It is {'score': 4}")
    folder = write_run(tmp_path, [temporal()])
    stopped = judged(folder, server, budget_requests=2)
    assert stopped.part["aspects"]["TU"]["n"] == 0 and isinstance(stopped.unfinished, JudgeError)
    part = judged(folder, server).part
    assert part["requests_now"] == 1 and part["aspects"]["TU"]["mean"] == 4.0
    assert part["aspects"]["TU"]["loose"] == 1 and part["replies"] == 3


@pytest.mark.parametrize("blank", ["", " \n"])
def test_empty_answers_score_zero_unasked(tmp_path: Path, server: Server, blank: str) -> None:
    records = [
        generic(pred=blank),
        temporal(pred=blank, error="v.mp4 can't be read."),
        *pair(second=blank),
        temporal(4),
    ]
    part = judged(write_run(tmp_path, records), server).part
    assert len(server.bodies) == 1
    found = {name: (a["mean"], a["n"], a["empty"], a["errors"]) for name, a in part["aspects"].items()}
    assert found == {
        "CI": (0.0, 1, 1, 0),
        "DO": (0.0, 1, 1, 0),
        "CU": (0.0, 1, 1, 0),
        "TU": (1.0, 2, 1, 1),
        "CO": (0.0, 1, 1, 0),
    }


def test_nothing_to_ask(tmp_path: Path, server: Server) -> None:
    found = judged(write_run(tmp_path, [temporal(pred="")]), server)
    assert not server.bodies and found.part["complete"] and found.part["judge"]["first"] is None


def test_half_a_pair_waits(tmp_path: Path, server: Server) -> None:
    found = judged(write_run(tmp_path, pair()[:1] + [temporal()]), server)
    assert found.part["incomplete_pairs"] == ["consistency/5"] and not found.part["complete"]
    assert found.unfinished is None and len(server.bodies) == 1


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("budget", [0, 1, 4])
def test_requests_are_limited(folder: Path, server: Server, budget: int, concurrency: int) -> None:
    found = judged(folder, server, budget_requests=budget, concurrency=concurrency)
    assert len(server.bodies) == budget == found.part["judged"] and found.part["pending"] == 5 - budget
    assert not found.part["complete"]
    assert f"{5 - budget} of 5 items are not judged, since the budget of {budget} requests" in str(found.unfinished)
    assert json.loads((folder / RESULTS).read_text(encoding="utf-8"))["judge"] == found.part
    rest = judged(folder, server)
    assert rest.unfinished is None and len(server.bodies) == 5


def test_repetitions_count_as_requests(folder: Path, server: Server) -> None:
    server.answer = lambda body, number: fails(500)
    found = judged(folder, server, budget_requests=3, concurrency=1)
    assert len(server.bodies) == 3 and found.part["judged"] == 0


def test_tokens_are_limited(folder: Path, server: Server) -> None:
    found = judged(folder, server, budget_tokens=25, concurrency=1)  # 12 each
    assert len(server.bodies) == 3 and found.part["tokens_now"] == 36
    assert "budget of 25 tokens is spent (36 used)" in str(found.unfinished)


def test_tokens_that_nobody_counts_cannot_be_limited(folder: Path, server: Server) -> None:
    server.answer = lambda body, number: says("{'score': 1}", usage=False)
    found = judged(folder, server, budget_tokens=25, concurrency=1)
    assert "--budget-requests" in str(found.unfinished) and len(server.bodies) == 1
    assert judged(folder, server).part["tokens"]["total_tokens"] == 0


def test_an_unreachable_judge_keeps_what_there_is(folder: Path, server: Server) -> None:
    server.answer = lambda body, number: by_aspect(body, number) if number <= 2 else fails(503, "away")
    found = judged(folder, server, concurrency=1, attempts=2)
    assert isinstance(found.unfinished, JudgeError) and "HTTP 503 (away)" in str(found.unfinished)
    assert found.part["judged"] == 2 and len(lines(folder)) == 2 and len(server.bodies) == 4
    server.answer = by_aspect
    assert judged(folder, server).part["requests_now"] == 3


def test_requests_at_once(tmp_path: Path, server: Server) -> None:
    together = threading.Barrier(3)

    def meet(body: dict[str, Any], number: int) -> Answer:
        together.wait(10)  # breaks unless three are under way at once
        return by_aspect(body, number)

    server.answer = meet
    folder = write_run(tmp_path, [temporal(number, question=f"What is {number}?") for number in range(6)])
    assert judged(folder, server, concurrency=3).part["judged"] == 6
    assert server.most_at_once == 3


def test_two_models_are_never_mixed(folder: Path, server: Server) -> None:
    judged(folder, server, budget_requests=2, concurrency=1)
    before = (folder / RESULTS).read_bytes()
    server.answer = lambda body, number: says("{'score': 1}", model="judge-1-0613")
    with pytest.raises(InputError, match=r"judge-1-0125 and judge-1-0613, whose scores can't be mixed"):
        judged(folder, server, concurrency=1)
    assert len(server.bodies) == 3  # stops at the first
    assert (folder / RESULTS).read_bytes() == before
    with pytest.raises(InputError, match="can't be mixed"):
        judged(folder, server, concurrency=1)
    assert len(server.bodies) == 3  # and asks no further
    assert judged(folder, server, model="judge-1-0613").part["judge"]["reported_model"] == "judge-1-0613"


def test_the_stub_stands_apart(folder: Path, server: Server) -> None:
    real = judged(folder, server, budget_requests=2, concurrency=1).part
    stub = judge_run(read_run(folder), StubJudge()).part
    assert stub["stub"] and stub["judge"]["model"] == "stub-word-overlap" and "not a judge" in stub["note"]
    assert json.loads((folder / RESULTS).read_text(encoding="utf-8")) == {"judge": real, "judge_stub": stub}
    assert len(lines(folder)) == 2 and len(lines(folder, STUB_REPLIES)) == 5
    assert all(line["stub"] and line["model"] == "stub-word-overlap" for line in lines(folder, STUB_REPLIES))
    again = judged(folder, server).part
    assert again["requests_now"] == 3 and not again["stub"]


def test_the_stubs_scores(tmp_path: Path) -> None:
    """Words in common, by hand: {a man cooks soup} with {a man cooks}: 2 * 3 / 7 = 0.857, times five 4.29."""
    records = [
        generic(),
        temporal(1, pred="He cuts, then he stirs."),
        temporal(2, pred="Nothing."),
        *pair(first="a PAN", second="A pot."),
    ]
    folder = write_run(tmp_path, records)
    aspects = judge_run(read_run(folder), StubJudge()).part["aspects"]
    assert [aspects[name]["mean"] for name in ("CI", "DO", "CU", "TU", "CO")] == [4.0, 4.0, 4.0, 2.5, 3.0]
    first = (folder / RESULTS).read_bytes()
    again = judge_run(read_run(folder), StubJudge()).part
    assert again["aspects"] == json.loads(first)["judge_stub"]["aspects"]


def test_a_line_that_was_cut_off_is_asked_again(folder: Path, server: Server) -> None:
    judged(folder, server)
    path = folder / REPLIES
    path.write_bytes(path.read_bytes()[:-20])
    part = judged(folder, server).part
    assert part["requests_now"] == 1 and len(lines(folder)) == 5


def test_a_damaged_line_is_named(folder: Path, server: Server) -> None:
    judged(folder, server)
    path = folder / REPLIES
    damaged = path.read_bytes().splitlines(keepends=True)
    damaged[2] = b'{"key": 1}\n'
    path.write_bytes(b"".join(damaged))
    with pytest.raises(InputError, match=r"judge\.jsonl, line 3, is damaged"):
        judged(folder, server)
    assert path.read_bytes() == b"".join(damaged)


def test_replies_of_any_characters_come_back(tmp_path: Path, server: Server) -> None:
    text = "a\nb\r\u2028\x85\x0c\ud800 {'score': 4} ü\u0000"
    server.answer = lambda body, number: says(text)
    folder = write_run(tmp_path, [temporal()])
    judged(folder, server)
    part = judged(folder, server).part
    assert part["requests_now"] == 0 and part["aspects"]["TU"]["mean"] == 4.0
    assert [json.loads(line)["reply"] for line in (folder / REPLIES).read_bytes().split(b"\n")[:-1]] == [text]


def test_every_reply_is_on_the_disk_at_once(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size) or real(number))
    judged(folder, server, concurrency=1)
    ends = [len(line) for line in (folder / REPLIES).read_bytes().splitlines(keepends=True)]
    assert synced[:5] == [sum(ends[: count + 1]) for count in range(5)]


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, short: bool) -> None:
    judged(folder, server, budget_requests=1)
    before = (folder / REPLIES).read_bytes()

    real, written = os.write, []

    def full(file: int, data: bytes) -> int:
        if short and not written:
            written.append(data)
            return real(file, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prunevid.files.os.write", full)
    with pytest.raises(InputError, match=r"judge\.jsonl can't be written \(No space left on device\)"):
        judged(folder, server)
    assert (folder / REPLIES).read_bytes() == before
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert judged(folder, server).part["requests_now"] == 4


def test_results_that_cannot_be_written_leave_the_old(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(folder, server)
    before = (folder / RESULTS).read_bytes()

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prunevid.files.os.replace", refuse)
    with pytest.raises(StoppedError, match="No space left"):
        judged(folder, server)
    assert (folder / RESULTS).read_bytes() == before and sorted(path.name for path in folder.iterdir()) == [
        "answers.jsonl",
        "judge.jsonl",
        "results.json",
        "settings.json",
    ]


@pytest.mark.parametrize("content", ["{", "[]"])
def test_results_that_cannot_be_read(folder: Path, server: Server, content: str) -> None:
    (folder / RESULTS).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"results\.json"):
        judged(folder, server)


def test_one_process_at_a_time(folder: Path, server: Server) -> None:
    pytest.importorskip("fcntl")
    with replies_in(folder, stub=False), pytest.raises(InputError, match="Another process is judging"):
        judged(folder, server)
    assert not server.bodies


def test_an_interrupt_keeps_what_there_is(folder: Path, server: Server) -> None:
    def tell(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(folder, server, tell=tell, concurrency=1)
    assert len(lines(folder)) == len(server.bodies) == 2
    assert judged(folder, server).part["requests_now"] == 3


@pytest.mark.parametrize(
    ("records", "benchmark", "options", "error", "words"),
    [
        (RECORDS, "mvbench", {}, InputError, "run of mvbench"),
        ([], "vcgbench", {}, InputError, "holds no answers"),
        ([Record("a/1", "other", "v", "q")], "vcgbench", {}, InputError, "'other'"),
        (RECORDS, "vcgbench", {"concurrency": 0}, ConfigError, "0 requests at once"),
        (RECORDS, "vcgbench", {"budget_requests": -1}, ConfigError, "budget of requests is -1"),
        (RECORDS, "vcgbench", {"budget_tokens": -1}, ConfigError, "budget of tokens is -1"),
        (RECORDS, "vcgbench", {"consistency": "x"}, ConfigError, "'x'"),
        (RECORDS, "vcgbench", {"wording": "x"}, ConfigError, "'x'"),
    ],
)
def test_refusals(
    tmp_path: Path, records: list[Record], benchmark: str, options: dict, error: type[Exception], words: str
) -> None:
    folder = write_run(tmp_path, records, benchmark)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(error, match=words):
        judge_run(read_run(folder), StubJudge(), **options)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_is_asked_does_not_depend_on_concurrency(folder: Path, server: Server) -> None:
    judged(folder, server, concurrency=1)
    alone = Counter(json.dumps(body) for body in server.bodies)
    (folder / REPLIES).unlink()
    server.bodies.clear()
    judged(folder, server, concurrency=5)
    assert Counter(json.dumps(body) for body in server.bodies) == alone
