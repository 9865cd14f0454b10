# SPDX-License-Identifier: Apache-2.0
"""The endpoint: a real server on loopback, the official client, and requests that are wrong in every way."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunevid.builtin import make_clip
from prunevid.qa import VideoQA
from serve.made import CLIP_SEED, PATIENCE, Running, SlowQA, chat, data_url, eventually
from shipped import CELLS, FRAMES, VISUAL

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def server(qa: VideoQA, clip_file: Path) -> Iterator[Running]:
    limits = {"max_upload_bytes": 200_000, "max_new_tokens": 8, "max_text_bytes": 20_000}
    running = Running(qa, api_key="secret", allowed_folder=clip_file.parent, **limits)
    yield running
    running.stop()
    assert not running.store.folder.exists()


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="secret", max_retries=0, timeout=PATIENCE) as made:
        yield made


@pytest.fixture(scope="module")
def url(clip_file: Path) -> str:
    return data_url(clip_file)


def idle(server: Running) -> bool:
    """Whether no request left anything behind."""
    return server.engine.worker.places == 0 and list(server.store.folder.iterdir()) == []


# ---- the official client -----------------------------------------------------------------------------------------


def test_the_client_gets_the_answers_of_video_qa(
    client: Any, server: Running, qa: VideoQA, clip_file: Path, url: str
) -> None:
    for item, places in zip(make_clip(CLIP_SEED).questions, ([url], [clip_file.name, f"file://{clip_file}"])):
        expected = qa.ask(clip_file, item.text)
        for place in places:
            request = chat(place, item.text)
            got = client.chat.completions.create(**request)
            assert got.choices[0].message.content == expected.text
            assert (got.choices[0].finish_reason, got.model, got.object) == ("length", "tiny", "chat.completion")
        assert got.usage.completion_tokens == 1
        assert got.usage.total_tokens == got.usage.prompt_tokens + 1
        told = got.prunevid
        assert (told["visual_tokens"], told["frames"], told["method"]) == (VISUAL, FRAMES, "prunevid")
        dropped = VISUAL - told["visual_tokens_kept"]
        assert got.usage.prompt_tokens - told["prompt_tokens_kept"] == dropped > 0
        pieces = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces[:-1]) == expected.text
        assert pieces[0].choices[0].delta.role == "assistant"
        assert [piece.choices[0].finish_reason for piece in pieces[:-1]][-1] == "length"
        assert pieces[-1].choices == [] and pieces[-1].usage == got.usage
        assert len({piece.id for piece in pieces}) == 1
    eventually(lambda: idle(server))


def test_the_client_chooses_method_budget_length_and_stop(client: Any, url: str) -> None:
    request = chat(url, "is there a square?")
    for extra, kept in (
        ({"method": "none"}, VISUAL),
        ({"method": "uniform", "retention_ratio": 0.25, "max_frames": 8}, CELLS),
        ({"retention_tokens": 5}, 5),
    ):
        got = client.chat.completions.create(**request, extra_body={"prunevid": extra})
        assert got.prunevid["visual_tokens_kept"] == kept
    whole = client.chat.completions.create(**request, max_tokens=8)
    assert whole.choices[0].finish_reason == "stop" and whole.usage.completion_tokens > 1
    text = whole.choices[0].message.content
    cut = client.chat.completions.create(**request, stop=[text[1:], "x"], max_completion_tokens=8)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (text[:1], "stop")
    sampled = [
        client.chat.completions.create(**request, temperature=1.9, top_p=0.95, seed=4, max_tokens=8) for _ in range(2)
    ]
    assert sampled[0].choices == sampled[1].choices


def test_the_client_carries_on_a_conversation(client: Any, qa: VideoQA, clip_file: Path, url: str) -> None:
    first = chat(url, "is there a square?")["messages"]
    turns = [{"role": "system", "content": "one word"}, *first, {"role": "assistant", "content": "yes"}]
    turns.append({"role": "user", "content": [{"type": "text", "text": "what colour is it?"}]})
    got = client.chat.completions.create(model="tiny", messages=turns)
    written = [
        {"role": "system", "content": "one word"},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "is there a square?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "what colour is it?"}]},
    ]
    prompt = qa.processor.apply_chat_template(written, tokenize=False, add_generation_prompt=True)
    assert got.choices[0].message.content == qa.ask(clip_file, "what colour is it?", prompt=prompt).text


def test_pictures_are_the_frames_of_a_clip(client: Any, qa: VideoQA, tmp_path: Path) -> None:
    from PIL import Image

    frames = make_clip(CLIP_SEED).frames[:4]
    parts: list[Any] = []
    for number, frame in enumerate(frames):
        path = tmp_path / f"{number}.png"
        Image.fromarray(frame).save(path)
        parts.append({"type": "image_url", "image_url": {"url": data_url(path)}})
    parts.append({"type": "text", "text": "is there a square?"})
    got = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert got.choices[0].message.content == qa.ask(None, "is there a square?", images=list(frames)).text
    assert got.prunevid["frames"] == 4


def test_the_client_lists_the_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "prunevid"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"model": "other"}, "NotFoundError", "no_model"),
        ({"n": 2}, "UnprocessableEntityError", "unsupported"),
        ({"max_tokens": 9}, "UnprocessableEntityError", "unusable_value"),
        ({"extra_body": {"prunevid": {"method": "nosuch"}}}, "UnprocessableEntityError", "unusable_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, "BadRequestError", "malformed_request"),
    ],
)
def test_the_client_raises_the_fitting_error(
    client: Any, url: str, changes: dict[str, Any], kind: str, code: str
) -> None:
    for stream in (False, True):
        with pytest.raises(getattr(openai, kind)) as caught:
            client.chat.completions.create(**{**chat(url), **changes, "stream": stream})
        assert caught.value.code == code and "/" not in caught.value.body["message"]


# ---- keys and hosts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer secret2", 401),
        ("Bearer", 401),
        ("Basic secret", 401),
        ("Bearer s\xe4cret", 401),
        ("bearer secret", 200),
        ("Bearer secret", 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_the_key_is_asked_for(server: Running, header: str | None, status: int, path: str) -> None:
    got, document, told = server.send("GET", path, headers={} if header is None else {"Authorization": header})
    assert got == status
    if status == 401:
        assert document["error"]["code"] == "invalid_api_key" and told["www-authenticate"] == "Bearer"
        assert server.post(b"{", **({} if header is None else {"Authorization": header}))[0] == 401


def test_keys_of_other_letters() -> None:
    from prunevid.serve.api import check_key
    from prunevid.serve.refusals import Refusal

    check_key("Bearer " + "schlüssel".encode().decode("latin-1"), "schlüssel")
    check_key(None, None)
    with pytest.raises(Refusal):
        check_key("Bearer schl\xfcssel", "schlüssel")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:99", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
    ],
)
def test_foreign_host_names_are_refused_on_loopback(server: Running, host: str, status: int) -> None:
    assert server.send("GET", "/healthz", headers={"Host": host})[0] == status


def test_paths_and_verbs(server: Running) -> None:
    assert server.send("GET", "/healthz")[:2] == (200, {"status": "ok"})
    for verb, path, status in (("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/docs", 404)):
        got, document, _ = server.send(verb, path, headers=KEY)
        assert got == status and set(document["error"]) == {"message", "type", "param", "code"}


# ---- wrong requests ----------------------------------------------------------------------------------------------


def user(*parts: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": "is there a square?"}


def video(url: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"{}", 400),
        (b"[" * 20_000, 400),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', 400),
        (b'{"model": "tiny", "temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}', 400),
        (b'{"model": "tiny", "seed": ' + b"9" * 5000 + b', "messages": [{"role": "user", "content": "x"}]}', 400),
        ({"model": "tiny"}, 400),
        ({"model": "tiny", "messages": []}, 400),
        ({"model": 3, "messages": [{"role": "user", "content": "x"}]}, 400),
        ({"model": "tiny", "messages": [{"role": "tool", "content": "x"}]}, 400),
        (user(TEXT, {"type": "input_audio"}), 400),
        (user(TEXT, {"type": "video_url", "video_url": "x"}), 400),
        (user(TEXT, video(3)), 400),
        ({**user(TEXT), "max_tokens": "8"}, 400),
        ({**user(TEXT), "max_tokens": True}, 400),
        ({**user(TEXT), "stream": "yes"}, 400),
        ({**user(TEXT), "prunevid": {"methud": "none"}}, 400),
        ({**user(TEXT), "prunevid": {"method": ""}}, 400),
        (user(TEXT, video("data:video/mp4;base64,????")), 400),
        (user(TEXT, video("../x.mp4")), 403),
        (user(TEXT, video("https://example.org/x.mp4")), 403),
        (user(TEXT), 422),
        (user(TEXT, video("nothing.mp4")), 422),
        (user(TEXT, video("clip.mp4"), video("clip.mp4")), 422),
        (user(TEXT, video("clip.mp4"), image("clip.mp4")), 422),
        (user(TEXT, video("data:video/mp4;base64,QUJD")), 422),
        (user(TEXT, video("data:video/mp4;base64," + "QUJD" * 999)), 422),
        (user(TEXT, image("data:image/png;base64," + "QUJD" * 999)), 422),
        (user(video("clip.mp4")), 422),
        ({**user(TEXT, video("clip.mp4")), "seed": 2**70}, 422),
        ({**user(TEXT, video("clip.mp4")), "tools": [{"type": "function"}]}, 422),
        ({**user(TEXT, video("clip.mp4")), "logprobs": True}, 422),
        ({**user(TEXT, video("clip.mp4")), "response_format": {"type": "json_object"}}, 422),
        ({**user(TEXT, video("clip.mp4")), "stop": [""]}, 422),
        ({**user(TEXT, video("clip.mp4")), "stop": ["a"] * 5}, 422),
        ({**user(TEXT, video("clip.mp4")), "max_tokens": 1, "max_completion_tokens": 2}, 422),
        ({**user(TEXT, video("clip.mp4")), "prunevid": {"retention_ratio": 0}}, 422),
        ({**user(TEXT, video("clip.mp4")), "messages": [{"role": "assistant", "content": [video("clip.mp4")]}]}, 422),
        (user(TEXT, video("data:video/mp4;base64," + "QUJD" * 70_000)), 413),
        ({**user(TEXT), "padding": "x" * 300_000}, 413),
    ],
)
def test_wrong_requests(server: Running, body: Any, status: int) -> None:
    got, document, _ = server.post(body, **KEY)
    assert got == status, document
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert str(server.store.folder) not in str(document) and "Traceback" not in str(document)
    eventually(lambda: idle(server))


def test_harmless_fields_are_taken(server: Running) -> None:
    body = {**user(TEXT, video("clip.mp4")), "n": 1, "tools": [], "logprobs": False, "frequency_penalty": 0.0}
    body |= {"user": "me", "metadata": {"a": "b"}, "response_format": {"type": "text"}, "stop": None, "logit_bias": {}}
    assert server.post(body, **KEY)[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "", "multipart/form-data"])
def test_other_types_of_bodies(server: Running, kind: str) -> None:
    got = server.post(user(TEXT, video("clip.mp4")), **{**KEY, "Content-Type": kind})
    assert got[0] == 415


def test_bodies_that_are_too_large_are_refused_before_they_are_there(server: Running) -> None:
    key = f"Authorization: {KEY['Authorization']}"
    most = server.engine.settings.max_body_bytes
    assert b" 413 " in server.begin([key, f"Content-Length: {most + 1}"])
    assert b" 413 " in server.begin([key, "Content-Length: 99999999999999999999"])
    chunk = f"{most + 1:x}\r\n".encode() + b" " * (most + 1)
    assert b" 413 " in server.begin([key, "Transfer-Encoding: chunked"], chunk)  # and never ends
    eventually(lambda: idle(server))


def test_bodies_that_trickle_are_refused(qa: VideoQA) -> None:
    running = Running(qa, body_seconds=0.1)
    assert b" 408 " in running.begin(["Content-Length: 100"], b"{")
    eventually(lambda: idle(running))
    running.stop()


# ---- any body at all ---------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_url = st.text(max_size=40) | st.sampled_from(["clip.mp4", "data:;base64,QUJD", "file:///x", "http://x/", "//", ".."])
_part = (
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=30)})
    | st.fixed_dictionaries({"type": st.just("video_url"), "video_url": st.fixed_dictionaries({"url": _url})})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _url})})
    | _json
)
_message = (
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "tool"]),
            "content": st.text(max_size=30) | st.lists(_part, max_size=3) | _json,
        }
    )
    | _json
)
_fields = ("stream", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "prunevid", "tools", "stream_options")
_body = st.fixed_dictionaries(
    {"model": st.just("tiny"), "messages": st.lists(_message, max_size=4)},
    optional={name: _json | st.integers(-3, 9) | st.floats(-1, 3) for name in _fields},
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=200) | _body)
def test_no_body_makes_the_server_fail(body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, _ = _FUZZED.server.post(content, **KEY)
    assert status == 200 or 400 <= status < 500
    eventually(lambda: idle(_FUZZED.server))


class _FUZZED:
    """The module's server, for a test that hypothesis calls often."""

    server: Running


@pytest.fixture(autouse=True)
def _fuzzed(server: Running) -> None:
    _FUZZED.server = server


# ---- many at once, and clients that go away ----------------------------------------------------------------------


@pytest.fixture
def slow(qa: VideoQA, clip_file: Path) -> Iterator[tuple[SlowQA, Running]]:
    made = SlowQA(qa)
    running = Running(
        made, allowed_folder=clip_file.parent, max_queue=2, max_per_client=2, max_new_tokens=200, request_seconds=600.0
    )
    yield made, running
    running.stop()
    assert not running.store.folder.exists()


class Asking:
    """A request that is not waited for, from an address of its own."""

    def __init__(self, server: Running, source: str = "127.0.0.1", **fields: Any) -> None:
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", server.port, timeout=PATIENCE, source_address=(source, 0)
        )
        body = json.dumps(chat("clip.mp4", **fields))
        self.connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})

    def response(self) -> http.client.HTTPResponse:
        return self.connection.getresponse()

    def leave(self) -> None:
        sock = self.connection.sock
        sock.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def test_pieces_come_one_by_one(slow: tuple[SlowQA, Running]) -> None:
    qa, server = slow
    asking = Asking(server, stream=True, max_tokens=3)
    assert qa.started.acquire(timeout=PATIENCE)
    qa.steps.release()
    response = asking.response()
    assert response.status == 200 and response.getheader("content-type", "").startswith("text/event-stream")
    texts = []
    while True:
        line = response.readline()
        if line.startswith(b"data: {"):
            choice = json.loads(line[6:])["choices"][0]
            if choice["delta"].get("content"):
                texts.append(choice["delta"]["content"])
                assert len(texts) == len(qa.made)  # the next one is not made yet
                qa.steps.release()
        elif line.startswith(b"data: [DONE]"):
            break
    assert texts == ["a0", " a1", " a2"]
    asking.connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_its_generation(slow: tuple[SlowQA, Running], stream: bool) -> None:
    qa, server = slow
    asking = Asking(server, stream=stream, max_tokens=200)
    assert qa.started.acquire(timeout=PATIENCE)
    for _ in range(2):
        qa.steps.release()
    eventually(lambda: len(qa.made) == 2)
    asking.leave()
    assert qa.stopped.acquire(timeout=PATIENCE)  # without another step being allowed
    assert len(qa.made) == 2
    eventually(lambda: idle(server))


def test_a_client_that_goes_away_while_it_waits_is_never_answered(slow: tuple[SlowQA, Running]) -> None:
    qa, server = slow
    first = Asking(server, max_tokens=1)
    assert qa.started.acquire(timeout=PATIENCE)
    second = Asking(server)
    eventually(lambda: server.engine.worker.queued == 1)
    second.leave()
    eventually(lambda: server.engine.worker.queued == 0)
    qa.steps.release()
    assert first.response().status == 200
    eventually(lambda: idle(server))
    assert len(qa.made) == 1 and not qa.started.acquire(blocking=False)
    first.connection.close()


def test_more_requests_than_there_is_room_for(slow: tuple[SlowQA, Running]) -> None:
    qa, server = slow
    running = Asking(server, "127.0.0.2", max_tokens=1)
    assert qa.started.acquire(timeout=PATIENCE)
    waiting = [Asking(server, "127.0.0.2", max_tokens=1)]
    eventually(lambda: server.engine.worker.queued == 1)
    third = Asking(server, "127.0.0.2").response()
    assert third.status == 429 and int(third.getheader("retry-after", "0")) >= 1
    waiting.append(Asking(server, "127.0.0.3", max_tokens=1))
    eventually(lambda: server.engine.worker.queued == 2)
    full = Asking(server, "127.0.0.4").response()
    assert full.status == 503 and int(full.getheader("retry-after", "0")) >= 1
    assert json.loads(full.read())["error"]["code"] == "queue_full"
    counts = server.send("GET", "/metrics")[1].decode()
    assert "prunevid_queue_length 2.0" in counts and "prunevid_running 1.0" in counts
    for _ in range(3):
        qa.steps.release()
    assert [asking.response().status for asking in (running, *waiting)] == [200, 200, 200]
    eventually(lambda: idle(server))
    counts = server.send("GET", "/metrics")[1].decode()
    for status, number in ((200, 3), (429, 1), (503, 1)):
        assert f'prunevid_requests_total{{path="/v1/chat/completions",status="{status}"}} {number}.0' in counts
    assert "prunevid_running 0.0" in counts and 'prunevid_tokens_total{kind="completion"} 3.0' in counts


class OnCue:
    """A timer that ends when it is told, so that how busy the machine is decides nothing."""

    daemon = True

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.call = seconds, call

    def start(self) -> None:
        pass

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("begun", [False, True])
def test_the_time_limit_of_a_request(
    slow: tuple[SlowQA, Running], begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    qa, server = slow
    timers: list[OnCue] = []

    def timer(seconds: float, call: Callable[[], None]) -> OnCue:
        timers.append(OnCue(seconds, call))
        return timers[-1]

    monkeypatch.setattr(server.engine.worker, "_timer", timer)
    asking = Asking(server, stream=True)
    assert qa.started.acquire(timeout=PATIENCE)
    if begun:
        qa.steps.release()
        response = asking.response()  # it is sent with the first token
    timers[0].call()
    if not begun:
        response = asking.response()
    assert response.status == (200 if begun else 504)
    text = response.read().decode()
    assert '"code": "time_limit"' in text or '"code":"time_limit"' in text
    assert "[DONE]" not in text
    assert qa.stopped.acquire(timeout=PATIENCE)
    assert len(qa.made) == int(begun) and [one.seconds for one in timers] == [600.0]
    eventually(lambda: idle(server))


def test_stopping_the_server_stops_what_runs_and_refuses_what_waits(slow: tuple[SlowQA, Running]) -> None:
    qa, server = slow
    running, waiting = Asking(server), Asking(server)
    assert qa.started.acquire(timeout=PATIENCE)
    eventually(lambda: server.engine.worker.queued == 1)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert [asking.response().status for asking in (running, waiting)] == [503, 503]
    stopping.join(PATIENCE)
    assert qa.made == []


def test_errors_that_nobody_foresaw_show_nothing(qa: VideoQA, clip_file: Path, caplog: Any) -> None:
    class Broken(SlowQA):
        def ask(self, clip: Any, question: str, **options: Any) -> Any:
            raise RuntimeError("/secret/path")

    server = Running(Broken(qa), allowed_folder=clip_file.parent)
    for stream in (False, True):
        status, document, _ = server.post(chat("clip.mp4", stream=stream))
        assert status == 500 and document["error"]["code"] == "internal_error"
        assert "secret" not in json.dumps(document)
    server.engine.reserve = None  # type: ignore[assignment, method-assign]  # and one outside the worker
    status, document, _ = server.post(chat("clip.mp4"))
    assert status == 500 and document["error"]["type"] == "server_error"
    assert caplog.text.count("/secret/path") >= 2
    assert 'status="500"} 3.0' in server.send("GET", "/metrics")[1].decode()
    server.stop()


def test_a_page_may_be_added(qa: VideoQA) -> None:
    from fastapi.responses import PlainTextResponse

    def mount(app: Any) -> None:
        assert app.state.engine.name == "tiny" and app.state.store.folder.is_dir()
        app.add_route("/", lambda request: PlainTextResponse("page"))

    server = Running(qa, mount)
    assert server.send("GET", "/")[:2] == (200, b"page")
    assert server.send("GET", "/healthz")[0] == 200
    server.stop()


def test_a_client_that_takes_nothing_counts_as_gone(qa: VideoQA, clip_file: Path) -> None:
    """Sending waits for the client; after `body_seconds` it is over."""
    from prunevid.serve.chat import Answering
    from prunevid.serve.engine import Engine, Listener
    from prunevid.serve.schema import Writer
    from prunevid.serve.settings import ServeSettings

    async def scenario() -> list[str]:
        from contextlib import ExitStack

        engine = Engine(qa, ServeSettings(body_seconds=0.05))
        listener, closed = Listener(), []
        stack = ExitStack()
        stack.callback(closed.append, "closed")
        job = engine.worker.submit(
            engine.reserve("a"), lambda job: job.say("x") or job.stopped.wait(PATIENCE), listener
        )

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            await asyncio.Event().wait()

        await Answering(engine, job, listener, stack, Writer("k", "m"), True, False)({}, receive, send)
        assert job.stopped.is_set()
        engine.close()
        return closed

    assert asyncio.run(scenario()) == ["closed"]
