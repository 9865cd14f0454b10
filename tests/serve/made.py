# SPDX-License-Identifier: Apache-2.0
"""Questions and how they ended, for the tests of the server."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any

from prunevid.serve.conversation import Message
from prunevid.serve.engine import Engine, Question, Reply
from prunevid.serve.refusals import Refusal
from prunevid.serve.worker import Done, Event, Failed, Piece

CLIP_SEED = 3
PATIENCE = 30.0  # seconds after which a test is stuck


def ask(clip: Any, text: str) -> Question:
    """One question about a clip."""
    return Question((Message("user", text),), clip)


@dataclass
class Collected:
    """How a question ended."""

    events: list[Event] = field(default_factory=list)

    @property
    def pieces(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Piece)]

    @property
    def reply(self) -> Reply:
        last = self.events[-1]
        assert isinstance(last, Done), last
        reply = last.result
        assert isinstance(reply, Reply)
        return reply

    @property
    def refusal(self) -> Refusal:
        last = self.events[-1]
        assert isinstance(last, Failed), last
        return last.refusal


def collect(engine: Engine, question: Question, client: str = "me") -> Collected:
    """Asks and waits for the end."""
    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(engine.reserve(client), question, heard.put)
    collected = Collected()
    while not (collected.events and isinstance(collected.events[-1], (Done, Failed))):
        collected.events.append(heard.get(timeout=PATIENCE))
    return collected
