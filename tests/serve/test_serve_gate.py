# SPDX-License-Identifier: Apache-2.0
"""What stands before the page, without Gradio: the key, origins, paths, uploads."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from prunevid.qa import VideoQA
from prunevid.serve.engine import Engine
from prunevid.serve.gate import Gate
from prunevid.serve.settings import ServeSettings
from prunevid.serve.uploads import FORM_BYTES, Uploads, plain_name

UPLOAD, JOIN = "/gradio_api/upload", "/gradio_api/queue/join"


class Door:
    """A gate before an application that notes what it is given and says "in"."""

    def __init__(self, qa: VideoQA, folder: Path, **settings: Any) -> None:
        self.engine = Engine(qa, ServeSettings(**settings), "tiny")
        self.uploads = Uploads(folder, self.engine.settings)
        self.let_in: list[tuple[str, bytes]] = []
        self.gate = Gate(self._app, self.engine, self.uploads)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        if scope["method"] == "POST":
            body = (await receive())["body"]
        self.let_in.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-content-type-options", b"other")]})
        await send({"type": "http.response.body", "body": b"in"})

    def send(
        self,
        verb: str = "GET",
        path: str = "/",
        body: bytes = b"",
        pieces: int = 1,
        arrives: bool = True,
        client: str = "me",
        **headers: str,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer; a body that does not arrive stays away after its first piece."""
        told = {"host": "127.0.0.1:8000", **({"content-length": str(len(body))} if verb == "POST" else {})}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in told.items() if value]
        scope = {"type": "http", "method": verb, "path": path, "headers": raw, "client": (client, 1)}
        scope["query_string"] = b""
        step = max(1, -(-len(body) // pieces))
        parts = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts or not arrives:
                await asyncio.sleep(60 if not arrives else 0)
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), found


@pytest.fixture
def door(qa: VideoQA, tmp_path: Path) -> Door:
    return Door(qa, tmp_path)


def form(*files: tuple[str, bytes], field: str = "files") -> tuple[bytes, str]:
    """A multipart body and its type."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n'
        b"Content-Type: video/mp4\r\n\r\n%s\r\n" % (field.encode(), name.encode(), content)
        for name, content in files
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def upload(door: Door, *files: tuple[str, bytes], **headers: str) -> tuple[int, bytes, dict[str, str]]:
    body, kind = form(*files)
    return door.send("POST", UPLOAD, body, **{"content_type": kind, **headers})


# ---- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/index.js", "/static/img/logo.svg"),
        *("/gradio_api/queue/data", "/gradio_api/heartbeat/abc"),
    ],
)
def test_what_the_page_needs_is_open(door: Door, path: str) -> None:
    status, body, headers = door.send("GET", path)
    assert (status, body) == (200, b"in") and door.let_in == [(path, b"")]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert not any("http" in part or "*" in part for part in policy.values())


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/proxy=https://example.org/"),
        ("GET", "/gradio_api/stream/a/b/c"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/call/asked/1"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/upload"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/assets/../secret"),
        ("GET", "/static/..%2fsecret/.."),
        ("GET", "//etc/passwd"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/asked"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/queue/data"),
        ("POST", "/login"),
        ("POST", "/"),
        ("PUT", "/"),
        ("DELETE", JOIN),
        ("OPTIONS", JOIN),
    ],
)
def test_all_else_of_gradio_is_closed(door: Door, verb: str, path: str) -> None:
    status, body, _ = door.send(verb, path)
    assert status == 404 and b"There is nothing at this path." in body and door.let_in == []


def test_sockets_are_closed_and_the_lifespan_passes(door: Door) -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(door.gate({"type": "websocket"}, None, send))
    assert sent == ["websocket.close"]


# ---- the key and origins -----------------------------------------------------------------------------------------


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "enters"),
    [
        ("", False),
        ("Bearer wrong", False),
        ("Bearer the kéy", True),
        (basic("the kéy"), True),
        (basic("the kéy", "somebody else"), True),
        (basic("the kéy", ""), True),
        (basic("the kéy "), False),
        (basic(""), False),
        ("Basic the kéy", False),
        ("Basic !!!!", False),
        ("Digest the kéy", False),
    ],
)
@pytest.mark.parametrize(("verb", "path"), [("GET", "/"), ("POST", UPLOAD), ("POST", JOIN), ("GET", "/assets/a.js")])
def test_the_key(qa: VideoQA, tmp_path: Path, header: str, enters: bool, verb: str, path: str) -> None:
    door = Door(qa, tmp_path, api_key="the kéy")
    raw = header.encode().decode("latin-1")
    status, body, headers = door.send(verb, path, b"{}" if verb == "POST" else b"", authorization=raw)
    if enters:
        assert status == (400 if path == UPLOAD else 200)  # {} is no form
    else:
        assert status == 401 and headers["www-authenticate"].startswith("Basic ") and door.let_in == []
        assert b"the API key" not in body and "kéy".encode() not in body


@pytest.mark.parametrize(
    ("origin", "enters"),
    [
        ("", True),
        ("http://127.0.0.1:8000", True),
        ("http://127.0.0.1:8001", False),
        ("https://example.org", False),
        ("null", False),
        ("http://127.0.0.1:8000.example.org", False),
    ],
)
@pytest.mark.parametrize("path", [JOIN, "/gradio_api/cancel", "/gradio_api/reset", UPLOAD])
def test_pages_of_other_sites_may_not_ask(door: Door, origin: str, enters: bool, path: str) -> None:
    status, _, _ = door.send("POST", path, b"{}", origin=origin)
    assert (status != 403) == enters and (bool(door.let_in) == enters or path == UPLOAD)


# ---- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_request_arrives_as_it_was_sent(door: Door, pieces: int) -> None:
    body = json.dumps({"data": ["is there a square?", None, 3], "fn_index": 1}).encode()
    assert door.send("POST", JOIN, body, pieces=pieces)[0] == 200
    assert door.let_in == [(JOIN, body)]


@pytest.mark.parametrize(
    ("named", "enters"),
    [
        ("{folder}/abc/clip.mp4", True),
        ("/etc/passwd", False),
        ("{folder}/../other.mp4", False),
        ("{folder}/link/passwd", False),
        ("https://example.org/clip.mp4", False),
        ("", False),
        ("\0", False),
        (["/etc/passwd"], False),
        (None, False),
    ],
)
@pytest.mark.parametrize("depth", ["{}", '{{"data": [{}]}}', '{{"a": {{"b": [[{}]]}}}}'])
def test_a_request_names_no_file_but_uploads(door: Door, tmp_path: Path, named: Any, enters: bool, depth: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    path = named.replace("{folder}", str(tmp_path)) if isinstance(named, str) else named
    document = json.dumps({"path": path, "url": "x", "meta": {"_type": "gradio.FileData"}})
    status, body, _ = door.send("POST", JOIN, depth.format(document).encode())
    assert status == (200 if enters else 403) and bool(door.let_in) == enters
    assert str(tmp_path).encode() not in body


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"no json", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"{}", {"content_length": ""}, 411),
        (b"{}", {"content_length": "-1"}, 411),
        (b"{}", {"transfer_encoding": "chunked"}, 411),
        (b" " * 200_001, {}, 413),
        (b"{}", {"content_length": "9" * 5000}, 413),
    ],
)
def test_requests_that_are_none(qa: VideoQA, tmp_path: Path, body: bytes, headers: dict[str, str], status: int) -> None:
    door = Door(qa, tmp_path, max_text_bytes=200_000)
    assert door.send("POST", JOIN, body, **headers)[0] == status and door.let_in == []


@pytest.mark.parametrize("path", [JOIN, UPLOAD])
def test_a_body_that_does_not_arrive(qa: VideoQA, tmp_path: Path, path: str) -> None:
    door = Door(qa, tmp_path, body_seconds=0.05)
    kind = form()[1]
    assert door.send("POST", path, b"{}", arrives=False, content_type=kind)[0] == 408
    assert door.engine.worker.places == 0


# ---- uploads -----------------------------------------------------------------------------------------------------


def test_two_people_who_send_the_same_clip_have_two_files(door: Door, tmp_path: Path) -> None:
    answers = [upload(door, ("holiday.mp4", b"frames")) for _ in range(2)]
    assert [status for status, _, _ in answers] == [200, 200]
    paths = [Path(json.loads(body)[0]) for _, body, _ in answers]
    assert paths[0] != paths[1] and all(path.name == "holiday.mp4" for path in paths)
    assert all(len(path.parent.name) == 32 and path.parent.stat().st_mode & 0o077 == 0 for path in paths)
    door.uploads.remove(paths[0])
    assert not paths[0].parent.exists() and paths[1].read_bytes() == b"frames"
    assert door.engine.worker.places == 0 and door.let_in == []


@pytest.mark.parametrize(
    ("size", "status"), [(1000, 200), (1001, 413), (1000 + FORM_BYTES, 413), (3000 + FORM_BYTES, 413)]
)
def test_the_size_of_an_upload(qa: VideoQA, tmp_path: Path, size: int, status: int) -> None:
    door = Door(qa, tmp_path, max_upload_bytes=1000, max_sessions=100)
    got, body, headers = upload(door, ("clip.mp4", b"x" * size))
    assert got == status
    if status == 413:
        assert body.decode() == "The upload is larger than 1000 bytes; send a shorter or smaller clip."
        assert headers["content-type"].startswith("text/plain") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (form(("a", b"1"), ("b", b"2"))[0], form()[1]),
        (form()[0], form()[1]),
        (b'--edge\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--edge--\r\n', form()[1]),
        (b"nothing of the kind", form()[1]),
        (form(("a", b"1"))[0], "multipart/form-data"),
        (b"files=1", "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
    ],
    ids=["two files", "no file", "a text", "no parts", "no boundary", "urlencoded", "json"],
)
def test_uploads_that_are_no_form_with_one_file(door: Door, tmp_path: Path, body: bytes, kind: str) -> None:
    status, said, _ = door.send("POST", UPLOAD, body, content_type=kind)
    assert (status, said) == (400, b"The upload must be a form with one file.")
    assert list(tmp_path.iterdir()) == [] and door.engine.worker.places == 0


def test_a_sender_who_goes_away_leaves_nothing(door: Door, tmp_path: Path) -> None:
    body, kind = form(("clip.mp4", b"x" * 1000))
    assert door.send("POST", UPLOAD, body[:600], content_type=kind, content_length=str(len(body)))[0] in (400, 499)
    assert list(tmp_path.iterdir()) == [] and door.engine.worker.places == 0


@pytest.mark.parametrize("full", ["client", "queue"])
def test_an_upload_takes_a_place_in_the_queue(qa: VideoQA, tmp_path: Path, full: str) -> None:
    door = Door(qa, tmp_path, max_queue=1, max_per_client=1)
    places = [door.engine.reserve("me" if full == "client" else name) for name in (["a"] if full == "client" else "ab")]
    status, _, headers = upload(door, ("clip.mp4", b"x"))
    assert status == (429 if full == "client" else 503) and int(headers["retry-after"]) >= 1
    places[0].release()
    assert upload(door, ("clip.mp4", b"x"))[0] == 200


def test_too_many_uploads_that_nobody_asks_about(qa: VideoQA, tmp_path: Path) -> None:
    door = Door(qa, tmp_path, max_upload_bytes=10 * FORM_BYTES, max_sessions=2, session_seconds=100.0)
    content = b"x" * 10 * FORM_BYTES
    first = [upload(door, ("clip.mp4", content)) for _ in range(2)]
    assert [status for status, _, _ in first] == [200, 200]
    assert upload(door, ("clip.mp4", content))[0] == 503
    old = Path(json.loads(first[0][1])[0]).parent
    os.utime(old, (time.time() - 101, time.time() - 101))
    assert upload(door, ("clip.mp4", content))[0] == 200 and not old.exists()


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("clip.mp4", "clip.mp4"),
        ("my holiday (2).mp4", "my holiday (2).mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\clip.mp4", "clip.mp4"),
        ("..", "clip"),
        (".", "clip"),
        ("", "clip"),
        (None, "clip"),
        ("a\0b\n.mp4", "a_b_.mp4"),
        ("<b>.mp4", "_b_.mp4"),
        ("é" * 300 + ".mp4", "é" * 56 + ".mp4"),
    ],
)
def test_names_of_files(sent: str | None, name: str) -> None:
    assert plain_name(sent) == name and len(name.encode()) < 256


def test_only_uploads_are_removed(tmp_path: Path) -> None:
    inside = tmp_path / "uploads"
    inside.mkdir()
    (tmp_path / "other").mkdir()
    (inside / "stray").touch()
    (inside / "abc").mkdir()
    (inside / "abc" / "clip.mp4").touch()
    uploads = Uploads(inside, ServeSettings())
    uploads.remove(tmp_path / "other" / "file")
    uploads.remove(None)
    uploads.sweep()
    assert (tmp_path / "other").exists() and [path.name for path in inside.iterdir()] == ["abc"]
    uploads.remove(inside / "abc" / "clip.mp4")
    uploads.remove(inside / "abc" / "clip.mp4")
    assert list(inside.iterdir()) == []
