# SPDX-License-Identifier: Apache-2.0
"""Questions for the worker, answered by one `VideoQA`: each with its own method, budget, sampling and limits."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import StoppingCriteriaList

from prunevid.answers import Answer
from prunevid.choice import choose_method
from prunevid.errors import ConfigError, InputError, UnsupportedError
from prunevid.generation import input_device
from prunevid.methods import Method
from prunevid.qa import VideoQA
from prunevid.serve import conversation
from prunevid.serve.conversation import Message
from prunevid.serve.refusals import Refusal, unusable
from prunevid.serve.sessions import Sessions
from prunevid.serve.settings import ServeSettings
from prunevid.serve.streaming import Stopping, TextSink, TokenStreamer
from prunevid.serve.worker import Done, Event, Failed, Job, Place, Worker
from prunevid.video import Clip, Limits

_log = logging.getLogger(__name__)

SINGLE_FILES = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "asf", "flv", "ogg", "mpegts", "mpeg"),
    *("mpegvideo", "m4v", "h264", "hevc", "av1", "ivf", "obu", "gif", "apng", "webp_pipe", "mxf", "nut", "dv", "rm"),
)
"""FFmpeg's demuxers of files that stand alone. Playlists (hls, dash, concat, sdp, ...) name other files and hosts."""
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's formats of plain pictures."""


@dataclass(frozen=True)
class Question:
    """What a client asks.

    Attributes:
        messages: an optional system message, then user and assistant in turns; the last is the question.
        clip: a path, a `Clip`, or whatever `VideoQA.load_clip` takes; None where `images` are given.
        images: paths of pictures that are taken as the frames.
        method: name of a method; None: the server's, with the budget below if one is given.
        retention_ratio, retention_tokens: the budget; at most one.
        max_frames: frames to look at; None: the model's default, within the server's limit.
        max_new_tokens: length of the answer; None: the model's default, within the server's limit.
        temperature: above 0 to sample; None or 0 decodes greedily (unless `top_p` is given).
        top_p: share of the likeliest tokens to sample from, in (0, 1].
        seed: of the sampling.
        stop: texts before which the answer ends.
        keep: whether the clip is kept for follow-up questions (`Reply.session`).
        session: key of a clip that was kept, in place of `clip` and `images`.
        names: what messages call a file, by the path that they must not show.
    """

    messages: tuple[Message, ...]
    clip: Any = None
    images: tuple[Any, ...] = ()
    method: str | None = None
    retention_ratio: float | None = None
    retention_tokens: int | None = None
    max_frames: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keep: bool = False
    session: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer and what it cost.

    Attributes:
        text: the answer, before a stop sequence.
        finish_reason: "stop" or "length", as OpenAI names them.
        answer: what `VideoQA.ask` returned, with stats and token maps.
        clip: the frames that were seen.
        method: label of the method.
        prompt_tokens: tokens of the unpruned prompt, text and visual.
        prompt_tokens_kept: those that are left at the end.
        visual_tokens, visual_tokens_kept: the visual ones of each.
        completion_tokens: tokens that were generated.
        session: key of the clip where it was to be kept.
    """

    text: str
    finish_reason: str
    answer: Answer
    clip: Clip
    method: str
    prompt_tokens: int
    prompt_tokens_kept: int
    visual_tokens: int
    visual_tokens_kept: int
    completion_tokens: int
    session: str | None = None


class Engine:
    """Answers questions of many clients with one model, one at a time.

    Args:
        qa: the model with the default method.
        settings: the limits.
        name: what the model is called to clients.
        worker: the queue; made from the settings by default.
    """

    def __init__(
        self, qa: VideoQA, settings: ServeSettings | None = None, name: str = "prunevid", worker: Worker | None = None
    ) -> None:
        self.qa = qa
        self.settings = settings or ServeSettings()
        self.name = name
        self.worker = worker or Worker(
            self.settings.max_queue, self.settings.max_per_client, self.settings.request_seconds
        )
        self.sessions = Sessions(self.settings.max_sessions, self.settings.session_seconds)
        self._listeners: list[Callable[[Reply], None]] = []
        self._closing: list[Callable[[], None]] = []

    def on_reply(self, listener: Callable[[Reply], None]) -> None:
        """`listener` gets every reply, in the worker's thread (for counting)."""
        self._listeners.append(listener)

    def on_close(self, listener: Callable[[], None]) -> None:
        """`listener` is called when the engine begins to close, from any thread."""
        self._closing.append(listener)

    def reserve(self, client: str) -> Place:
        """Takes a place for a request of this client; see `Worker.reserve`."""
        return self.worker.reserve(client)

    def check(self, question: Question) -> None:
        """Refuses what can't be asked before anything is queued or read.

        Raises:
            Refusal: 422: a value out of range, an unknown method, a conversation that the model can't read.
        """
        given = [question.clip is not None, bool(question.images), question.session is not None]
        if sum(given) != 1:
            raise unusable("Give one clip, or pictures, in the first message of the user.", "no_media")
        if len(question.images) > self.settings.max_images:
            raise unusable(
                f"There are {len(question.images)} pictures, above the limit of {self.settings.max_images}; send fewer."
            )
        for name in ("max_frames", "max_new_tokens"):
            value, most = getattr(question, name), getattr(self.settings, name)
            if value is not None and not 1 <= value <= most:
                raise unusable(f"{name} is {value}, but must be from 1 to {most} on this server.")
        if question.temperature is not None and not 0 <= question.temperature <= 2:
            raise unusable(f"temperature is {question.temperature:g}, but must be from 0 to 2.")
        if question.top_p is not None and not 0 < question.top_p <= 1:
            raise unusable(f"top_p is {question.top_p:g}, but must be above 0 and at most 1.")
        if question.seed is not None and not -(2**63) <= question.seed < 2**63:
            raise unusable(f"seed is {question.seed}, but must fit into 64 bits.")
        tokenizer = self.qa.processor.tokenizer
        conversation.check(question.messages, tokenizer, self.settings.max_text_chars)
        with _refusing(question.names):
            self._method(question)
            conversation.prompt(question.messages, self.qa.processor)

    def submit(self, place: Place, question: Question, hear: Callable[[Event], None]) -> Job:
        """Checks and queues a question; the place is released when it is answered, or refused at once.

        Args:
            hear: is told every event; `Done.result` is a `Reply`.

        Raises:
            Refusal: see `check`; 503 where the engine is closed.
        """
        try:
            self.check(question)
        except BaseException:
            place.release()
            raise
        return self.worker.submit(place, lambda job: self._answer(job, question), hear)

    def cancel(self, job: Job) -> None:
        """Ends a job whose client went away."""
        self.worker.cancel(job)

    def close(self) -> None:
        """Stops the running answer, refuses those that wait, forgets all clips. A second call does nothing."""
        for listener in self._closing:
            listener()
        self.worker.close()
        self.sessions.clear()

    # ---- in the worker's thread ----------------------------------------------------------------------------------

    def _method(self, question: Question) -> Method | None:
        """The method of a question; None for the server's own."""
        budget: dict[str, Any] = {
            "retention_ratio": question.retention_ratio,
            "retention_tokens": question.retention_tokens,
        }
        if question.method is not None:
            return choose_method(question.method, defaults=self.qa.defaults, **budget)
        if all(value is None for value in budget.values()):
            return None
        if all(value is not None for value in budget.values()):
            raise unusable("Give either retention_ratio or retention_tokens, and not both.")
        return self.qa.method.replace(**budget)

    def _read(self, job: Job, question: Question) -> Clip:
        """The frames of a question's clip, within the limits."""
        if question.session is not None:
            return self.sessions.get(job.client, question.session)
        limits = Limits(self.settings.max_pixels, self.settings.max_seconds, SINGLE_FILES, PICTURES)
        return self.qa.load_clip(
            question.clip,
            images=list(question.images) or None,
            max_frames=question.max_frames or min(self.qa.max_frames, self.settings.max_frames),
            limits=limits,
            progress=lambda done, total: job.check(),
        )

    def _answer(self, job: Job, question: Question) -> Reply:
        """Reads, asks, and counts; the text goes to the job as it comes."""
        with _refusing(question.names), torch.random.fork_rng(_cuda_devices(self.qa.model)):
            method = self._method(question)
            qa = self.qa if method is None else self.qa.using(method)
            began = time.perf_counter()
            clip = self._read(job, question)
            spent = 1000.0 * (time.perf_counter() - began)
            job.check()
            sink = TextSink(job.say, question.stop)
            streamer = TokenStreamer(qa.processor.tokenizer, sink)
            _seed(question.seed)
            length = question.max_new_tokens or min(qa.max_new_tokens, self.settings.max_new_tokens)
            answer = qa.ask(
                clip,
                question.messages[-1].text,
                prompt=conversation.prompt(question.messages, qa.processor),
                max_new_tokens=length,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([Stopping(lambda: job.stopped.is_set() or sink.ended)]),
                **_sampling(question),
            )
        job.check()
        if "milliseconds" in answer.stats:
            answer.stats["milliseconds"]["decode_video"] = spent
        text = sink.close(streamer.text)
        cut = not sink.ended and len(streamer.tokens) >= length and not _is_end(qa.model, streamer.tokens[-1])
        reply = _reply(answer, clip, qa.method.label, streamer, text, "length" if cut else "stop")
        if question.keep:
            reply = replace(reply, session=question.session or self.sessions.put(job.client, clip))
        for listener in self._listeners:
            listener(reply)
        return reply


def _reply(answer: Answer, clip: Clip, method: str, streamer: TokenStreamer, text: str, reason: str) -> Reply:
    """An answer with its counts."""
    visual = int(answer.stats.get("stage1", {}).get("original_tokens", 0))
    kept = round(visual * float(answer.stats.get("total", {}).get("retained_ratio", 1.0)))
    whole = streamer.prompt_tokens
    spoken = len(streamer.tokens)
    return Reply(text, reason, answer, clip, method, whole, whole - visual + kept, visual, kept, spoken)


def _sampling(question: Question) -> dict[str, Any]:
    """Options of `generate`: greedy without a temperature and `top_p`, or with temperature 0."""
    chosen = {"temperature": question.temperature, "top_p": question.top_p}
    given = {name: value for name, value in chosen.items() if value is not None}
    return {} if not given or question.temperature == 0 else {"do_sample": True, **given}


def _seed(seed: int | None) -> None:
    """Seeds torch's generators: with the question's seed, or with one that nobody knows."""
    torch.manual_seed(secrets.randbits(63) if seed is None else seed)


def _cuda_devices(model: Any) -> list[torch.device]:
    """The devices besides the CPU whose random state the sampling changes."""
    device = input_device(model)
    return [device] if device.type == "cuda" else []


def _is_end(model: Any, token: int) -> bool:
    """Whether a token ends an answer of this model."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return token in (ends if isinstance(ends, (list, tuple)) else [ends])


@contextmanager
def _refusing(names: Mapping[str, str]) -> Iterator[None]:
    """Turns errors about what the client sent into refusals that name no path of this machine."""
    try:
        yield
    except Refusal:
        raise
    except (InputError, ConfigError, UnsupportedError) as error:
        raise unusable(public(str(error), names)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        _log.warning("Out of memory on a request.")
        raise Refusal(
            503, "There is not enough memory for this question; look at fewer frames.", "out_of_memory", 5
        ) from error


def public(message: str, names: Mapping[str, str]) -> str:
    """A message on one line with every path in it replaced by what the client calls it."""
    for path, name in sorted(names.items(), key=lambda item: -len(item[0])):
        message = message.replace(path, name)
    return " ".join(message.split())


class Listener:
    """Hears a job from its thread and hands its events to a coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        """Takes an event, from any thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next(self) -> Event:
        """The next event."""
        return await self._events.get()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events up to `Done` or `Failed`."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, (Done, Failed)):
                return
