# SPDX-License-Identifier: Apache-2.0
"""The stand-in for a judge's endpoint, which the tests of the judge share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evaluation.judge_server import Server, serving


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is asked directly, whatever proxy its user has."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    """One server for a module; tests take `server`."""
    with serving() as found:
        yield found


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The server as new."""
    shared_server.forget()
    return shared_server
