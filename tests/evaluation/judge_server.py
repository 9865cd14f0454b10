# SPDX-License-Identifier: Apache-2.0
"""A small server on 127.0.0.1 that speaks chat completions as a test says, and a made-up run to judge."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prunevid.evaluation.runs import ANSWERS, SETTINGS, Record

Answer = tuple[int, dict[str, str], bytes]


def says(text: str | None, *, model: str | None = "judge-1-0125", usage: bool = True) -> Answer:
    """A chat completion of 10 + 2 tokens."""
    body: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
    }
    if model is not None:
        body["model"] = model
    if usage:
        body["usage"] = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def fails(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Answer:
    """An error as OpenAI writes it."""
    body = json.dumps({"error": {"message": message, "code": code, "type": "x"}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json"} | named, body


@dataclass
class Server:
    """What was asked of it, and how it answers: `answer(body, number)`, the number counting from 1."""

    url: str = ""
    answer: Callable[[dict[str, Any], int], Answer] = lambda body, number: says("{'score': 4}")
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: int = 0
    most_at_once: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """As new, at the same address."""
        self.over.set()
        with self.lock:
            self.answer = type(self).answer
            self.bodies, self.headers, self.paths = [], [], []
            self.most_at_once = 0
            self.over = threading.Event()


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs until the block ends."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.bodies.append(body)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.paths.append(self.path)
                number = len(server.bodies)
                server.under_way += 1
                server.most_at_once = max(server.most_at_once, server.under_way)
            try:
                status, headers, content = server.answer(body, number)
            finally:
                with server.lock:
                    server.under_way -= 1
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True  # the client has given up

        def log_message(self, *arguments: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        http.shutdown()
        thread.join()
        http.server_close()


def generic(number: int = 17, pred: str = "A man cooks.", **more: Any) -> Record:
    """An answered generic question."""
    given = {"question": "What happens?", "answer": "A man cooks soup."} | more
    return Record(f"generic/{number}", "generic", "v.mp4", text=pred, pred=pred, **given)


def temporal(number: int = 3, pred: str = "First he cuts, then he stirs.", **more: Any) -> Record:
    """An answered temporal question."""
    given = {"question": "What comes first?", "answer": "He cuts, then he stirs."} | more
    return Record(f"temporal/{number}", "temporal", "v.mp4", text=pred, pred=pred, **given)


def pair(number: int = 5, first: str = "A pan.", second: str = "A pot.", **more: Any) -> list[Record]:
    """The two answered questions of a consistency item."""
    questions = ("What does he hold?", "Which thing is in his hand?")
    return [
        Record(
            f"consistency/{number}/{which}",
            "consistency",
            "v.mp4",
            question,
            answer="A pan.",
            text=pred,
            pred=pred,
            facts={"pair": f"consistency/{number}", "part": which},
            **more,
        )
        for which, question, pred in zip((1, 2), questions, (first, second))
    ]


def write_run(folder: Path, records: list[Record], benchmark: str = "vcgbench") -> Path:
    """A run's folder with these answers."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "benchmark": benchmark,
        "protocol": "paper",
        "model": "builtin",
        "family": "llava_onevision",
        "method": "prunevid",
    }
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    (folder / ANSWERS).write_text("".join(record.line() for record in records), encoding="utf-8")
    return folder
