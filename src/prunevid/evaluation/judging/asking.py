# SPDX-License-Identifier: Apache-2.0
"""What every judge has in common: who it is, how it is asked, and what that may cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prunevid.errors import ConfigError, JudgeError
from prunevid.evaluation.judging.cases import Case


@dataclass(frozen=True)
class Identity:
    """Who judges: with the messages, all that a reply depends on as far as it is known here.

    Attributes:
        model: the name that is asked for.
        endpoint: the address without user, password and query; "" for the stub.
        temperature: of sampling; None: whatever the endpoint takes by itself.
        stub: whether it is the offline stub, whose scores say nothing about a model.
    """

    model: str
    endpoint: str
    temperature: float | None
    stub: bool = False


@dataclass(frozen=True)
class Said:
    """One reply.

    Attributes:
        text: whole.
        model: as the endpoint reports it; None where it does not.
        prompt_tokens, completion_tokens, total_tokens: as the endpoint counts them; None where it does not.
    """

    text: str
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class Judge(Protocol):
    """Whoever gives replies. `ask` is called by several threads at once."""

    identity: Identity

    def ask(self, case: Case, gate: Gate) -> Said:
        """The reply to a case's messages; `gate.enter()` comes before each request that is sent.

        Raises:
            JudgeError: no reply is to be had.
            Stopped: the gate is closed.
        """
        ...


class Stopped(Exception):
    """No more requests are to be sent."""


class BudgetSpent(Stopped):
    """As many requests were sent, or as many tokens used, as were allowed."""


class Gate:
    """Lets requests through until the budget is spent or somebody stops it. Safe to use by several threads.

    Args:
        requests: how many may be sent at most, repetitions after errors included; None: any number.
        tokens: no request is sent after so many tokens were used, as the endpoint counts them; None: any number.
            Requests under way are finished, so that a little more may be used.

    Raises:
        ConfigError: a number is negative.
    """

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        for name, value in (("requests", requests), ("tokens", tokens)):
            if value is not None and value < 0:
                raise ConfigError(f"The budget of {name} is {value}; give 0 or more.")
        self._most_requests, self._most_tokens = requests, tokens
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.requests = 0
        self.tokens = 0

    def enter(self) -> None:
        """Counts a request that is about to be sent.

        Raises:
            Stopped: it must not be.
        """
        with self._lock:
            if self.stop.is_set():
                raise Stopped
            if self._most_requests is not None and self.requests >= self._most_requests:
                raise BudgetSpent(f"the budget of {self._most_requests} requests is spent")
            if self._most_tokens is not None and self.tokens >= self._most_tokens:
                raise BudgetSpent(f"the budget of {self._most_tokens} tokens is spent ({self.tokens} used)")
            self.requests += 1

    def pay(self, said: Said) -> None:
        """Counts the tokens of a reply.

        Raises:
            JudgeError: tokens are limited, but the endpoint does not count them.
        """
        with self._lock:
            if said.total_tokens is None:
                if self._most_tokens is not None:
                    raise JudgeError("The judge does not report tokens; limit requests (--budget-requests) instead.")
                return
            self.tokens += said.total_tokens


Tell = Callable[[int, int], None]
