# SPDX-License-Identifier: Apache-2.0
"""`prunevid serve` and its settings."""

from __future__ import annotations

import importlib.util
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from prunevid import cli
from prunevid.errors import ConfigError
from prunevid.serve.settings import ServeSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("port", True),
        ("host", " "),
        ("api_key", ""),
        ("allowed_hosts", "example.org"),
        ("allowed_hosts", ("http://example.org",)),
        ("allowed_hosts", ("*.example.org",)),
        ("allowed_hosts", ("",)),
        ("allowed_hosts", ("example.org:x",)),
        ("allowed_folder", Path("/nowhere/at/all")),
        ("allowed_folder", Path(__file__)),
        ("max_upload_bytes", 0),
        ("max_queue", 1.5),
        ("max_per_client", -1),
        ("max_redirects", -1),
        ("max_seconds", 0),
        ("request_seconds", float("inf")),
        ("body_seconds", float("nan")),
        ("fetch_seconds", "3"),
    ],
)
def test_settings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        ServeSettings(**{field: value})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("box.lan", False)],
)
def test_which_hosts_are_this_machine(host: str, loopback: bool) -> None:
    assert ServeSettings(host=host).loopback is loopback


def test_settings_are_put_in_order(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    settings = ServeSettings(
        allowed_folder=tmp_path / "link", allowed_hosts=("Example.ORG.", "a.org:8080"), api_key="k"
    )
    assert settings.allowed_folder == tmp_path / "real"
    assert settings.allowed_hosts == ("example.org", "a.org:8080")
    assert "'k'" not in repr(settings)
    assert ServeSettings(max_upload_bytes=4, max_text_bytes=10).max_body_bytes == 18


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "port"),
        (["--api-key-env", "PRUNEVID_TEST_NO_KEY"], "PRUNEVID_TEST_NO_KEY"),
        (["--allow-folder", "/nowhere/at/all"], "allowed folder"),
        (["--allow-host", "http://x"], "allowed host"),
        (["--max-queue", "0"], "max_queue"),
        (["--method", "nosuch"], "nosuch"),
        (["--retention", "2"], "2"),
        (["--host"], "--host"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi")
    assert cli.run(["serve", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_is_named_before_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else real(name))
    assert cli.run(["serve", "--model", "/nowhere"]) == 1
    assert "prunevid[serve]" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_serves_until_it_is_stopped(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    from prunevid.serve.server import Server

    seen: list[Any] = []
    startup = Server.startup

    async def started(self: Any, sockets: Any = None) -> None:
        await startup(self, sockets)
        port = self.servers[0].sockets[0].getsockname()[1]

        def look() -> None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as response:
                    seen.append(response.read())
            finally:
                self.should_exit = True

        threading.Thread(target=look).start()

    monkeypatch.setattr(Server, "startup", started)
    assert cli.run(["serve", "--host", host, "--port", "0", "--method", "uniform", "--retention", "0.5"]) == 0
    assert seen == [b'{"status":"ok"}']
    told = capsys.readouterr()
    assert f"Serving builtin with uniform at http://{host}:" in told.out
    assert ("no API key" in told.err) == (host != "127.0.0.1")
