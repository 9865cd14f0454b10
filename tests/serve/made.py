# SPDX-License-Identifier: Apache-2.0
"""Questions and how they ended, for the tests of the server."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prunevid.answers import Answer, ClipInfo
from prunevid.qa import VideoQA
from prunevid.serve.conversation import Message
from prunevid.serve.engine import Engine, Question, Reply
from prunevid.serve.media import MediaStore
from prunevid.serve.refusals import Refusal
from prunevid.serve.settings import ServeSettings
from prunevid.serve.worker import Done, Event, Failed, Piece

CLIP_SEED = 3
PATIENCE = 120.0  # seconds after which a test is stuck


def ask(clip: Any, text: str) -> Question:
    """One question about a clip."""
    return Question((Message("user", text),), clip)


@dataclass
class Collected:
    """How a question ended."""

    events: list[Event] = field(default_factory=list)

    @property
    def pieces(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Piece)]

    @property
    def reply(self) -> Reply:
        last = self.events[-1]
        assert isinstance(last, Done), last
        reply = last.result
        assert isinstance(reply, Reply)
        return reply

    @property
    def refusal(self) -> Refusal:
        last = self.events[-1]
        assert isinstance(last, Failed), last
        return last.refusal


def collect(engine: Engine, question: Question, client: str = "me") -> Collected:
    """Asks and waits for the end."""
    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(engine.reserve(client), question, heard.put)
    collected = Collected()
    while not (collected.events and isinstance(collected.events[-1], (Done, Failed))):
        collected.events.append(heard.get(timeout=PATIENCE))
    return collected


class SlowQA:
    """Stands for a `VideoQA` whose model makes a token each time it is allowed to; counts what it made.

    Tokens are those of the sentence "a0 a1 a2 ..."; `steps` is released once for each.
    """

    def __init__(self, qa: VideoQA) -> None:
        self.model, self.processor, self.config, self.defaults = qa.model, _Words(qa.processor), qa.config, qa.defaults
        self.method, self.max_frames, self.max_new_tokens = qa.method, qa.max_frames, 100
        self.load_clip = qa.load_clip
        self.steps = threading.Semaphore(0)
        self.started, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.made: list[int] = []

    def ask(self, clip: Any, question: str, **options: Any) -> Answer:
        streamer, criteria = options["streamer"], options["stopping_criteria"]
        streamer.put(torch.zeros(1, 7))
        self.started.release()
        for token in range(options["max_new_tokens"]):
            while not self.steps.acquire(timeout=0.01):
                if bool(criteria(torch.zeros(1, 7), None).all()):
                    break
            if bool(criteria(torch.zeros(1, 7), None).all()):
                break
            self.made.append(token)  # before it is sent: who has heard of a token finds it here
            streamer.put(torch.tensor([token]))
        self.stopped.release()
        return Answer("", {}, question, ClipInfo.of(clip))


class _Words:
    """A processor that decodes token i as "ai "."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.tokenizer = self
        self.all_special_tokens = processor.tokenizer.all_special_tokens

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(f"a{number}" for number in ids)

    def apply_chat_template(self, *args: Any, **options: Any) -> str:
        return str(self._processor.apply_chat_template(*args, **options))


class Running:
    """A real server on loopback, in a thread."""

    def __init__(self, qa: Any, mount: Any = None, name: str = "tiny", **settings: Any) -> None:
        from prunevid.serve.api import create_app
        from prunevid.serve.server import Server

        self.engine = Engine(qa, ServeSettings(**{"port": 0, **settings}), name)
        self.store = MediaStore(self.engine.settings)
        ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.server = Server(create_app(self.engine, self.store, mount), self.engine, ready.put)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        self.address = ready.get(timeout=PATIENCE)
        self.port = int(self.address.rpartition(":")[2])

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, document and headers of a request; `body` is bytes, or becomes JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, content, {"Content-Type": "application/json", **headers})

    def send(
        self, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(verb, path, body, headers or {})
            response = connection.getresponse()
            text = response.read()
            told = {name.lower(): value for name, value in response.getheaders()}
            return response.status, json.loads(text) if "json" in told.get("content-type", "") else text, told
        finally:
            connection.close()

    def begin(self, headers: list[str], body: bytes = b"", path: str = "/v1/chat/completions") -> bytes:
        """Sends a request that is not complete; returns what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as raw:
            head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
            raw.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            return raw.recv(65536)


def data_url(path: Path) -> str:
    """A file as a data URL."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def chat(url: str | None, text: str = "is there a square?", **fields: Any) -> dict[str, Any]:
    """A request about one clip."""
    video = [] if url is None else [{"type": "video_url", "video_url": {"url": url}}]
    content = [*video, {"type": "text", "text": text}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds.

    Raises:
        AssertionError: it never does.
    """
    for _ in range(int(PATIENCE / 0.01)):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to hold")
