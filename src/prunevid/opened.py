# SPDX-License-Identifier: Apache-2.0
"""A clip that is held open: what of it does not depend on the question is computed once, within a bound of bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prunevid.answering import Answering
from prunevid.answers import Answer
from prunevid.engine import Held, Pruning
from prunevid.errors import InputError
from prunevid.generation import Run, generate
from prunevid.outlines import outline
from prunevid.prompting import VideoPrompt
from prunevid.video import Clip
from prunevid.vision_chunks import ChunkFrames, Shown, plan

MAX_OPEN_BYTES = 4 * 2**30
"""Bytes that an open clip holds, at most, where nothing else is said."""
_SOME_QUESTION = "What"  # any: what stands before it in the prompt is all that is held of its answer


class OpenVideo:
    """A clip that is held open; made by `VideoQA.open`.

    Held are the model's inputs, what the vision tower made of them, the merged tokens, and the state of the prompt up
    to its last visual token: keys and values of the layers up to the first choice, and what comes out of the last of
    them (all layers, where the method chooses nothing inside the model). A question then runs its own tokens through
    these layers, is scored against all merged tokens, and runs what is kept through the rest. Answers are those of
    `VideoQA.ask`.

    Args:
        answering: the model and its method.
        clip: the clip.
        spent: milliseconds that it took to read.
        most: bytes to hold, at most; None: no bound.
        wanted: frames of a chunk.
        generating: makes arguments of `generate` from max_new_tokens, a streamer and others.

    Attributes:
        clip: the frames, which are not counted in `bytes`. Those of a long file are read when they are needed, in
            chunks (`VideoQA.vision_chunk_frames`).
    """

    def __init__(
        self,
        answering: Answering,
        clip: Clip,
        spent: float,
        most: int | None,
        wanted: ChunkFrames,
        generating: Callable[[int | None, Any, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._answering = answering
        self._generating = generating
        self._wanted = wanted
        self._spent = {"decode_video": spent}  # milliseconds that the next answer's stats tell
        self._most = most
        self._take(clip)
        self._held = Held(most, lambda: self._prompt.inputs())
        self._closed = False
        self._ahead: Shown | None = None  # what `prefill` showed, until an answer has told of it

    @property
    def bytes(self) -> int:
        """Bytes of everything that is held now."""
        return sum(self.memory.values())

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by what they are: "inputs" (token ids, and pixels unless they came in chunks), "encoded" (from the
        vision tower, and merged) and "prefix" (the state of the prompt up to its last visual token)."""
        return self._held.sizes()

    def ask(
        self,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        prompt: str | None = None,
        max_new_tokens: int | None = None,
        streamer: Any = None,
        **generate_kwargs: Any,
    ) -> Answer:
        """Answers a question about the clip; see `VideoQA.ask`, also for `history` and `prompt`.

        Visual tokens are chosen anew from all merged ones for every question, in a conversation too.

        In the stats, decode_video, vision, merge and prefill are what this question cost; those of opening the clip are
        added to the first one's. `open` holds prefix_tokens (tokens of the unpruned prompt that were not run again in
        the first layers), bytes (held now) and why (no prefix was used or left for the next question, and the reason;
        otherwise None).

        Raises:
            InputError: the clip was closed; see also `VideoQA.ask`.
        """
        inner, held = self._answering, self._held
        prompt = inner.prompter.conversation(question, history, prompt)
        self._refuse_closed()
        options = self._generating(max_new_tokens, streamer, generate_kwargs)
        with self._reused() as pruning:
            shown = self._shown(question, prompt, options)
            run = self._run(shown, options, pruning)
            answer = inner.answers(run, [self.clip], [question], [0.0])[0]
            for one in filter(None, (self._ahead, shown)):
                one.note(answer.stats)
            self._ahead = None
            if answer.stats:
                answer.stats["open"] = {"prefix_tokens": held.reused, "bytes": self.bytes, "why": held.reason}
                times = answer.stats.get("milliseconds", {})
                times.update({name: times.get(name, 0.0) + spent for name, spent in self._spent.items()})
            self._spent = {}
        return answer

    def prefill(self) -> None:
        """Encodes and merges the clip, and runs the prompt up to its last visual token through the first layers.

        Does nothing where the video's tokens depend on the question. `VideoQA.open` calls it.
        """
        options = self._generating(1, None, {})
        with self._reused() as pruning:
            shown = self._shown(_SOME_QUESTION, None, options)
            if any(shown.inputs.get(name) is not None for name in self._answering.adapter.conditions):
                return
            self._held.ahead = True
            try:
                run = self._run(shown, options, pruning)
            finally:
                self._held.ahead = False
        self._ahead = shown
        times = run.stats[0].get("milliseconds", {})
        for name in ("vision", "merge", "prefill"):
            self._spent[name] = self._spent.get(name, 0.0) + times.get(name, 0.0)

    @contextmanager
    def _reused(self) -> Iterator[Pruning]:
        """The model, pruned, with what is held of the clip."""
        with self._answering.lock, self._answering.attached([self.clip]) as pruning, pruning.reuse(held=self._held):
            self._refuse_closed()
            yield pruning

    def _run(self, shown: Shown, options: dict[str, Any], pruning: Pruning) -> Run:
        """What the model generates; afterwards no more is held than may be."""
        try:
            with shown.supplied(pruning):
                return generate(self._answering.model, self._answering.processor, shown.inputs, options, pruning)
        finally:
            self._held.trim()

    def _take(self, clip: Clip) -> None:
        """Takes a clip to be asked about, and finds out whether it is encoded in parts."""
        inner, self.clip = self._answering, clip
        self._in_parts = plan(inner.model, inner.processor, [clip], self._wanted) is not None
        encode = functools.partial(outline, inner.prompter) if self._in_parts else None
        self._prompt = VideoPrompt(inner.prompter, clip, encode)

    def _shown(self, question: str, prompt: str | None, options: Mapping[str, Any]) -> Shown:
        """The model's inputs, with the same tensor in the pixels' place for every question."""
        return self._answering.shown([self.clip], [question], [prompt], options, self._wanted, self._encode)

    def _encode(
        self, clips: Sequence[Clip], questions: Sequence[str], prompts: Sequence[str | None], stand_ins: bool
    ) -> dict[str, Any]:
        """The model's inputs (`prunevid.vision_chunks.Encode`), which must fit before anything is held beside them."""
        if clips[0] is not self.clip:  # the file gave other frames than it promised
            self._take(clips[0])
        if stand_ins != self._in_parts:  # this one question needs the pixels
            return self._answering.prompter.encode(clips, questions, prompts)
        inputs = self._prompt.encode(questions[0], prompts[0])
        needed = self._held.sizes()["inputs"]
        if self._most is not None and needed > self._most:
            raise InputError(
                f"The frames alone take {needed} bytes as the model's inputs, above max_open_bytes {self._most}; look "
                "at fewer frames, or allow more."
            )
        return inputs

    def _close(self) -> None:
        """Forgets everything that is held."""
        self._closed, self._ahead = True, None
        self._held.release()
        self._prompt.forget()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise InputError("The clip was closed; ask inside `with qa.open(clip) as video:`.")
