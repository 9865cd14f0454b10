# SPDX-License-Identifier: Apache-2.0
"""The judge over HTTP: a real server on 127.0.0.1 that does well, badly or nothing."""

from __future__ import annotations

import builtins
import logging
import socket
import traceback
from collections.abc import Callable
from email.utils import format_datetime
from functools import cache
from typing import Any

import pytest

from evaluation.judge_server import Answer, Server, fails, generic, says
from prunevid.errors import ConfigError, InputError, JudgeError, MissingDependencyError
from prunevid.evaluation.judging.asking import BudgetSpent, Gate, Said, Stopped
from prunevid.evaluation.judging.cases import cases_of
from prunevid.evaluation.judging.endpoint import Endpoint

SECRET = "sk-very-secret-0123456789"
KEY = {"PRUNEVID_JUDGE_API_KEY": SECRET}
CASE = cases_of([generic()]).cases[0]
pytestmark = pytest.mark.usefixtures("no_proxy")


def judge(server: Server, **options: Any) -> Endpoint:
    return _judge(server.url, **({"pause": 0.01} | options))


@cache
def _judge(url: str, **options: Any) -> Endpoint:
    """One for all tests: each would read the machine's certificates anew."""
    return Endpoint("judge-1", base_url=url, environment=KEY, **options)


def test_a_reply(server: Server) -> None:
    gate = Gate()
    assert judge(server).ask(CASE, gate) == Said("{'score': 4}", "judge-1-0125", 10, 2, 12)
    assert gate.requests == 1
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies == [
        {"model": "judge-1", "messages": [dict(message) for message in CASE.messages], "temperature": 0.0}
    ]
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(("given", "sent"), [(0.7, {"temperature": 0.7}), (None, {})])
def test_temperature(server: Server, given: float | None, sent: dict[str, float]) -> None:
    found = judge(server, temperature=given)
    found.ask(CASE, Gate())
    assert {name: value for name, value in server.bodies[0].items() if name == "temperature"} == sent
    assert found.identity.temperature == given


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("model", ["other", None])
def test_what_is_not_reported_is_none(server: Server, usage: bool, model: str | None) -> None:
    server.answer = lambda body, number: says(None, model=model, usage=usage)
    said = judge(server).ask(CASE, Gate())
    assert (said.text, said.model, said.total_tokens) == ("", model, 12 if usage else None)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "bad",
    [
        fails(429, "slow down", Retry_After="0"),
        fails(500),
        fails(503),
        fails(408),
        (200, JSON, b'{"choices": [{"mess'),
        (200, JSON, b"{}"),
        (200, JSON, b'{"choices": []}'),
        (200, JSON, b'{"choices": "none"}'),
        (200, JSON, b'{"choices": [{"index": 0}]}'),
        (200, JSON, b"[1]"),
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (200, JSON, b""),
    ],
    ids=["429", "500", "503", "408", "cut", "object", "nothing", "text", "hollow", "list", "html", "empty"],
)
def test_what_may_pass_is_asked_again(server: Server, bad: Answer) -> None:
    server.answer = lambda body, number: bad if number < 3 else says("{'score': 2}")
    gate = Gate()
    assert judge(server).ask(CASE, gate).text == "{'score': 2}"
    assert gate.requests == len(server.bodies) == 3


@pytest.mark.parametrize(
    ("bad", "requests", "words"),
    [
        (fails(401, f"Incorrect API key provided: {SECRET}"), 1, "refuses the key"),
        (fails(403, f"{SECRET}"), 1, "refuses the key"),
        (fails(404, "no such model"), 1, "HTTP 404 (no such model)"),
        (fails(400, f"bad {SECRET} value"), 1, "HTTP 400 (bad *** value)"),
        (fails(429, "pay", code="insufficient_quota"), 1, "HTTP 429 (pay)"),
        (fails(500, f"broken by {SECRET}"), 3, "HTTP 500 (broken by ***)"),
        (fails(500, "x" * 5000), 3, "xx...)"),
        ((200, JSON, b"{"), 3, "no chat completion; check --base-url"),
    ],
)
def test_what_does_not_pass(server: Server, bad: Answer, requests: int, words: str) -> None:
    server.answer = lambda body, number: bad
    with pytest.raises(JudgeError) as caught:
        judge(server, attempts=3).ask(CASE, Gate())
    assert words in str(caught.value) and server.url in str(caught.value)
    assert "run the command again to go on." in str(caught.value) and len(str(caught.value)) < 500
    assert len(server.bodies) == requests
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_filtered_item_does_not_stop_the_others(server: Server) -> None:
    server.answer = lambda body, number: fails(400, "filtered", code="content_filter")
    assert judge(server).ask(CASE, Gate()) == Said("", None, 0, 0, 0)


def test_slow(server: Server) -> None:
    def slow(body: dict[str, Any], number: int) -> Answer:
        server.over.wait(5)
        return says("late")

    server.answer = slow
    with pytest.raises(JudgeError, match=r"did not answer within 0\.1 s"):
        judge(server, timeout=0.1, attempts=2).ask(CASE, Gate())
    server.over.set()
    assert len(server.bodies) == 2


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        gate = Gate()
        with pytest.raises(JudgeError, match=r"can't be reached \(.*refused.*\)"):
            Endpoint("j", base_url=url, environment={}, attempts=3, pause=0.01).ask(CASE, gate)
    assert gate.requests == 3


class _State:
    """What tenacity tells of a failed attempt."""

    def __init__(self, attempt: int, header: str | None) -> None:
        self.attempt_number = attempt
        headers = {} if header is None else {"retry-after": header}
        response = type("Response", (), {"headers": headers})
        self.outcome = type("Outcome", (), {"exception": lambda _: type("E", (Exception,), {"response": response})()})()


def _in(seconds: float) -> str:
    from datetime import datetime, timedelta, timezone

    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("attempt", "header", "least", "most"),
    [
        (1, None, 0.5, 0.5),
        (2, None, 1.0, 1.0),
        (4, None, 4.0, 4.0),
        (30, None, 60.0, 60.0),
        (1, "7", 7.0, 7.0),
        (5, "0", 0.0, 0.0),
        (1, "-3", 0.0, 0.0),
        (1, "3600", 60.0, 60.0),
        (1, lambda: _in(30), 25.0, 30.0),
        (1, lambda: _in(-30), 0.0, 0.0),
        (1, "soon", 0.5, 0.5),
    ],
)
def test_pauses(attempt: int, header: str | Callable[[], str] | None, least: float, most: float) -> None:
    found = Endpoint("j", environment=KEY, pause=0.5)
    wait = found._wait(_State(attempt, header() if callable(header) else header))
    assert least <= wait <= most


def test_the_pauses_are_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    server.answer = lambda body, number: fails(429, Retry_After="9") if number == 1 else fails(500)
    gate = Gate()
    monkeypatch.setattr(gate.stop, "wait", lambda timeout=None: slept.append(timeout))
    with pytest.raises(JudgeError):
        judge(server, attempts=4, pause=1.0).ask(CASE, gate)
    assert slept == [9.0, 2.0, 4.0]


def test_the_gate_counts_repetitions_and_closes(server: Server) -> None:
    server.answer = lambda body, number: fails(500)
    gate = Gate(requests=2)
    with pytest.raises(BudgetSpent, match="budget of 2 requests"):
        judge(server).ask(CASE, gate)
    assert len(server.bodies) == 2
    stopped = Gate()
    stopped.stop.set()
    with pytest.raises(Stopped):
        judge(server).ask(CASE, stopped)
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"PRUNEVID_JUDGE_API_KEY": "first", "OPENAI_API_KEY": "second"}, "Bearer first"),
        ({"PRUNEVID_JUDGE_API_KEY": "", "OPENAI_API_KEY": " second\n"}, "Bearer second"),
        ({}, "Bearer none"),
    ],
)
def test_where_the_key_comes_from(server: Server, environment: dict[str, str], sent: str) -> None:
    Endpoint("j", base_url=server.url, environment=environment).ask(CASE, Gate())
    assert server.headers[0]["authorization"] == sent


def test_the_key_is_in_no_log_and_no_repr(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpcore", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        found = judge(server)
        found.ask(CASE, Gate())
    finally:
        for name in ("openai", "httpx", "httpcore", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert caplog.records  # something was logged, so that the next line means something
    assert SECRET not in caplog.text and SECRET not in repr(found) + repr(found.identity)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, "https://api.openai.com/v1"),
        ("http://me:secret@127.0.0.1:8000/v1/?key=secret#secret", "http://127.0.0.1:8000/v1"),
        ("https://[::1]:99/v1", "https://[::1]:99/v1"),
    ],
)
def test_the_address_that_is_written_down(url: str | None, shown: str) -> None:
    assert Endpoint("j", base_url=url, environment=KEY).identity.endpoint == shown


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": " "}, ConfigError, "--judge-model"),
        ({"base_url": "localhost:8000"}, ConfigError, "--base-url"),
        ({"base_url": "ftp://x/"}, ConfigError, "--base-url"),
        ({"base_url": "http://x:port/"}, ConfigError, "--base-url"),
        ({"temperature": -0.1}, ConfigError, "temperature"),
        ({"timeout": 0}, ConfigError, "0 s"),
        ({"attempts": 0}, ConfigError, "0 attempts"),
        ({"environment": {}}, InputError, "PRUNEVID_JUDGE_API_KEY or OPENAI_API_KEY"),
        ({"environment": {"OPENAI_API_KEY": "a…b"}}, InputError, "OPENAI_API_KEY"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"model": "j", "environment": KEY} | options
    with pytest.raises(error, match=words) as caught:
        Endpoint(given.pop("model"), **given)
    assert "a…b" not in str(caught.value)


@pytest.mark.parametrize("missing", ["openai", "tenacity"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=rf"{missing}.*prunevid\[eval\]"):
        Endpoint("j", environment=KEY)
