# SPDX-License-Identifier: Apache-2.0
"""The inputs of a prompt about a clip without its pixels, and the pixels of a part of the clip.

A processor is asked about frames on torch's meta device, which have a shape and no memory: it sizes them, counts tokens
and writes the prompt as ever. A part of the clip then goes through the same processor, and is resized as the whole clip
would have been, for some families choose the size by the number of frames. The processor itself is never changed:
copies are.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prunevid.errors import UnsupportedError
from prunevid.prompting import Prompter
from prunevid.video import Clip


def outline(
    prompter: Prompter, clips: Sequence[Clip], questions: Sequence[str], prompts: Sequence[str | None] | None = None
) -> dict[str, Any]:
    """What `Prompter.encode` returns, with stand-ins for the pixels.

    A stand-in has the pixels' shape, dtype and device, holds one number (not a number) whatever its shape, and is to be
    replaced by features before the model sees it (`Pruning.supply`).

    Raises:
        InputError: see `Prompter.encode`.
        UnsupportedError: the processor looks into the pixels.
    """
    shown = [dataclasses.replace(clip, frames=_frames_like(clip)) for clip in clips]
    reason: Exception | None = None
    for in_memory in (False, True):  # processors that turn pixels into arrays can't take meta tensors
        try:
            unplaced = _with(prompter, _Outlining, in_memory)
            unplaced.__dict__["_place"] = lambda name, value: value
            inputs = unplaced.encode(shown, questions, prompts)
        except (NotImplementedError, RuntimeError) as error:
            reason = error
            continue
        return {name: _stand_in(prompter, name, value) for name, value in inputs.items()}
    raise UnsupportedError(
        f"The processor {type(prompter.processor).__name__} needs all frames at once ({reason}); set "
        "vision_chunk_frames=0."
    )


def part_of(
    prompter: Prompter, clip: Clip, places: slice, frames: Any, question: str, prompt: str | None = None
) -> dict[str, Any]:
    """What `Prompter.encode` returns of a part of a clip, whose pixels are those that the whole clip would have there.

    Args:
        clip: the whole.
        places: which of its frames.
        frames: these, (t, H, W, 3) uint8.

    Raises:
        UnsupportedError: the family's way to resize could not be followed.
    """
    start, stop, _ = places.indices(len(clip))
    part = dataclasses.replace(clip, frames=frames, times=clip.times[start:stop], indices=clip.indices[start:stop])
    return _with(prompter, _Whole, len(clip)).encode([part], [question], [prompt])


def needs_all_pixels(processor: Any) -> bool:
    """Whether a processor compares frames with each other (VideoLLaMA3's token compression)."""
    return bool(getattr(processor.video_processor, "use_token_compression", False))


def _frames_like(clip: Clip) -> Any:
    return torch.empty(tuple(clip.frames.shape), dtype=torch.uint8, device="meta")


def _stand_in(prompter: Prompter, name: str, value: Any) -> Any:
    """One number in the shape of a tensor of pixels (or of their mask); anything else as ever."""
    if not isinstance(value, Tensor) or not name.startswith("pixel"):
        return prompter._place(name, value)
    dtype = prompter.dtype if value.is_floating_point() and prompter.dtype is not None else value.dtype
    fill = torch.nan if dtype.is_floating_point else 1
    return torch.full((), fill, dtype=dtype, device=prompter.device).expand(value.shape)


def _with(prompter: Prompter, kind: type[Any], told: Any) -> Prompter:
    """The prompter with a copy of its processor, whose video processor behaves as `kind` says."""
    from transformers.video_processing_utils import BaseVideoProcessor

    other = copy.copy(prompter)
    video_processor = prompter.processor.video_processor
    if isinstance(video_processor, BaseVideoProcessor):
        changed = copy.copy(video_processor)
        changed.__class__ = _joined(kind, type(video_processor))  # type: ignore[arg-type]
        changed.__dict__["_told"] = told
        other.processor = copy.copy(prompter.processor)
        other.processor.video_processor = changed
    return other


@functools.cache
def _joined(kind: Any, family: Any) -> Any:
    """A family's video processor with the methods of `kind` before its own, and `_Inner` right before the base class.

    A family's `resize` chooses a size and calls that of the base class, so that this finds both ends of it.
    """
    from transformers.video_processing_utils import BaseVideoProcessor

    inner = type("_Inner", (BaseVideoProcessor,), {"resize": _resize_given})
    return type(family.__name__, (kind, family, inner), {})


class _Outlining:
    """Gives meta tensors in place of pixels and true tensors for all else."""

    _told: bool  # whether the pixels are to be in memory, one number in all

    def preprocess(self, videos: Any, **options: Any) -> Any:
        out = super().preprocess(videos, **options)  # type: ignore[misc]
        for name, value in list(out.items()):
            if isinstance(value, Tensor) and value.is_meta:
                if not name.startswith("pixel"):  # masks of what is kept: everything (`needs_all_pixels`)
                    out[name] = torch.ones(value.shape, dtype=value.dtype)
                elif self._told:
                    out[name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
        return out


class _Whole:
    """Resizes a part of a clip to the size that the whole clip would get."""

    _told: int  # frames of the whole clip
    _shown: Tensor | None = None
    _given: Tensor | None = None

    def resize(self, *args: Any, **options: Any) -> Any:
        """The family's own `resize` is shown one frame as often as the whole clip has frames, without the memory."""
        place = next((key for key, value in _arguments(args, options) if _is_video(value)), None)
        if place is None:
            return super().resize(*args, **options)  # type: ignore[misc]
        given = dict(_arguments(args, options))[place]
        self._given = given
        self._shown = given[:, :1].expand(-1, self._told, *given.shape[2:])
        try:
            args, options = _replaced(args, options, place, self._shown)
            resized = super().resize(*args, **options)  # type: ignore[misc]
        finally:
            self._given = self._shown = None
        if resized.shape[:2] != given.shape[:2]:
            raise UnsupportedError(
                f"{type(self).__name__} does not resize frames as other video processors do, so a clip can't be "
                "prepared in parts; set vision_chunk_frames=0."
            )
        return resized


def _resize_given(self: Any, *args: Any, **options: Any) -> Any:
    """The base class's `resize`, of the frames that there are in place of those that were shown to the family's."""
    shown = getattr(self, "_shown", None)
    place = next((key for key, value in _arguments(args, options) if shown is not None and value is shown), None)
    if place is not None:
        args, options = _replaced(args, options, place, self._given)
    inner: Any = next(kind for kind in type(self).__mro__ if kind.__name__ == "_Inner")
    return super(inner, self).resize(*args, **options)


def _arguments(args: tuple[Any, ...], options: dict[str, Any]) -> list[tuple[int | str, Any]]:
    return [*enumerate(args), *options.items()]


def _replaced(
    args: tuple[Any, ...], options: dict[str, Any], place: int | str, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(place, int):
        return (*args[:place], value, *args[place + 1 :]), options
    return args, {**options, place: value}


def _is_video(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 5
