# SPDX-License-Identifier: Apache-2.0
"""The web server of one application: it tells its address when it listens, and stops the engine first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from prunevid.errors import MissingDependencyError
from prunevid.serve.engine import Engine

try:
    import uvicorn
except ImportError as error:
    raise MissingDependencyError(
        "The server needs uvicorn, which is not installed; run `pip install 'prunevid[serve]'`."
    ) from error


class Server(uvicorn.Server):
    """A uvicorn server of an engine.

    Args:
        app: from `prunevid.serve.api.create_app`.
        engine: is closed when the server is told to stop, before open requests are waited for: what runs is stopped
            and what waits is answered with 503.
        ready: is given the address (http://host:port) when it can be reached.
    """

    def __init__(self, app: Any, engine: Engine, ready: Callable[[str], None] | None = None) -> None:
        settings = engine.settings
        config = uvicorn.Config(
            app,
            host=settings.host.strip("[]"),
            port=settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=10,
        )
        super().__init__(config)
        self._engine = engine
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and tells where."""
        await super().startup(sockets=sockets)
        if self.should_exit or self._ready is None:
            return
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops the engine, then waits for what is still being sent."""
        await asyncio.to_thread(self._engine.close)
        await super().shutdown(sockets=sockets)
