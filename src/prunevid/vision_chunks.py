# SPDX-License-Identifier: Apache-2.0
"""Long clips: frames are decoded, prepared and encoded some at a time, the next while the tower has the ones before.

Peak memory then grows with the clip only by its visual features. The features are those of the whole clip: towers that
mix frames are found out by their adapters, and get the clip whole.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

from prunevid.engine import Pruning
from prunevid.errors import ConfigError, UnsupportedError
from prunevid.models import adapter_for, base_of
from prunevid.outlines import needs_all_pixels, outline, part_of
from prunevid.prompting import Prompter
from prunevid.video import Clip
from prunevid.video.lazy import FramesChanged, LazyFrames, in_chunks

ChunkFrames = int | Literal["auto"]
CHUNK_FRAMES = 32
"""Frames of a chunk where nobody chose: what they take is small beside a model, and a tower has enough to do."""
LONG = 64
"""Frames up to which "auto" encodes a clip whole."""


def check_chunk_frames(value: Any) -> ChunkFrames:
    """The value, if `vision_chunk_frames` may have it.

    Raises:
        ConfigError: it is neither "auto" nor a whole number of at least 0.
    """
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ConfigError(
        f"vision_chunk_frames is {value!r}, but must be 'auto', or the number of frames that are encoded together (0: "
        "all)."
    )


def chunk_sizes(
    frames: int, wanted: ChunkFrames, block: Callable[[int], int | None], long: int = LONG
) -> list[int] | None:
    """The frames of every chunk of a clip, or None where it is encoded whole.

    Every chunk has at least two steps of the tower, and whole ones but for the last.

    Args:
        frames: of the clip.
        wanted: of a chunk.
        block: `Adapter.frame_block` by number of frames.
        long: frames up to which "auto" means whole.
    """
    step = block(frames)
    if step is None or not wanted or (wanted == "auto" and frames <= long):
        return None
    size = CHUNK_FRAMES if wanted == "auto" else wanted
    size = max(2, -(-size // step)) * step
    sizes = [size] * (frames // size)
    rest = frames - sum(sizes)
    if rest > step or not sizes:
        sizes.append(rest)
    else:
        sizes[-1] += rest
    return sizes if len(sizes) > 1 and all(block(size) == step for size in sizes) else None


Encode = Callable[[Sequence[Clip], Sequence[str], Sequence[str | None], bool], dict[str, Any]]
"""From clips, questions, whole prompts, and whether stand-ins take the pixels' place, to the model's inputs."""


@dataclass
class Chunked:
    """What became of the chunks of one prompt: milliseconds that a thread spent on decoding and preparing frames, and
    for how long the tower waited for it; `frames` of the largest chunk."""

    frames: int
    count: int
    prepared: float = 0.0
    waited: float = 0.0


class Shown:
    """The model's inputs for a batch of prompts, whose pixels may come in chunks.

    Args:
        model: the model.
        prompter: makes its inputs.
        clips, questions, prompts: see `Prompter.encode`.
        wanted: frames of a chunk.
        copies: whether the model is to give several sequences a prompt.
        encode: makes the inputs in the prompter's place; always the same stand-in for a clip, where features that are
            remembered are to be found again.

    Attributes:
        inputs: of `model.generate`. Run it in the block of `supplied`, and take them there.
        clips: what is shown, there.
        chunked: what became of the chunks; None where the clips are encoded whole, or were before.
    """

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        clips: Sequence[Clip],
        questions: Sequence[str],
        prompts: Sequence[str | None] | None = None,
        wanted: ChunkFrames = "auto",
        copies: bool = False,
        encode: Encode | None = None,
    ) -> None:
        self._model, self._prompter, self._wanted, self._copies = model, prompter, wanted, copies
        self._encode = encode or functools.partial(_encoded, prompter)
        self.clips = list(clips)
        self._questions, self._prompts = list(questions), list(prompts or [None] * len(clips))
        self.chunked: Chunked | None = None
        self._prepare()

    def _prepare(self) -> None:
        self._sizes = plan(self._model, self._prompter.processor, self.clips, self._wanted, self._copies)
        self.inputs = self._encode(self.clips, self._questions, self._prompts, self._sizes is not None)

    @contextmanager
    def supplied(self, pruning: Pruning) -> Iterator[None]:
        """In its block, the model that the pruning is attached to knows the features; encodes them on entry, unless
        they are remembered (`Pruning.reuse`).

        A damaged file that gives other frames than it promised is read as a whole, and all begins anew with these.
        """
        with ExitStack() as stack:
            while self._sizes is not None:
                try:
                    stack.enter_context(self._supplied(pruning, self._sizes))
                    break
                except FramesChanged as changed:
                    self.clips = [changed.clip if _is_read_from(clip, changed.clip) else clip for clip in self.clips]
                self._prepare()
                if adapter_for(self._model).frames_as_images:
                    pruning.frames_per_video = list(map(len, self.clips))
            yield

    @contextmanager
    def _supplied(self, pruning: Pruning, sizes: list[list[int]]) -> Iterator[None]:
        with pruning.supply(self.inputs, [sum(own) for own in sizes]) as supply:
            if not supply.known:
                chunked = Chunked(max(map(max, sizes)), sum(map(len, sizes)))
                with closing(_ahead(self._parts(sizes), chunked)) as parts:
                    for video, frames, inputs in parts:
                        supply.add(video, frames, inputs)
                supply.finish()
                self.chunked = chunked
            yield

    def _parts(self, sizes: list[list[int]]) -> Generator[tuple[int, int, dict[str, Any]], None, None]:
        """(video, frames, inputs) of every chunk; whole videos that are among long ones are one chunk."""
        for video, (clip, own) in enumerate(zip(self.clips, sizes)):
            ends, asked = [0, *accumulate(own)], (self._questions[video], self._prompts[video])
            with closing(in_chunks(clip.frames, own)) as chunks:
                for (start, end), frames in zip(pairwise(ends), chunks):
                    yield video, end - start, part_of(self._prompter, clip, slice(start, end), frames, *asked)

    def note(self, stats: dict[str, Any]) -> None:
        """Adds `vision_chunks` to the statistics of a row; what the tower waited for counts as reading the clip."""
        if self.chunked is None or not stats:
            return
        done = self.chunked
        stats["vision_chunks"] = {
            "frames": done.frames,
            "count": done.count,
            "prepare_milliseconds": done.prepared,
            "wait_milliseconds": done.waited,
        }
        if "milliseconds" in stats:
            stats["milliseconds"]["decode_video"] += done.waited


def _encoded(
    prompter: Prompter, clips: Sequence[Clip], questions: Sequence[str], prompts: Sequence[str | None], stand_ins: bool
) -> dict[str, Any]:
    """An `Encode` that makes everything anew."""
    return outline(prompter, clips, questions, prompts) if stand_ins else prompter.encode(clips, questions, prompts)


def _is_read_from(clip: Clip, whole: Clip) -> bool:
    """Whether a clip's frames are still to be read, from the file that was read as a whole."""
    frames: Any = clip.frames
    return isinstance(frames, LazyFrames) and clip.source == whole.source


def plan(
    model: Any, processor: Any, clips: Sequence[Clip], wanted: ChunkFrames, copies: bool = False
) -> list[list[int]] | None:
    """The sizes of the chunks of every clip, or None where all are encoded whole.

    Args:
        copies: whether the model is to give several sequences a prompt; versions of transformers that repeat pixels
            for them get whole clips from "auto".

    Raises:
        UnsupportedError: a number of frames was asked for that the model or its processor can't encode in chunks.
    """
    if not wanted:
        return None
    adapter, base = adapter_for(model), base_of(model)
    if copies and wanted == "auto" and "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return None
    reason = None
    if needs_all_pixels(processor):
        reason = "the processor drops tokens by comparing frames (use_token_compression)"
    elif any(adapter.frame_block(base, len(clip)) is None for clip in clips if len(clip) > 1):
        reason = f"the vision tower of a {type(model).__name__} mixes frames"
    if reason is not None:
        if wanted == "auto":
            return None
        raise UnsupportedError(f"vision_chunk_frames is {wanted}, but {reason}; leave it at 'auto', or set it to 0.")
    sizes = [chunk_sizes(len(clip), wanted, lambda frames: adapter.frame_block(base, frames)) for clip in clips]
    if not any(sizes):
        return None
    return [own or [len(clip)] for own, clip in zip(sizes, clips)]


def may_chunk(model: Any, processor: Any, wanted: ChunkFrames, most: Any) -> bool:
    """Whether a clip of up to so many frames may come to be encoded in chunks, so that it is better read lazily."""
    if not wanted or not isinstance(most, int) or needs_all_pixels(processor):  # reading refuses other numbers
        return False
    adapter, base = adapter_for(model), base_of(model)
    return adapter.frame_block(base, most) is not None and most > (LONG if wanted == "auto" else wanted)


def several_sequences(options: Mapping[str, Any]) -> bool:
    """Whether these options of `generate` make several sequences of a prompt, or may do so."""
    known = options.get("generation_config")
    return any(
        (options.get(name) or getattr(known, name, 1) or 1) > 1 for name in ("num_beams", "num_return_sequences")
    )


def _ahead(parts: Generator[Any, None, None], chunked: Chunked) -> Generator[Any, None, None]:
    """The same parts, each made in a thread while the one before is used; the thread is gone in the end."""

    def make() -> Any:
        started = time.perf_counter()
        part = next(parts, None)
        chunked.prepared += 1000.0 * (time.perf_counter() - started)
        return part

    with ThreadPoolExecutor(1, "prunevid-frames") as pool:
        upcoming = pool.submit(make)
        try:
            while True:
                started = time.perf_counter()
                part = upcoming.result()
                chunked.waited += 1000.0 * (time.perf_counter() - started)
                if part is None:
                    return
                upcoming = pool.submit(make)
                yield part
                del part
        finally:
            upcoming.exception()  # waits: what the thread reads is closed only when it has stopped
            parts.close()
