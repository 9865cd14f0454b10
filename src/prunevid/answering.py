# SPDX-License-Identifier: Apache-2.0
"""A loaded model and one method: what all ways to ask about clips have in common.

The model is pruned only while somebody is inside `Answering.attached`; whoever shares the weights takes turns.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prunevid import methods, models
from prunevid.answers import Answer, ClipInfo, in_memory
from prunevid.engine import Pruning, attach
from prunevid.errors import InputError, UnsupportedError
from prunevid.generation import Run, count_prefill, greedy_by_default, input_device
from prunevid.methods import Method
from prunevid.models import Adapter
from prunevid.pairing import check_pair
from prunevid.prompting import Prompter, truncates_seconds
from prunevid.region import seen_region
from prunevid.video import Clip
from prunevid.vision_chunks import ChunkFrames, Encode, Shown, several_sequences


class Answering:
    """A model, its processor and a method.

    Args:
        model: a loaded model of a supported family.
        processor: its processor.
        method: that prunes it.

    Attributes:
        method: with what depends on the model's depth filled in.
        prompter: makes the model's inputs.
        lock: of the model; held while it answers, by all that share it.

    Raises:
        UnsupportedModelError, InputError, ConfigError: see `prunevid.qa.VideoQA`.
    """

    def __init__(self, model: Any, processor: Any, method: Method) -> None:
        check_pair(model, processor)
        self.model, self.processor, self.method = model, processor, _fitting(model, method)
        dtype = model.dtype if getattr(model.dtype, "is_floating_point", False) else None
        self.prompter = Prompter(processor, input_device(model), dtype, truncates_seconds(models.base_of(model)))
        self.lock = threading.RLock()
        self._pruning: Pruning | None = None
        self._users = 0

    def using(self, method: Method) -> Answering:
        """The same model with another method; weights, processor and lock are shared.

        Raises:
            ConfigError: the settings don't fit the model.
            AlreadyAttachedError: a clip is held open.
        """
        other = copy.copy(self)
        other._pruning, other._users = None, 0
        with self.lock:
            other.method = _fitting(self.model, method)
        return other

    @property
    def adapter(self) -> Adapter:
        """Of the model's family."""
        return models.adapter_for(self.model)

    @contextmanager
    def attached(self, clips: Sequence[Clip] = ()) -> Iterator[Pruning]:
        """The model, pruned; the handle is shared by all who are inside. `clips`: of the prompt that comes next."""
        with self.lock:
            if self._pruning is None:
                self._pruning = attach(self.model, self.method)
            pruning = self._pruning
            if clips:
                pruning.frames_per_video = self.frames(clips)
            self._users += 1
        try:
            yield pruning
        finally:
            with self.lock:
                self._users -= 1
                if self._users == 0:
                    self._pruning = None
                    pruning.detach()

    def frames(self, clips: Sequence[Clip]) -> list[int] | None:
        """How many pictures each clip is to a model that has no video input; None for other models."""
        return [len(clip) for clip in clips] if self.adapter.frames_as_images else None

    def refuse_open(self, what: str) -> None:
        """Refuses `what` while a clip is held open.

        Raises:
            UnsupportedError: one is.
        """
        if self._pruning is not None:
            raise UnsupportedError(
                f"{what} needs the model without this object's pruning; close the clips that are held open first."
            )

    def shown(
        self,
        clips: Sequence[Clip],
        questions: Sequence[str],
        prompts: Sequence[str | None],
        options: Mapping[str, Any],
        wanted: ChunkFrames,
        encode: Encode | None = None,
    ) -> Shown:
        """The model's inputs, in chunks of `wanted` frames where the clips' lengths say so.

        Args:
            options: of `generate`, where several sequences may be asked for.
            encode: see `Shown`.
        """
        copies = several_sequences(options)
        return Shown(self.model, self.prompter, clips, questions, prompts, wanted, copies, encode)

    def passes(self, clips: Sequence[Clip]) -> list[list[int]]:
        """The rows of a batch that the model takes together: all, or those with the same number of frames."""
        if not self.adapter.equal_frames:
            return [list(range(len(clips)))]
        groups: dict[int, list[int]] = {}
        for row, clip in enumerate(clips):
            groups.setdefault(len(clip), []).append(row)
        return list(groups.values())

    def options(self, max_new_tokens: int, streamer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate`, which decode greedily unless `kwargs` say otherwise.

        Raises:
            InputError: max_new_tokens is below 1.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}, but must be at least 1.")
        options = greedy_by_default(self.model, self.processor, kwargs)
        options["max_new_tokens"] = max_new_tokens
        if streamer is not None:
            options["streamer"] = streamer
        return options

    def flops(self, shown: Shown, pruned: int) -> dict[str, float]:
        """The entries of the statistics' `total` on what a prefill multiplied: pruned, as counted, and unpruned."""
        self.refuse_open("measure_flops")
        plainly = attach(self.model, methods.get("none"), frames_per_video=self.frames(shown.clips))
        with plainly as pruning, shown.supplied(pruning):
            plain = count_prefill(self.model, shown.inputs)
        return {
            "flops_measured": pruned,
            "flops_measured_unpruned": plain,
            "flops_measured_ratio": pruned / plain if plain else 1.0,
        }

    def answers(
        self, run: Run, clips: Sequence[Clip], questions: Sequence[str], spent: Sequence[float]
    ) -> list[Answer]:
        """The answers of a batch.

        Args:
            spent: milliseconds that each clip took to read.
        """
        answers = []
        for row, (clip, question) in enumerate(zip(clips, questions)):
            stats = run.stats[row]
            if "milliseconds" in stats:
                stats["milliseconds"]["decode_video"] = spent[row]
            texts = run.texts[row]
            info = ClipInfo.of(clip, seen_region(self.processor, clip.width, clip.height))
            said = (tuple(texts), run.continuations[row], run.maps[row])
            answers.append(Answer(texts[0], stats, question, info, *said, in_memory(clip)))
        return answers


def _fitting(model: Any, method: Method) -> Method:
    """The method as it is on this model; settings that don't fit are refused now, and not at a question."""
    with attach(model, method) as pruning:
        return pruning.method
