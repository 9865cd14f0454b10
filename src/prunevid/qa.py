# SPDX-License-Identifier: Apache-2.0
"""VideoQA: load a video language model, ask it about clips, with any pruning method or none."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from prunevid import methods, models
from prunevid.answering import Answering
from prunevid.answers import Answer, ClipInfo
from prunevid.choice import choose_method
from prunevid.comparing import Comparison, Contest, contestants
from prunevid.config import PruneVidConfig
from prunevid.engine import attach
from prunevid.errors import InputError
from prunevid.frame_budget import MOST_FRAMES, Costs, Fit, FrameBudget, exact, fit, given_budget, spent_by
from prunevid.generation import count_prefill, generate
from prunevid.loading import load as load_model
from prunevid.methods import Method
from prunevid.opened import MAX_OPEN_BYTES, OpenVideo
from prunevid.video import Clip, load_clip
from prunevid.vision_chunks import ChunkFrames, check_chunk_frames, may_chunk

_READING = ("max_frames", "sampling", "fps", "source_fps", "start", "end", "limits", "progress")

__all__ = ["Answer", "ClipInfo", "OpenVideo", "VideoQA", "choose_method"]


class VideoQA:
    """A model that answers questions about clips, pruned by a method.

    The model is pruned only while a question is being answered (and while a clip is held open): between calls
    it is the stock model, without a hook. Calls from several threads are answered one after the other.
    `max_new_tokens` is the length of an answer where a call names none: 128, or one word for the embedded model.

    Args:
        model: a loaded model of a supported family.
        processor: its processor.
        method, config, preset, retention_ratio, retention_tokens, average_over_layers, method_options: see
            `choose_method`.
        vision_chunk_frames: frames that `ask`, `ask_batch`, `open` and `compare` read, prepare and encode together: a
            number, 0 for all of a clip, or "auto" for all of a short clip and `prunevid.vision_chunks.CHUNK_FRAMES` of
            a long one. It bounds the memory that frames and pixels take and leaves the features as they are; where the
            vision tower mixes frames, "auto" means all.

    Raises:
        UnsupportedModelError: the model's family has no adapter, or its processor takes no videos.
        InputError: the processor is another model's (see `prunevid.pairing`).
        ConfigError: the method's settings don't fit the model, or contradict each other.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        method: str | Method | None = "prunevid",
        config: PruneVidConfig | None = None,
        preset: str | None = None,
        retention_ratio: float | None = None,
        retention_tokens: int | None = None,
        average_over_layers: bool | None = None,
        method_options: Mapping[str, Any] | None = None,
        vision_chunk_frames: ChunkFrames = "auto",
    ) -> None:
        self.vision_chunk_frames = check_chunk_frames(vision_chunk_frames)
        chosen = choose_method(
            method,
            config,
            preset,
            retention_ratio,
            retention_tokens=retention_tokens,
            average_over_layers=average_over_layers,
            method_options=method_options,
        )
        self._answering = Answering(model, processor, chosen)
        self.max_new_tokens = 128
        self.defaults: dict[str, Any] = {}  # settings that suit the model
        self._warm = False

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_path: str | os.PathLike[str],
        *,
        method: str | Method | None = "prunevid",
        config: PruneVidConfig | None = None,
        preset: str | None = None,
        retention_ratio: float | None = None,
        retention_tokens: int | None = None,
        average_over_layers: bool | None = None,
        method_options: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = "auto",
        processor_kwargs: dict[str, Any] | None = None,
        vision_chunk_frames: ChunkFrames = "auto",
        **kwargs: Any,
    ) -> VideoQA:
        """Loads a model from a folder or the hub; see `prunevid.loading.load` for the loading arguments.

        `kwargs` (device_map, attn_implementation, quantization_config, revision, trust_remote_code, ...) go
        to transformers' `from_pretrained` as they are; a method's own options stand in `method_options`. A folder
        never makes anything be downloaded.

        Raises:
            InputError, UnsupportedModelError, ConfigError: see `load` and `choose_method`.
        """
        check_chunk_frames(vision_chunk_frames)
        chosen = choose_method(  # before weights are read
            method,
            config,
            preset,
            retention_ratio,
            retention_tokens=retention_tokens,
            average_over_layers=average_over_layers,
            method_options=method_options,
        )
        model, processor = load_model(
            model_id_or_path, device=device, dtype=dtype, processor_kwargs=processor_kwargs, **kwargs
        )
        return cls(model, processor, method=chosen, vision_chunk_frames=vision_chunk_frames)

    @classmethod
    def builtin(
        cls,
        method: str | Method | None = "prunevid",
        retention_ratio: float | None = None,
        *,
        config: PruneVidConfig | None = None,
        preset: str | None = None,
        retention_tokens: int | None = None,
        average_over_layers: bool | None = None,
        method_options: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        attn_implementation: str = "sdpa",
        vision_chunk_frames: ChunkFrames = "auto",
    ) -> VideoQA:
        """The embedded model, which needs no network and no GPU; settings default to what suits its depth."""
        from prunevid import builtin

        chosen = choose_method(
            method,
            config,
            preset,
            retention_ratio,
            builtin.DEFAULTS,
            retention_tokens=retention_tokens,
            average_over_layers=average_over_layers,
            method_options=method_options,
        )
        model, processor = builtin.load(device=device, dtype=dtype, attn_implementation=attn_implementation)
        qa = cls(model, processor, method=chosen, vision_chunk_frames=vision_chunk_frames)
        qa.max_new_tokens = builtin.ANSWER_TOKENS
        qa.defaults = dict(builtin.DEFAULTS)
        return qa

    def using(
        self,
        method: str | Method | None,
        *,
        retention_ratio: float | None = None,
        retention_tokens: int | None = None,
        average_over_layers: bool | None = None,
        method_options: Mapping[str, Any] | None = None,
    ) -> VideoQA:
        """The same loaded model with another method: weights, processor and lock are shared, nothing is copied.

        Calls of all objects that were made so are answered one after the other.

        Args:
            method, retention_ratio, retention_tokens, average_over_layers, method_options: see `choose_method`. The
                settings that suit the model (`defaults`) hold for "prunevid".

        Raises:
            ConfigError: the settings don't fit the model, or contradict each other.
            AlreadyAttachedError: a clip is held open.
        """
        chosen = choose_method(
            method,
            retention_ratio=retention_ratio,
            defaults=self.defaults,
            retention_tokens=retention_tokens,
            average_over_layers=average_over_layers,
            method_options=method_options,
        )
        other = copy.copy(self)
        other._answering = self._answering.using(chosen)
        return other

    @property
    def model(self) -> Any:
        """The loaded model."""
        return self._answering.model

    @property
    def processor(self) -> Any:
        """The model's processor."""
        return self._answering.processor

    @property
    def method(self) -> Method:
        """The method, with what depends on the model's depth filled in."""
        return self._answering.method

    @property
    def config(self) -> PruneVidConfig | None:
        """The settings of "prunevid" with the layer that is used on this model; None for another method."""
        config = getattr(self.method, "config", None)
        return config if isinstance(config, PruneVidConfig) else None

    @property
    def max_frames(self) -> int:
        """Frames of a clip that are read where a call doesn't say: the config's, or what suits the model."""
        return self._usual.max_frames

    @property
    def _usual(self) -> PruneVidConfig:
        """The config of "prunevid", or for another method what suits the model."""
        return PruneVidConfig().replace(**self.defaults) if self.config is None else self.config

    def load_clip(
        self,
        clip: Any = None,
        *,
        images: Sequence[Any] | None = None,
        max_frames: int | None = None,
        sampling: str | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        **options: Any,
    ) -> Clip:
        """The frames that `ask` would see.

        Args:
            clip: a video file, a folder of frames, a list of pictures or arrays, or a `Clip`, which passes as
                it is.
            images: pictures to be taken as the frames, instead of `clip`.
            max_frames: None takes the property of this name.
            sampling: None takes the config's.
            fps: frames to take in a second; implies sampling "fps".
            start, end: seconds.
            options: `source_fps`, `limits`, `progress` and `lazy` of `prunevid.video.load_clip`.

        Raises:
            InputError: there is nothing to see, or it can't be read.
        """
        if (clip is None) == (images is None):
            raise InputError("Give either a clip or images, and not both.")
        if isinstance(clip, Clip):
            return clip
        if sampling is None:
            sampling = "fps" if fps is not None else self._usual.video_sampling
        return load_clip(
            list(images) if images is not None else clip,
            max_frames=self.max_frames if max_frames is None else max_frames,
            sampling=sampling,
            fps=fps,
            start=start,
            end=end,
            **options,
        )

    def ask(
        self,
        clip: Any,
        question: str,
        *,
        max_new_tokens: int | None = None,
        max_frames: int | Literal["auto"] | None = None,
        token_budget: int | None = None,
        flops_budget: float | None = None,
        sampling: str | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        images: Sequence[Any] | None = None,
        history: Sequence[tuple[str, str]] = (),
        prompt: str | None = None,
        streamer: Any = None,
        measure_flops: bool = False,
        **options: Any,
    ) -> Answer:
        """Answers one question.

        Args:
            clip, images, max_frames, sampling, fps, start, end: see `load_clip`. With max_frames="auto" as many frames
                are sampled as a budget carries (`fit_frames`), and `stats["frame_budget"]` says how that was found.
            token_budget, flops_budget: the budget of "auto": visual tokens that are left after pruning, or FLOPs of
                the language model's pruned prefill.
            question: text.
            history: (question, answer) of earlier turns, which the model is shown before the question.
            prompt: the whole prompt in the model's own format, with the video's placeholder once, as
                `prunevid.evaluation` writes it. The question is then only kept in the answer.
            max_new_tokens: length of the answer, at most; `self.max_new_tokens` when not given.
            streamer: a transformers streamer that gets the tokens as they come.
            measure_flops: also count what the language model's prefill really multiplies, with and without
                pruning (two more prefills): total.flops_measured, .flops_measured_unpruned and
                    .flops_measured_ratio.
            options: `source_fps`, `limits` and `progress` of `prunevid.video.load_clip`; the rest goes to
                `model.generate`. Decoding is greedy unless they say otherwise.

        Raises:
            InputError: the clip can't be read, the question is empty, the prompt has no placeholder or several, or the
                model's chat format has no place for earlier turns.
        """
        prompt = self._answering.prompter.conversation(question, history, prompt)  # refuses before the clip is read
        chosen: dict[str, Any] = {
            "max_frames": max_frames,
            "sampling": sampling,
            "fps": fps,
            "start": start,
            "end": end,
        }
        if given_budget(max_frames, token_budget, flops_budget) is not None:
            chosen |= {"prompt": prompt, "images": images, **_take_reading(options)}
            fitted = self.fit_frames(clip, question, token_budget=token_budget, flops_budget=flops_budget, **chosen)
            chosen["max_frames"] = fitted.frames
            rest = {"max_new_tokens": max_new_tokens, "streamer": streamer, "measure_flops": measure_flops, **options}
            answer = self.ask(clip, question, **{**chosen, **rest})
            answer.stats["frame_budget"] = fitted.record(self.cost(fitted, answer))
            return answer
        seen, spent = self._timed_clip(clip, lazily=True, images=images, **chosen, **_take_reading(options))
        options = self._generating(max_new_tokens, streamer, options)
        shown = self._answering.shown([seen], [question], [prompt], options, self.vision_chunk_frames)
        with self._answering.lock:
            with self._answering.attached([seen]) as pruning, shown.supplied(pruning):
                run = generate(self.model, self.processor, shown.inputs, options, pruning)
                flops = count_prefill(self.model, shown.inputs) if measure_flops else 0
            answer = self._answering.answers(run, shown.clips, [question], [spent])[0]
            shown.note(answer.stats)
            if measure_flops:
                answer.stats.setdefault("total", {}).update(self._answering.flops(shown, flops))
        return answer

    def fit_frames(
        self,
        clip: Any,
        question: str,
        *,
        token_budget: int | None = None,
        flops_budget: float | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> Fit:
        """How many frames of a clip a budget carries after pruning: predicted, measured in one prefill, adjusted once.

        What is predicted is exact for a method with `retention_ratio` or `retention_tokens`, and then not measured. For
        others the number of frames is adjusted by what the first one cost, so that it may be above the budget by as
        much as the clip's other frames differ. The vision tower's cost stands in no budget; `MOST_FRAMES` bounds it.

        Args:
            clip, question, token_budget, flops_budget, prompt: see `ask`.
            options: those of `load_clip`; `max_frames` does not count.

        Raises:
            ConfigError: not exactly one budget, or one that is none.
            InputError: it does not carry the fewest frames that can be shown, or the clip was sampled already.
        """
        budget = FrameBudget(token_budget, flops_budget)
        if isinstance(clip, Clip):
            raise InputError(
                "max_frames is 'auto', but the frames of this clip are sampled already; give its file or its frames."
            )
        options = {name: value for name, value in options.items() if name != "max_frames"}
        every = self.load_clip(clip, max_frames=MOST_FRAMES, lazy=True, **options)
        costs = Costs(self.model, self.method, self._answering.prompter, every, question, prompt, budget)

        def measure(frames: int) -> dict[str, Any]:
            return self.ask(clip, question, prompt=prompt, max_frames=frames, max_new_tokens=1, **options).stats

        return fit(costs, budget, None if budget.unit == "tokens" and exact(self.method) else measure)

    def cost(self, fitted: Fit, answer: Answer) -> float:
        """What an answer about `fitted.frames` frames cost, in the unit of the fitted budget; see `fit_frames`."""
        language_model = models.adapter_for(self.model).language_model(models.base_of(self.model))
        return spent_by(fitted.budget, answer.stats, language_model.config, fitted.length)

    def ask_batch(
        self,
        pairs: Sequence[tuple[Any, str]],
        *,
        prompts: Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answers many questions in one batch, each about a clip of its own.

        Times in the stats are those of the whole batch, but for decode_video. A clip that occurs often is read once.
        Some families take all clips of a batch in one tensor (`Adapter.equal_frames`): clips with different numbers of
        frames are then answered in a batch for each number, which gives the same answers, in the order of the pairs.

        Args:
            pairs: (clip, question).
            prompts: whole prompts, one for each pair (see `ask`).
            max_new_tokens: length of each answer, at most; `self.max_new_tokens` when not given.
            options: those of `load_clip` for all clips; the rest goes to `model.generate`.

        Raises:
            InputError: see `ask`.
        """
        if prompts is not None and len(prompts) != len(pairs):
            raise InputError(f"There are {len(prompts)} prompts for {len(pairs)} questions; give one for each.")
        questions = [question for _, question in pairs]
        given: Sequence[str | None] = prompts or [None] * len(pairs)
        for asked in zip(questions, given):
            self._answering.prompter.whole(*asked)
        if not pairs:
            return []
        reading = _take_reading(options)
        chosen = self._generating(max_new_tokens, None, options)
        loaded: dict[Any, tuple[Clip, float]] = {}
        for clip, _ in pairs:
            if _key(clip) not in loaded:
                loaded[_key(clip)] = self._timed_clip(clip, lazily=True, **reading)
        clips = [loaded[_key(clip)][0] for clip, _ in pairs]
        spent = [loaded[_key(clip)][1] for clip, _ in pairs]
        passes = []
        for rows in self._answering.passes(clips):
            seen, asking = [clips[row] for row in rows], [questions[row] for row in rows]
            shown = self._answering.shown(seen, asking, [given[row] for row in rows], chosen, self.vision_chunk_frames)
            passes.append((rows, asking, shown))
        answers: dict[int, Answer] = {}
        with self._answering.lock:
            for rows, asking, shown in passes:
                with self._answering.attached(shown.clips) as pruning, shown.supplied(pruning):
                    run = generate(self.model, self.processor, shown.inputs, chosen, pruning)
                found = self._answering.answers(run, shown.clips, asking, [spent[row] for row in rows])
                for answer in found:
                    shown.note(answer.stats)
                answers |= zip(rows, found)
        return [answers[row] for row in range(len(pairs))]

    @contextmanager
    def open(
        self, clip: Any = None, *, max_open_bytes: int | None = MAX_OPEN_BYTES, prefill: bool = True, **options: Any
    ) -> Iterator[OpenVideo]:
        """Holds one clip open for many questions: it is read, encoded, merged and run through the first layers once.

        Args:
            clip, options: see `load_clip`.
            max_open_bytes: what is held between questions, at most (without the frames themselves); None: no bound.
                What does not fit is computed anew for every question, which gives the same answers: first the state
                of the prompt, then what the vision tower made. `OpenVideo.memory` tells what is held, and
                `stats["open"]` of every answer why something is not.
            prefill: do that work now, for prompts in the model's chat format; otherwise the first question does it,
                and so it does for a prompt of its own that begins otherwise.

        Raises:
            InputError: the model's inputs alone are above max_open_bytes; see also `load_clip`.
        """
        if max_open_bytes is not None and max_open_bytes < 1:
            raise InputError(f"max_open_bytes is {max_open_bytes}, but must be at least 1, or None for no bound.")
        seen, spent = self._timed_clip(clip, lazily=True, **options)
        with self._answering.attached() as pruning:
            video = OpenVideo(self._answering, seen, spent, max_open_bytes, self.vision_chunk_frames, self._generating)
            try:
                if prefill:
                    video.prefill()
                yield video
            finally:
                with self._answering.lock:
                    video._close()
                    pruning.forget()

    def compare(
        self,
        clip: Any,
        question: str,
        *,
        max_new_tokens: int | None = None,
        images: Sequence[Any] | None = None,
        **options: Any,
    ) -> tuple[Answer, Answer]:
        """The same question without pruning and with it: (unpruned, pruned).

        The first call runs the model once before, so that neither side pays for a cold start.

        Args:
            options: `max_frames`, `sampling`, `fps`, `start` and `end` of `load_clip`; the rest goes to
                `generate`.

        Raises:
            UnsupportedError: a clip is held open.
        """
        self._answering.prompter.check(question)
        seen, spent = self._timed_clip(clip, lazily=True, images=images, **_take_reading(options))
        chosen = self._generating(max_new_tokens, None, options)
        shown = self._answering.shown([seen], [question], [None], chosen, self.vision_chunk_frames)
        runs = [(methods.get("none"), chosen), (self.method, chosen)]
        answers = []
        with self._answering.lock:
            self._answering.refuse_open("compare")
            if not self._warm:
                runs.insert(0, (methods.get("none"), {**chosen, "max_new_tokens": 1}))
            for method, settings in runs:
                attached = attach(self.model, method, frames_per_video=self._answering.frames(shown.clips))
                with attached as pruning, shown.supplied(pruning):
                    run = generate(self.model, self.processor, shown.inputs, settings, pruning)
                answers += self._answering.answers(run, shown.clips, [question], [spent])
                shown.note(answers[-1].stats)
            self._warm = True
        return answers[-2], answers[-1]

    def compare_methods(
        self,
        clip: Any,
        question: str,
        methods: str | Sequence[str | Method] = "all",
        *,
        retention: Sequence[float] = (),
        average_over_layers: bool | None = None,
        repeats: int = 3,
        max_new_tokens: int | None = None,
        images: Sequence[Any] | None = None,
        tell: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Comparison:
        """The same question without pruning and with several methods, whatever this object's own method is.

        The clip is read once. The vision tower runs once to warm up, and once for all methods that ask the same of it.
        Unpruned and pruned runs take turns, so that a machine that gets slower or faster does so for all.

        Args:
            methods: names with commas between, names or methods in a list, or "all".
            retention: shares of the visual tokens to keep, each with every method; none: the methods' own options.
            average_over_layers: whether those shares are means over the decoder's layers.
            repeats: timed runs of each, of which the medians are given.
            tell: is given a line for people before each run.
            options: those of `load_clip`; the rest goes to `generate`.

        Returns:
            A side for every method and share. One that can't run on this model has the reason instead of an answer.

        Raises:
            ConfigError: an unknown method, or a share outside (0, 1].
            UnsupportedError: a clip is held open.
        """
        chosen = contestants(methods, retention, average_over_layers, self.defaults)
        self._answering.prompter.check(question)
        generating = {name: value for name, value in options.items() if name not in _READING}
        generating = self._generating(max_new_tokens, None, generating)
        seen, spent = self._timed_clip(clip, images=images, **_take_reading(options))
        inputs = self._answering.prompter.encode([seen], [question])
        with self._answering.lock:
            self._answering.refuse_open("compare_methods")
            contest = Contest(self.model, self.processor, inputs, generating, self._answering.frames([seen]), tell)
            unpruned, sides = contest.run(chosen, repeats)
        return Comparison(question, ClipInfo.of(seen), repeats, spent, unpruned, tuple(sides))

    def _generating(self, max_new_tokens: int | None, streamer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        length = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        return self._answering.options(length, streamer, kwargs)

    def _timed_clip(self, clip: Any, lazily: bool = False, **options: Any) -> tuple[Clip, float]:
        """The clip, and the milliseconds that it took to read; `lazily`: the frames of a long one not yet."""
        started = time.perf_counter()
        most = options.get("max_frames") or self.max_frames
        chunks = self.model, self.processor, self.vision_chunk_frames
        if lazily and may_chunk(*chunks, most):
            options["lazy"] = True
        seen = self.load_clip(clip, **options)
        if not (lazily and may_chunk(*chunks, len(seen))):
            seen = seen.in_memory()
        return seen, 1000.0 * (time.perf_counter() - started)


def _take_reading(options: dict[str, Any]) -> dict[str, Any]:
    """Takes out of `options` what `VideoQA.load_clip` understands."""
    return {name: options.pop(name) for name in _READING if name in options}


def _key(clip: Any) -> Any:
    """The same key for the same file, and for the same object."""
    return str(clip) if isinstance(clip, (str, os.PathLike)) else id(clip)
