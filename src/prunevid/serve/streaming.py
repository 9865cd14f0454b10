# SPDX-License-Identifier: Apache-2.0
"""From tokens to text as they come, up to a stop sequence, until somebody says stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class TextSink:
    """Passes text on as it grows, without space around it, and ends before the first stop sequence.

    Held back is what may still turn out not to be text: space at the end, and what may be the beginning of a stop
    sequence. All pieces together are the text that `close` returns.

    Args:
        say: gets the pieces.
        stop: sequences before which the text ends.
    """

    def __init__(self, say: Callable[[str], None], stop: Sequence[str] = ()) -> None:
        self._say = say
        self._stop = [text for text in stop if text]
        self._told = ""
        self.ended = False  # a stop sequence was found

    def update(self, text: str) -> None:
        """The whole text so far, which begins with that of the call before."""
        if not self.ended:
            whole = self._until_stop(text.lstrip())
            self._pass(whole if self.ended else whole[: self._safe(whole)])

    def close(self, text: str) -> str:
        """The whole text at its end; returns all that was passed on."""
        if not self.ended:
            self._pass(self._until_stop(text.lstrip()))
        return self._told

    def _until_stop(self, text: str) -> str:
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        self.ended = bool(found)
        return text[: min(found)] if found else text

    def _safe(self, text: str) -> int:
        """How many characters can't be part of a stop sequence that is not complete yet."""
        for length in range(min(len(text), max(map(len, self._stop), default=0)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return len(text) - length
        return len(text)

    def _pass(self, text: str) -> None:
        text = text.rstrip()
        if len(text) > len(self._told) and text.startswith(self._told):
            piece, self._told = text[len(self._told) :], text
            self._say(piece)


class TokenStreamer:
    """A transformers streamer: gets the prompt and then each token, and hands the text so far to a `TextSink`.

    The answer is decoded anew with each token, so its text is the one that decoding it at the end gives; characters
    of which a part is missing wait for their rest.

    Attributes:
        prompt_tokens: tokens of the unpruned prompt.
        tokens: ids of the answer so far.
    """

    def __init__(self, tokenizer: Any, sink: TextSink) -> None:
        self._tokenizer = tokenizer
        self._sink = sink
        self._prompt_seen = False
        self.prompt_tokens = 0
        self.tokens: list[int] = []

    def put(self, value: Any) -> None:
        """Ids of the prompt at the first call, of a token at each later one."""
        ids = torch.as_tensor(value).reshape(-1).tolist()
        if not self._prompt_seen:
            self._prompt_seen, self.prompt_tokens = True, len(ids)
            return
        self.tokens += ids
        self._sink.update(self.text.rstrip("\ufffd"))

    def end(self) -> None:
        """The answer is complete."""

    @property
    def text(self) -> str:
        """The answer so far."""
        return str(self._tokenizer.decode(self.tokens, skip_special_tokens=True))


class Stopping:
    """A stopping criterion of transformers: ends `generate` when `ended` says so, after the token at hand."""

    def __init__(self, ended: Callable[[], bool]) -> None:
        self._ended = ended

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """(B,) bool: whether each row is at its end; `input_ids` is (B, S)."""
        return torch.full((input_ids.shape[0],), self._ended(), dtype=torch.bool, device=input_ids.device)
