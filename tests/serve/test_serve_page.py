# SPDX-License-Identifier: Apache-2.0
"""The page on a real server, without a browser: what Gradio hands out, and to whom."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunevid import cli
from prunevid.cli import serve as command
from prunevid.qa import VideoQA
from serve.made import PATIENCE, Running, chat, data_url

pytest.importorskip("gradio", reason="gradio is not installed (the extra serve)")

from prunevid.serve.page import form, mount


@pytest.fixture(scope="module")
def server(qa: VideoQA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    kept = os.environ.get("GRADIO_TEMP_DIR")
    running = Running(qa, mount, allowed_folder=tmp_path_factory.mktemp("clips"), api_key="the key")
    yield running
    running.stop()
    os.environ.pop("GRADIO_TEMP_DIR") if kept is None else os.environ.update(GRADIO_TEMP_DIR=kept)


KEY = {"Authorization": "Bearer the key"}


def test_the_page_names_no_folder_and_no_other_host(server: Running) -> None:
    status, body, headers = server.send("GET", "/", headers=KEY)
    text = body.decode()
    assert status == 200 and "pv-ask" in text and "default-src 'self'" in headers["content-security-policy"]
    config = json.loads(re.findall(r"window\.gradio_config = (\{.*?\});</script>", text, re.DOTALL)[0])
    for told in (text, json.dumps(config), json.dumps(server.send("GET", "/config", headers=KEY)[1])):
        assert str(server.store.folder) not in told and str(server.engine.settings.allowed_folder) not in told
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=[\"']?([^\"' >]+)", text)
    assert loaded and not [url for url in loaded if re.match(r"(https?:)?//", url)]
    assert config["analytics_enabled"] is False and config["is_colab"] is False
    named = {part["props"].get("elem_id") for part in config["components"]}
    assert {"pv-upload", "pv-path", "pv-text", "pv-method", "pv-against", "pv-status", "pv-drawn"} <= named


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/queue/data?session_hash=x", "/theme.css"])
def test_nothing_without_the_key(server: Running, path: str) -> None:
    status, _, headers = server.send("GET", path)
    assert status == 401 and headers["www-authenticate"].startswith("Basic")


def test_the_endpoint_stays_where_it_was(server: Running, clip_file: Path) -> None:
    status, document, headers = server.post(chat(data_url(clip_file)), **KEY)
    assert status == 200 and document["choices"][0]["message"]["content"] in ("yes", "no")
    assert "content-security-policy" not in headers
    assert server.send("GET", "/healthz")[1] == {"status": "ok"}
    assert server.post(chat(data_url(clip_file)))[0] == 401


def uploaded(server: Running, content: bytes = b"x") -> tuple[int, Any]:
    body = b'--e\r\nContent-Disposition: form-data; name="files"; filename="c.mp4"\r\n\r\n' + content + b"\r\n--e--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=e", **KEY}
    status, document, _ = server.send("POST", "/gradio_api/upload?upload_id=1", body, kind)
    return status, document


def test_an_upload_is_handed_out_to_nobody(server: Running) -> None:
    status, (path,) = uploaded(server)
    assert status == 200 and Path(path).read_bytes() == b"x"
    for way in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=file://"):
        assert server.send("GET", way + path, headers=KEY)[0] == 404
    assert str(server.store.folder) in path


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/clip.mp4", "c.mp4"])
def test_no_event_names_another_file(server: Running, path: str) -> None:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file], "fn_index": 1, "session_hash": "abc", "trigger_id": 1}
    status, document, _ = server.post(body, "/gradio_api/queue/join", **KEY)
    assert status == 403 and document["error"]["code"] == "no_upload"


@pytest.mark.parametrize("header", ["chunked", "gzip, chunked"])
def test_no_body_without_an_end(server: Running, header: str) -> None:
    # Without a body: what the server leaves unread when it hangs up can cost the client the answer.
    told = server.begin(
        [f"Transfer-Encoding: {header}", f"Authorization: {KEY['Authorization']}"], path="/gradio_api/queue/join"
    )
    assert told.split()[1] in (b"400", b"411")


def test_the_folder_goes_with_the_server(qa: VideoQA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))
    running = Running(qa, mount, api_key="the key")
    folder = running.store.folder
    assert uploaded(running)[0] == 200 and folder.stat().st_mode & 0o077 == 0
    assert Path(os.environ["GRADIO_TEMP_DIR"]).is_relative_to(folder)
    running.stop()
    assert not folder.exists()


def test_an_open_page_does_not_hold_the_server_up(
    qa: VideoQA, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))
    running = Running(qa, mount)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    connection.request("GET", "/gradio_api/heartbeat/abc")
    response = connection.getresponse()
    assert response.status == 200 and response.readline() == b"data: ALIVE\n"
    running.stop()
    response.read()  # to its proper end
    connection.close()
    assert "graceful shutdown exceeded" not in caplog.text and "ASGI" not in caplog.text


@pytest.mark.parametrize(
    ("filled", "expected"),
    [
        (("", "", "", "", None, None, []), ("", "", None, "default", None, None, ())),
        ((None, None, None, None, None, None, None), ("", "", None, "default", None, None, ())),
        (
            (" a.mp4 ", " why? ", "fastv", "share", 0.3, 8.0, ["none"]),
            ("why?", "a.mp4", "fastv", "share", 0.3, 8, ("none",)),
        ),
        (("", "why?", "", "tokens", 0, 0, []), ("why?", "", None, "tokens", 0, None, ())),
    ],
)
def test_what_was_filled_in(filled: Any, expected: Any) -> None:
    found = form(*filled)
    fields = ("text", "path", "method", "budget", "amount", "max_frames", "against")
    assert tuple(getattr(found, name) for name in fields) == expected


@pytest.mark.parametrize(("installed", "page"), [(True, True), (False, True), (True, False)])
def test_the_command_with_and_without_a_page(
    installed: bool, page: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "gradio" and not installed else found(name, *rest),
    )
    mounts: list[Any] = []
    monkeypatch.setattr(command, "run", lambda qa, settings, name, mounting=None: mounts.append(mounting))
    assert cli.run(["serve", *([] if page else ["--no-page"])]) == 0
    assert mounts == [mount if installed and page else None]
    assert ("no web page, because gradio is not installed" in capsys.readouterr().err) == (page and not installed)
