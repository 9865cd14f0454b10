# SPDX-License-Identifier: Apache-2.0
"""Asks a model the questions of a benchmark: a record for each, clip by clip.

Questions about one clip are asked together, so that it is read, encoded and merged once. While the model works on one
clip, the next one is read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prunevid.errors import InputError, StoppedError, one_line
from prunevid.evaluation.items import Item
from prunevid.evaluation.runs import Record
from prunevid.qa import OpenVideo, VideoQA
from prunevid.video import Clip


class Reading(Protocol):
    """What a protocol took from a model's words; the fields of the same names of `Record`."""

    @property
    def pred(self) -> str: ...
    @property
    def choice(self) -> int | None: ...
    @property
    def correct(self) -> bool | None: ...
    @property
    def strict(self) -> bool | None: ...


class Asking(Protocol):
    """What the runner needs of a protocol (`prunevid.evaluation.protocols`)."""

    def load(self, item: Item, frames: int) -> Clip: ...
    def prompt(self, item: Item, clip: Clip, processor: Any, family: str) -> str: ...
    def generation(self, processor: Any, family: str) -> dict[str, Any]: ...
    def read(self, item: Item, text: str, family: str) -> Any: ...


@dataclass(frozen=True)
class Loaded:
    """A clip, or why there is none, and the milliseconds that it took."""

    clip: Clip | None
    error: str | None
    spent: float


def by_clip(items: Iterable[Item]) -> list[list[Item]]:
    """The items in groups about the same part of the same clip; groups and items in the order of the first."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(item.video, []).append(item)
    return list(groups.values())


@dataclass(frozen=True)
class Runner:
    """One model under one protocol.

    Attributes:
        qa: the model with its pruning.
        protocol: makes prompts and reads answers.
        frames: of a clip.
        max_new_tokens: length of an answer, at most.
        root: the folder below which the clips lie; a record names a clip from there.
    """

    qa: VideoQA
    protocol: Asking
    frames: int
    max_new_tokens: int
    root: Path

    def records(self, groups: Sequence[Sequence[Item]]) -> Generator[Record, None, None]:
        """A record for each item, as soon as it is answered.

        A clip that can't be read, and a question that can't be put, become records with their error. Whatever goes
        wrong in the model stops the run: every other question would meet it as well, or it is a fault to be mended.

        Args:
            groups: of `by_clip`.

        Raises:
            StoppedError: a question could not be answered; the message names it and says why.
        """
        for items, loaded in self._ahead(groups):
            if loaded.clip is None:
                yield from (self._record(item, error=loaded.error) for item in items)
            else:
                yield from self._asked(items, loaded.clip, loaded.spent)

    def _ahead(self, groups: Sequence[Sequence[Item]]) -> Iterator[tuple[Sequence[Item], Loaded]]:
        """The groups with their clips, of which the next is being read meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            coming = deque(pool.submit(self._load, items[0]) for items in groups[:1])
            for place, items in enumerate(groups):
                loaded = coming.popleft().result()
                coming.extend(pool.submit(self._load, following[0]) for following in groups[place + 1 : place + 2])
                yield items, loaded

    def _load(self, item: Item) -> Loaded:
        started = time.perf_counter()
        try:
            clip, error = self.protocol.load(item, self.frames), None
        except InputError as problem:
            clip, error = None, one_line(problem)
        except Exception as problem:
            raise _stopped(item, problem) from problem
        return Loaded(clip, error, 1000.0 * (time.perf_counter() - started))

    def _asked(self, items: Sequence[Item], clip: Clip, spent: float) -> Iterator[Record]:
        with self.qa.open(clip, prefill=False) as video:  # prompts are the protocol's own
            for item in items:
                yield self._ask(video, item, spent)
                spent = 0.0

    def _ask(self, video: OpenVideo, item: Item, spent: float) -> Record:
        """The record of one question; `spent`: milliseconds that reading the clip took for it."""
        processor, family = self.qa.processor, self.qa.model.config.model_type
        try:
            prompt = self.protocol.prompt(item, video.clip, processor, family)
        except InputError as problem:
            return self._record(item, error=one_line(problem))
        try:
            options = self.protocol.generation(processor, family)
            answer = video.ask(item.question, prompt=prompt, max_new_tokens=self.max_new_tokens, **options)
            reading: Reading = self.protocol.read(item, answer.continuation, family)
        except Exception as problem:
            raise _stopped(item, problem) from problem
        return self._record(
            item,
            text=answer.continuation,
            pred=reading.pred,
            choice=reading.choice,
            correct=reading.correct,
            strict=reading.strict,
            stats=_stats(answer.stats, spent),
        )

    def _record(self, item: Item, **found: Any) -> Record:
        path = item.video.path
        return Record(
            key=item.key,
            task=item.task,
            video=path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path),
            question=item.question,
            candidates=item.candidates,
            answer=item.answer,
            right=item.right,
            facts=item.facts,
            **found,
        )


def _stopped(item: Item, error: Exception) -> StoppedError:
    """The error of a run that can't go on at a question."""
    import torch

    hint = ""
    if isinstance(error, torch.OutOfMemoryError):
        hint = " (take fewer --frames, a larger device, or --device-map auto over several)"
    return StoppedError(
        f"The question {item.key} could not be answered: {type(error).__name__}: {one_line(error).rstrip('.')}{hint}. "
        "All answers before it are kept, and the same command goes on from there."
    )


def _stats(stats: Mapping[str, Any], spent: float) -> dict[str, Any]:
    """What is kept of an answer's statistics; nothing where the method reports nothing."""
    if "total" not in stats:
        return {}
    original, cache = stats["stage1"]["original_tokens"], stats["stage3"]
    full = cache["original_bytes"]
    return {
        "original_tokens": original,
        "kept_tokens": round(stats["total"]["retained_ratio"] * original),
        "retained_ratio": stats["total"]["retained_ratio"],
        "flops_ratio": stats["total"]["flops_ratio"],
        "cache_ratio": cache["compressed_bytes"] / full if full else 1.0,
        "milliseconds": {
            name: round(value, 3) for name, value in {**stats.get("milliseconds", {}), "decode_video": spent}.items()
        },
    }
