# SPDX-License-Identifier: Apache-2.0
"""POST /v1/chat/completions: from the body's first byte to the answer's last, or to the client's going away."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from prunevid.serve import schema
from prunevid.serve.engine import Engine, Listener, Question
from prunevid.serve.media import MediaStore, RequestMedia
from prunevid.serve.refusals import Refusal, gone, malformed, too_large
from prunevid.serve.settings import ServeSettings
from prunevid.serve.worker import Done, Event, Failed, Job, Piece


def refuse(refusal: Refusal) -> JSONResponse:
    """A refusal as a response."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(schema.error(refusal), refusal.status, headers)


async def read_body(request: Request, settings: ServeSettings) -> bytearray:
    """The whole body, within the limits of size and time.

    Raises:
        Refusal: 400 a length that is no number, 408 too slow, 413 too large, 415 no JSON; 499 the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "The body must be of type application/json.", "unsupported_media_type")
    most = settings.max_body_bytes
    large = too_large(f"The body is larger than {most} bytes; send a shorter or smaller clip.")
    declared = request.headers.get("content-length")
    if declared is not None and not declared.isdecimal():
        raise malformed("Content-Length must be a number.")
    if declared is not None and (len(declared) > 18 or int(declared) > most):
        raise large

    async def collect() -> bytearray:
        body = bytearray()
        async for chunk in request.stream():
            if len(body) + len(chunk) > most:
                raise large
            body += chunk
        return body

    try:
        return await asyncio.wait_for(collect(), settings.body_seconds)
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise Refusal(408, f"The body did not arrive within {settings.body_seconds:g} s.", "body_time_limit") from error
    except ClientDisconnect as error:
        raise gone() from error


def build(chat: schema.ChatRequest, media: RequestMedia) -> Question:
    """The question of a request, with its media in files. Blocks while it decodes or fetches.

    Raises:
        Refusal: a value or a medium that can't be used.
    """
    video, pictures = chat.media()
    wanted = chat.prunevid or schema.Extension()
    stops, length, turns = chat.stops(), chat.length(), chat.turns()
    images = tuple(media.take(url, f"picture {number}") for number, url in enumerate(pictures, start=1))
    clip = None if video is None else media.take(video, "the video")
    return Question(
        turns,
        clip,
        images,
        method=wanted.method,
        retention_ratio=wanted.retention_ratio,
        retention_tokens=wanted.retention_tokens,
        max_frames=wanted.max_frames,
        max_new_tokens=length,
        temperature=chat.temperature,
        top_p=chat.top_p,
        seed=chat.seed,
        stop=stops,
        names=media.names,
    )


async def answer(request: Request, engine: Engine, store: MediaStore, client: str) -> Response:
    """Takes one request; the response waits for the answer.

    Raises:
        Refusal: it is turned down.
    """
    place = engine.reserve(client)
    stack = ExitStack()
    try:
        body = await read_body(request, engine.settings)
        chat = await asyncio.to_thread(schema.parse, body)
        del body
        if chat.model != engine.name:
            raise Refusal(404, f"There is no model {chat.model[:100]!r}; this server has {engine.name!r}.", "no_model")
        media = stack.enter_context(store.request())
        question = await asyncio.to_thread(build, chat, media)
        listener = Listener()
        job = engine.submit(place, question, listener)
    except BaseException:
        stack.close()
        place.release()
        raise
    writer = schema.Writer(secrets.token_hex(12), engine.name)
    include_usage = bool(chat.stream_options and chat.stream_options.include_usage)
    return Answering(engine, job, listener, stack, writer, bool(chat.stream), include_usage)


class _Gone(Exception):
    """The client went away."""


class Answering(Response):
    """Waits for a job and sends what it says; ends the job when the client goes away.

    The status is that of the job: nothing is sent before the first piece of the answer is there.
    """

    def __init__(
        self,
        engine: Engine,
        job: Job,
        listener: Listener,
        stack: ExitStack,
        writer: schema.Writer,
        stream: bool,
        include_usage: bool,
    ) -> None:
        super().__init__()
        self._engine, self._job, self._listener, self._stack = engine, job, listener, stack
        self._writer, self._stream, self._include_usage = writer, stream, include_usage

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        watch = asyncio.ensure_future(_until_gone(receive))

        async def send_soon(message: Any) -> None:
            """Sends; a client that takes nothing for too long counts as gone."""
            try:
                await asyncio.wait_for(send(message), self._engine.settings.body_seconds)
            except (OSError, asyncio.TimeoutError, TimeoutError) as error:
                raise _Gone from error

        try:
            events = self._events(watch)
            response = await self._whole(events) if not self._stream else await self._streamed(events, send_soon)
            if response is not None:
                await response(scope, receive, send_soon)
        except _Gone:
            pass
        finally:
            watch.cancel()
            self._engine.cancel(self._job)
            self._stack.close()

    async def _events(self, watch: asyncio.Future[None]) -> AsyncIterator[Event]:
        """The job's events, for as long as the client is there.

        Raises:
            _Gone: it went away.
        """
        while True:
            coming = asyncio.ensure_future(self._listener.next())
            both: set[asyncio.Future[Any]] = {coming, watch}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                raise _Gone
            event = coming.result()
            yield event
            if isinstance(event, (Done, Failed)):
                return

    async def _whole(self, events: AsyncIterator[Event]) -> Response:
        """The answer in one document, or the refusal."""
        async for event in events:
            if isinstance(event, Done):
                return JSONResponse(self._writer.whole(event.result))
            if isinstance(event, Failed):
                return refuse(event.refusal)
        raise _Gone

    async def _streamed(self, events: AsyncIterator[Event], send: Callable[[Any], Any]) -> Response | None:
        """Sends the answer as server-sent events; a refusal before the first piece is returned as a response."""
        begun = False
        async for event in events:
            documents: list[Any] = []
            if isinstance(event, Failed) and not begun:
                return refuse(event.refusal)
            if isinstance(event, (Piece, Done)) and not begun:
                begun = True
                headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                documents.append(self._writer.piece({"role": "assistant", "content": ""}))
            if isinstance(event, Piece):
                documents.append(self._writer.piece({"content": event.text}))
            elif isinstance(event, Done):
                documents += [*self._writer.last(event.result, self._include_usage), "[DONE]"]
            elif isinstance(event, Failed):
                documents.append(schema.error(event.refusal))
            for document in documents:
                text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
                await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None


async def _until_gone(receive: Callable[[], Any]) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
