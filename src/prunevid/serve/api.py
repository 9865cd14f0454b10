# SPDX-License-Identifier: Apache-2.0
"""The web application: an endpoint in OpenAI's format, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from prunevid.errors import MissingDependencyError

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, PlainTextResponse, Response
    from starlette.exceptions import HTTPException

    from prunevid.serve import chat
    from prunevid.serve.metrics import CONTENT_TYPE, Metrics
except ImportError as error:
    raise MissingDependencyError(
        f"The server needs {error.name}, which is not installed; run `pip install 'prunevid[serve]'`."
    ) from error

from prunevid.serve.engine import Engine
from prunevid.serve.media import MediaStore
from prunevid.serve.refusals import Refusal, forbidden, internal

_log = logging.getLogger(__name__)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

Mount = Callable[[FastAPI], Any]
"""Adds to an application, such as a page at "/"; may return an application to be used in place of it."""


def create_app(engine: Engine, store: MediaStore | None = None, mount: Mount | None = None) -> Any:
    """The application; `app.state.engine`, `.store` and `.metrics` are what it works with.

    Args:
        engine: answers; closed with the application.
        store: where uploads lie; made from the engine's settings by default, and removed with the application.
        mount: is given the application when all its routes are there.

    Returns:
        An ASGI application.
    """
    store = store or MediaStore(engine.settings)
    metrics = Metrics(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(engine.close)
            store.close()

    # No pages about the API: they would load scripts from other hosts.
    app = FastAPI(title="prunevid", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.engine, app.state.store, app.state.metrics = engine, store, metrics
    _add_routes(app, engine, store, metrics)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(_Guard, engine=engine, metrics=metrics)
    return (mount(app) or app) if mount is not None else app


def _add_routes(app: FastAPI, engine: Engine, store: MediaStore, metrics: Metrics) -> None:
    def authorise(request: Request) -> None:
        check_key(request.headers.get("authorization"), engine.settings.api_key)

    def model() -> dict[str, Any]:
        return {"id": engine.name, "object": "model", "created": 0, "owned_by": "prunevid"}

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        authorise(request)
        return await chat.answer(request, engine, store, client_of(request))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        authorise(request)
        return JSONResponse({"object": "list", "data": [model()]})

    @app.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> Response:
        authorise(request)
        if name != engine.name:
            raise Refusal(404, f"There is no model {name[:100]!r}; this server has {engine.name!r}.", "no_model")
        return JSONResponse(model())

    @app.get("/healthz")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def counts(request: Request) -> Response:
        authorise(request)
        return PlainTextResponse(metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def check_key(header: str | None, key: str | None) -> None:
    """Compares a request's bearer token with the key, in constant time.

    Raises:
        Refusal: 401: it is missing or wrong.
    """
    if key is None:
        return
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), key.encode("utf-8")):
        raise Refusal(
            401, "The API key is missing or wrong; send it as 'Authorization: Bearer ...'.", "invalid_api_key"
        )


def client_of(request: Request) -> str:
    """Who asks, for fairness: the address that the request comes from."""
    return request.client.host if request.client is not None else "unknown"


async def _on_refusal(request: Request, error: Exception) -> Response:
    return chat.refuse(error if isinstance(error, Refusal) else internal())


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Errors of the framework itself: no such path, another verb."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    texts = {
        404: ("There is nothing at this path.", "no_such_path"),
        405: ("This path takes another verb.", "wrong_verb"),
    }
    text, code = texts.get(status, ("The request can't be served.", "not_served"))
    response = chat.refuse(Refusal(status, text, code))
    response.headers.update(getattr(error, "headers", None) or {})
    return response


class _Guard:
    """Counts requests by status, turns errors that nobody foresaw into a plain 500, and checks the header Host.

    A server that only this machine can reach must not be reachable for a web page whose name was made to lead here;
    so it takes only the names of this machine.
    """

    def __init__(self, app: Any, engine: Engine, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        host = engine.settings.host.lower()
        self._names = {*_LOCAL_NAMES, host, f"[{host}]"} if engine.settings.loopback else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: list[int] = []

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            await send(message)

        try:
            if self._foreign(scope):
                refusal = forbidden("This server answers only to names of its own machine.", "foreign_host")
                await chat.refuse(refusal)(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        except Exception:
            _log.exception("A request failed.")
            if not status:
                await chat.refuse(internal())(scope, receive, counted)
        finally:
            self._metrics.request(scope["path"], status[0] if status else 499)

    def _foreign(self, scope: Any) -> bool:
        """Whether the header Host names another machine."""
        if self._names is None:
            return False
        hosts = [value.decode("latin-1").strip().lower() for name, value in scope["headers"] if name == b"host"]
        return any(_without_port(host) not in self._names for host in hosts)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
