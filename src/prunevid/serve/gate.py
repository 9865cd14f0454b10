# SPDX-License-Identifier: Apache-2.0
"""What stands before the page: the key, the limits of uploads, and nothing of Gradio but what the page needs."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from prunevid.serve import chat
from prunevid.serve.engine import Engine
from prunevid.serve.refusals import Refusal, forbidden, gone, malformed, too_large
from prunevid.serve.uploads import FORM_BYTES, Uploads, large

_UPLOAD, _PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"
_POSTS = (_UPLOAD, "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
_FILES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/queue/data", _PROGRESS)
_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_HEADERS = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    b"connect-src 'self' data: blob:; worker-src 'self' blob:; media-src 'self' data: blob:; object-src 'none'; "
    b"base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Gate:
    """An ASGI application in front of Gradio's.

    Gradio can fetch URLs, hand out files and proxy other hosts; the page needs none of it, so only the paths that it
    needs are open, and a file that a request names must be one of the uploads.

    Args:
        app: Gradio's application.
        engine: its settings and its queue.
        uploads: the page's.
    """

    def __init__(self, app: Any, engine: Engine, uploads: Uploads) -> None:
        self._app, self._engine, self._uploads = app, engine, uploads
        self._settings = engine.settings
        self._closed = False
        self._streams: set[asyncio.Future[None]] = set()  # done when the server closes
        engine.on_close(self._close)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        try:
            await self._pass(scope, receive, send)
        except Refusal as refusal:
            response: Response = chat.refuse(refusal)
            if scope["path"].rstrip("/") == _UPLOAD:  # the page shows the whole body
                headers = {name: response.headers[name] for name in ("retry-after",) if name in response.headers}
                response = PlainTextResponse(str(refusal), refusal.status, headers)
            if refusal.status == 401:
                response.headers["WWW-Authenticate"] = 'Basic realm="prunevid", charset="UTF-8"'
            await response(scope, receive, send)

    async def _pass(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].rstrip("/") or "/"
        self._check_key(headers.get(b"authorization", ""))
        if not _open(scope["method"], path, scope["path"]):
            raise Refusal(404, "There is nothing at this path.", "no_such_path")
        if scope["method"] == "POST":
            _check_origin(headers)
        guarded = _with_headers(send)
        if path == _UPLOAD:
            await self._upload(scope, receive, guarded, headers)
        elif scope["method"] == "POST":
            await self._app(scope, await self._checked(receive, headers), guarded)
        elif path == _PROGRESS:  # nothing is told of it but that there is no more to hear
            told = Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
            await told(scope, receive, guarded)
        else:
            await self._streamed(scope, receive, guarded)

    # ---- streams -------------------------------------------------------------------------------------------------

    async def _streamed(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends what may go on for as long as a page is open; it ends with the server as if the page was closed."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams.add(over)
        if self._closed:
            over.set_result(None)
        state: list[bool] = []  # one entry once it began; True when it is complete

        async def hear() -> Any:
            coming = asyncio.ensure_future(receive())
            both: set[asyncio.Future[Any]] = {coming, over}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                return coming.result() if coming.done() else {"type": "http.disconnect"}
            finally:
                coming.cancel()

        async def noted(message: Any) -> None:
            state[:] = [message["type"] == "http.response.body" and not message.get("more_body", False)]
            await send(message)

        try:
            await self._app(scope, hear, noted)
            if state == [False] and over.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams.discard(over)

    def _close(self) -> None:
        """Ends all streams; from any thread."""
        self._closed = True
        for over in list(self._streams):
            with suppress(RuntimeError):  # its loop is over
                over.get_loop().call_soon_threadsafe(_end, over)

    def _check_key(self, header: str) -> None:
        """The key as the password that a browser asks for, with any user name; or as a bearer token.

        Raises:
            Refusal: 401.
        """
        key = self._settings.api_key
        if key is None:
            return
        scheme, _, given = header.partition(" ")
        secret = given.strip().encode("latin-1")
        if scheme.lower() == "basic":
            try:
                secret = base64.b64decode(secret, validate=True).partition(b":")[2]
            except binascii.Error:
                secret = b""
        elif scheme.lower() != "bearer":
            secret = b""
        if not hmac.compare_digest(secret, key.encode("utf-8")):
            raise Refusal(
                401, "The API key is missing or wrong; give it as the password, with any user name.", "invalid_api_key"
            )

    # ---- bodies --------------------------------------------------------------------------------------------------

    def _length(self, headers: dict[bytes, str], most: int, message: str) -> int:
        """The length that a body has; the web server takes no more of it than that.

        Raises:
            Refusal: 411: it is not told, or the body comes in chunks; 413 with this message.
        """
        text = headers.get(b"content-length", "")
        if not text.isdecimal() or b"transfer-encoding" in headers:
            raise Refusal(411, "The request must say how long it is.", "length_required")
        if len(text) > 18 or int(text) > most:
            raise too_large(message)
        return int(text)

    async def _upload(self, scope: Any, receive: Any, send: Any, headers: dict[bytes, str]) -> None:
        """Takes an upload in a place of the queue, as the endpoint does; answers with its path, as Gradio would."""
        most = self._settings.max_upload_bytes + FORM_BYTES
        size = self._length(headers, most, large(self._settings))
        place = self._engine.reserve(scope["client"][0] if scope.get("client") else "unknown")
        try:
            path = await self._uploads.receive(Request(scope, receive), size)
        finally:
            place.release()
        await JSONResponse([str(path)])(scope, receive, send)

    async def _checked(self, receive: Any, headers: dict[bytes, str]) -> Any:
        """A body that names no file but uploads, to be read again."""
        most = self._settings.max_text_bytes
        length = self._length(headers, most, f"The request is larger than {most} bytes; ask something shorter.")
        body = b""
        while len(body) < length:
            try:
                message = await asyncio.wait_for(receive(), self._settings.body_seconds)
            except (asyncio.TimeoutError, TimeoutError) as error:
                raise Refusal(408, "The request did not arrive in time.", "body_time_limit") from error
            if message["type"] != "http.request":
                raise gone()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            document = json.loads(body or b"null")
        except (ValueError, RecursionError) as error:
            raise malformed("The request is no JSON.") from error
        for path in _paths(document):
            if not self._uploads.holds(path):
                raise forbidden("The request names a file that is no upload of this page.", "no_upload")
        sent: list[bool] = []

        async def again() -> Any:
            if sent:
                return await receive()
            sent.append(True)
            return {"type": "http.request", "body": body, "more_body": False}

        return again


def _open(verb: str, path: str, whole: str) -> bool:
    """Whether the page needs this path."""
    if verb == "POST":
        return path in _POSTS
    if verb not in ("GET", "HEAD") or ".." in whole:
        return False
    return path in _FILES or any(whole.startswith(folder) for folder in _FOLDERS)


def _check_origin(headers: dict[bytes, str]) -> None:
    """A page of another site must not ask in the name of whoever looks at it.

    Raises:
        Refusal: 403.
    """
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get(b"host", "").lower():
        raise forbidden("The request comes from the page of another site.", "foreign_origin")


def _paths(document: Any) -> list[Any]:
    """Everything in a document that is named as a file's path, at any depth."""
    found, left = [], [document]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            found += [item["path"]] if "path" in item else []
            left += item.values()
        elif isinstance(item, list):
            left += item
    return found


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            others = [(name, value) for name, value in message.get("headers", []) if name.lower() not in _HEADERS]
            message = {**message, "headers": [*others, *_HEADERS.items()]}
        await send(message)

    return sending
