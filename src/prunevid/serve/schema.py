# SPDX-License-Identifier: Apache-2.0
"""A chat request in OpenAI's format, read strictly, and the answer in the same format.

Fields that would change the answer and that this server can't honour are refused, not ignored. Unknown fields are
ignored, as clients send more and more of them.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunevid.serve.conversation import Message
from prunevid.serve.engine import Reply
from prunevid.serve.refusals import Refusal, malformed, unusable

_UNSERVED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
}
"""Fields that are taken only with these values (and null): those that ask for nothing."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Url(_Strict):
    """Where a clip or a picture is."""

    url: str = Field(min_length=1)


class TextPart(_Strict):
    """Text."""

    type: Literal["text"]
    text: str


class VideoPart(_Strict):
    """A clip."""

    type: Literal["video_url"]
    video_url: Url


class ImagePart(_Strict):
    """A picture; several in one message are the frames of one clip."""

    type: Literal["image_url"]
    image_url: Url


Part = Annotated[TextPart | VideoPart | ImagePart, Field(discriminator="type")]


class ChatMessage(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def text(self) -> str:
        """The text parts, a line each."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def urls(self, kind: type[VideoPart] | type[ImagePart]) -> list[str]:
        """The URLs of the parts of one kind."""
        if isinstance(self.content, str):
            return []
        found: list[str] = []
        for part in self.content:
            if isinstance(part, kind):
                found.append(part.video_url.url if isinstance(part, VideoPart) else part.image_url.url)
        return found


class StreamOptions(_Strict):
    """Whether a last chunk tells the usage."""

    include_usage: bool | None = None


class Extension(_Strict):
    """What OpenAI's format has no field for; unknown names in it are mistakes."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    method: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    retention_ratio: float | None = None
    retention_tokens: int | None = None
    max_frames: int | None = None


class ChatRequest(_Strict):
    """The body of POST /v1/chat/completions."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    prunevid: Extension | None = None

    def turns(self) -> tuple[Message, ...]:
        """The conversation without its media."""
        return tuple(
            Message("system" if message.role == "developer" else message.role, message.text())
            for message in self.messages
        )

    def media(self) -> tuple[str | None, list[str]]:
        """The URL of the clip (None: there is none) and those of the pictures.

        Raises:
            Refusal: 422: media outside the first user's message, several clips, or a clip and pictures.
        """
        first = next((message for message in self.messages if message.role == "user"), None)
        videos = [(message, url) for message in self.messages for url in message.urls(VideoPart)]
        images = [(message, url) for message in self.messages for url in message.urls(ImagePart)]
        if any(message is not first for message, _ in videos + images):
            raise unusable("A clip or pictures may stand in the first message of the user only.", "misplaced_media")
        if len(videos) > 1 or (videos and images):
            raise unusable("Send one clip, or pictures, but not several clips or both.", "several_media")
        return (videos[0][1] if videos else None), [url for _, url in images]

    def stops(self) -> tuple[str, ...]:
        """The texts before which the answer ends.

        Raises:
            Refusal: 422: more than four, or an empty or very long one.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4 or not all(0 < len(text) <= 200 for text in stops):
            raise unusable("stop must be at most four texts of 1 to 200 characters.")
        return tuple(stops)

    def length(self) -> int | None:
        """Tokens of the answer, at most.

        Raises:
            Refusal: 422: two different values.
        """
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            raise unusable("max_tokens and max_completion_tokens differ; give one of them.")
        return given.pop() if given else None


def parse(body: bytes | bytearray) -> ChatRequest:
    """A checked request.

    Raises:
        Refusal: 400: no JSON, or not in the format. 422: it asks for something that isn't served.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _malformed(error) from None
    extra = request.model_extra or {}
    for name, harmless in _UNSERVED.items():
        value = extra.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in _with_floats(harmless)):
            raise unusable(f"{name} asks for something that this server doesn't do; leave it out.", "unsupported")
    return request


def _with_floats(values: tuple[Any, ...]) -> list[Any]:
    """The values, and whole numbers as floats, too."""
    return [*values, *(float(value) for value in values if type(value) is int)]


def _malformed(error: ValidationError) -> Refusal:
    """The first thing that is wrong, without what was sent."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:100]
    reason = " ".join(str(first["msg"]).split())[:200].rstrip(".")
    return malformed(f"{place}: {reason}." if place else f"The body is no chat request: {reason}.")


# ---- answers -----------------------------------------------------------------------------------------------------


def usage(reply: Reply) -> dict[str, Any]:
    """Tokens as OpenAI counts them: the prompt's are those of the unpruned prompt."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def extension(reply: Reply) -> dict[str, Any]:
    """What pruning did."""
    return {
        "method": reply.method,
        "prompt_tokens_kept": reply.prompt_tokens_kept,
        "visual_tokens": reply.visual_tokens,
        "visual_tokens_kept": reply.visual_tokens_kept,
        "frames": len(reply.clip),
        "milliseconds": {name: float(value) for name, value in reply.answer.stats.get("milliseconds", {}).items()},
    }


class Writer:
    """Documents of one answer in OpenAI's format."""

    def __init__(self, key: str, model: str) -> None:
        self._common = {"id": f"chatcmpl-{key}", "created": int(time.time()), "model": model}

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The answer in one document."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.text},
            "logprobs": None,
            "finish_reason": reply.finish_reason,
        }
        told = {"usage": usage(reply), "prunevid": extension(reply)}
        return {**self._common, "object": "chat.completion", "choices": [choice], **told}

    def piece(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A chunk of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self, reply: Reply, include_usage: bool) -> list[dict[str, Any]]:
        """The chunks at the end: why it ended and what pruning did, and the usage if it was asked for."""
        end = {**self.piece({}, reply.finish_reason), "prunevid": extension(reply)}
        if not include_usage:
            return [end]
        return [end, {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage(reply)}]


def error(refusal: Refusal) -> dict[str, Any]:
    """A refusal in OpenAI's error shape."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(refusal), "type": kind, "param": None, "code": refusal.code}}
