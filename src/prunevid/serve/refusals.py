# SPDX-License-Identifier: Apache-2.0
"""Why a request is turned down: one sentence for the client, and the HTTP status that fits."""

from __future__ import annotations

from prunevid.errors import PruneVidError


class Refusal(PruneVidError):
    """A request that is not answered.

    The message goes to the client as it is, so it names no path of this machine.

    Args:
        status: HTTP status, 400 ... 599.
        message: one sentence.
        code: a short name that programs can test, in OpenAI's error shape.
        retry_after: whole seconds after which trying again makes sense; None where it never does.
    """

    def __init__(self, status: int, message: str, code: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


def malformed(message: str) -> Refusal:
    """400: the request is not in the format."""
    return Refusal(400, message, "malformed_request")


def forbidden(message: str, code: str = "forbidden") -> Refusal:
    """403: understood, but not allowed here."""
    return Refusal(403, message, code)


def too_large(message: str) -> Refusal:
    """413: more bytes than the limit."""
    return Refusal(413, message, "too_large")


def unusable(message: str, code: str = "unusable_value") -> Refusal:
    """422: well formed, but the value or the media can't be used."""
    return Refusal(422, message, code)


def too_many(message: str, retry_after: int) -> Refusal:
    """429: this client has too many requests open."""
    return Refusal(429, message, "too_many_requests", retry_after)


def busy(message: str, retry_after: int) -> Refusal:
    """503: the queue is full."""
    return Refusal(503, message, "queue_full", retry_after)


def closing() -> Refusal:
    """503: the server stops."""
    return Refusal(503, "The server is shutting down; ask again when it is back.", "shutting_down", 5)


def too_slow(seconds: float) -> Refusal:
    """504: the time limit of a request has passed."""
    return Refusal(
        504,
        f"The answer took longer than the {seconds:g} s that one request may take; "
        "ask for fewer tokens, or about a shorter clip.",
        "time_limit",
    )


def gone() -> Refusal:
    """499: the client went away; nobody reads this."""
    return Refusal(499, "The client went away.", "client_gone")


def internal() -> Refusal:
    """500: our own fault; details stay in the server's log."""
    return Refusal(500, "The server failed on this request; its log says where.", "internal_error")
