# SPDX-License-Identifier: Apache-2.0
"""What a base model's feature functions made of videos and images: wrapped, so that it is known when the model runs.

`generate` encodes before the first forward pass and hands on the output alone, so layouts travel on the output.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor

from prunevid.engine.record import Encoded, Encodings
from prunevid.engine.supplying import Joined, Supply, arguments_of
from prunevid.engine.timing import now
from prunevid.errors import UnsupportedError
from prunevid.methods.base import Method
from prunevid.models import Adapter, VideoLayout, Watch, watch_tower

_LAYOUT = "_prunevid_encoded"


class Encoders:
    """The feature functions of one attached model.

    Args:
        adapter, base, method: of the attachment.
        local: state of the forward passes of each thread; a prefill that is open in it is told of what is encoded.
        frames_per_video: returns what the handle was told (`attach`).

    Attributes:
        kinds: what may be pruned: each kind's name among `mm_encoder_outputs`, and its arguments of the base model.
        remembered: encodings to look into before anything is encoded; None: everything is encoded.
    """

    def __init__(
        self,
        adapter: Adapter,
        base: Any,
        method: Method,
        local: threading.local,
        frames_per_video: Callable[[], int | Sequence[int] | None],
    ) -> None:
        self.adapter, self.base, self.method = adapter, base, method
        self.kinds: dict[str, tuple[str, tuple[str, ...]]] = {"video": (adapter.modality, (adapter.pixels,))}
        if method.prunes_images and adapter.image_function is not None:
            self.kinds["image"] = ("image", adapter.image_pixels)
        self.remembered: Encodings | None = None
        self._local, self._frames_per_video = local, frames_per_video
        self._own: dict[str, Any] = {}  # what stood in the base model's own dictionary, by function
        self._encode_plainly: dict[str, Callable[..., Any]] = {}  # the base model's functions, by kind
        self._stand_ins = 0  # prompts in force whose pixels are stand-ins

    def install(self) -> None:
        """Wraps the feature functions of every kind that may be pruned."""
        self._record("video", self.adapter.feature_function, self._video_layouts)
        if "image" in self.kinds and self.adapter.image_function is not None:
            self._record("image", self.adapter.image_function, self.adapter.image_layouts)

    def remove(self) -> None:
        """Puts back what stood there before, and forgets everything."""
        for name, own in self._own.items():
            if own is None:
                self.base.__dict__.pop(name, None)
            else:
                self.base.__dict__[name] = own
        self.remembered = None

    def outputs(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs that `generate` made before a forward pass with these arguments, of every kind."""
        outputs = arguments.get("mm_encoder_outputs")
        if not outputs:  # at every new token
            return {}
        found = {kind: outputs.get(modality) for kind, (modality, _) in self.kinds.items()}
        return {kind: output for kind, output in found.items() if output is not None}

    def arrived(self, arguments: Mapping[str, Any]) -> dict[str, Encoded]:
        """What is written on those outputs."""
        found = {kind: getattr(output, _LAYOUT, None) for kind, output in self.outputs(arguments).items()}
        return {kind: encoded for kind, encoded in found.items() if encoded is not None}

    def are_given(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the arguments hold anything of a kind that may be pruned."""
        names = [name for _, pixels in self.kinds.values() for name in pixels]
        return any(arguments.get(name) is not None for name in names) or bool(self.outputs(arguments))

    @contextmanager
    def supply(self, inputs: Mapping[str, Any], frames: Sequence[int]) -> Iterator[Supply]:
        """In its block, the videos of a prompt are taken from features that were encoded in parts.

        Args:
            inputs: the model's inputs with stand-ins for the pixels (`prunevid.outlines.outline`).
            frames: of each of the prompt's videos.

        Yields:
            Where to `add` the parts, all of them, and then to `finish`, before the model is run; neither where they are
            `known`.
        """
        before = self.remembered
        remembered = Encodings(keep_merged=False) if before is None else before  # every prefill pays for its merge
        self.remembered = remembered
        encode = self._encode_plainly["video"]
        given = arguments_of(encode, inputs, self.adapter.pixels)
        pixels = _pixels(given)

        @functools.wraps(encode)
        def alone(**kwargs: Any) -> Any:
            return self._encode(encode, (), kwargs)

        joined = Joined(self.adapter, self.base, alone, list(frames), self._watching, self.method.collect_stats)

        def finish() -> None:
            output, encoded = joined.finish()
            encoded.unreported = encoded.milliseconds
            self._remember(pixels, "video", given, output, encoded)

        self._stand_ins += 1
        try:
            yield Supply(joined.add, finish, remembered.knows(pixels, self._encoding_key("video", given)))
        finally:
            self._stand_ins -= 1
            self.remembered = before

    def _video_layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """The adapter's layouts; images among them stay whole unless the method prunes images."""
        if self.adapter.frames_as_images:
            arguments["frames_per_video"] = self._frames_per_video()
        layouts = self.adapter.layouts(base, arguments, output)
        keep = not self.method.prunes_images
        return [layout.whole() if keep and layout.image else layout for layout in layouts]

    def _record(self, kind: str, name: str, layouts: Callable[..., list[VideoLayout]]) -> None:
        """Wraps a feature function, so that it leaves the layouts of its videos or images on its output."""
        self._own[name] = self.base.__dict__.get(name)
        encode = self._encode_plainly[kind] = getattr(self.base, name)
        signature = inspect.signature(encode)

        @functools.wraps(encode)  # `generate` reads the signature to pick its arguments
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._local, "encoding", False):  # some families encode videos through their function for images
                return encode(*args, **kwargs)
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            pixels = _pixels(arguments)
            output, encoded = self._recall(pixels, kind, arguments)
            if encoded is None:
                self._refuse_stand_in(pixels)
                measure, device = self.method.collect_stats, getattr(pixels, "device", None)
                start = now(device, measure)
                with self._watching() as seen:
                    output = self._encode(encode, args, kwargs)
                spent = now(device, measure) - start
                depends = any(value is not None for value in self._conditions(arguments))
                encoded = Encoded(layouts(self.base, arguments, output), spent, asked=depends)
                if seen is not None:
                    encoded.views = seen.views(encoded.layouts, arguments)
                self._remember(pixels, kind, arguments, output, encoded)
            if not isinstance(output, tuple):
                object.__setattr__(output, _LAYOUT, encoded)
            if (prefill := getattr(self._local, "prefill", None)) is not None:
                prefill.encoded[kind] = encoded
            return output

        self.base.__dict__[name] = recorded

    def _refuse_stand_in(self, pixels: Tensor | None) -> None:
        """Refuses pixels that stand for features which were supplied for another tensor."""
        if self._stand_ins and pixels is not None and bool(pixels[(0,) * pixels.ndim].isnan()):
            raise UnsupportedError(
                "This version of transformers repeats the pixels of a prompt before it encodes them (for beams or "
                "several sequences), so they can't be encoded in parts; set vision_chunk_frames=0."
            )

    def _watching(self) -> AbstractContextManager[Watch | None]:
        """In its block, what the method asks of the vision tower is written down; the features stay the same."""
        if self.method.tower is None:
            return nullcontext()
        return watch_tower(self.adapter, self.base, self.method.tower)

    def _encode(self, encode: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's own encoding; a feature function that it calls in turn is not recorded."""
        self._local.encoding = True
        try:
            return encode(*args, **kwargs)
        finally:
            self._local.encoding = False

    def _recall(self, pixels: Tensor | None, kind: str, arguments: Mapping[str, Any]) -> tuple[Any, Encoded | None]:
        if self.remembered is None:
            return None, None
        return self.remembered.recall(pixels, self._encoding_key(kind, arguments))

    def _remember(
        self, pixels: Tensor | None, kind: str, arguments: Mapping[str, Any], output: Any, encoded: Encoded
    ) -> None:
        if self.remembered is not None:
            self.remembered.remember(pixels, self._encoding_key(kind, arguments), output, encoded)

    def _encoding_key(self, kind: str, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        """What an encoding depends on besides its pixels: what is watched in the tower, whether images are cut, and
        the values of the adapter's conditions."""
        asked = tuple(map(_comparable, self._conditions(arguments)))
        return kind, self.method.tower, self.method.prunes_images, asked

    def _conditions(self, arguments: Mapping[str, Any]) -> list[Any]:
        """What else than pixels a feature function is asked with (`Adapter.conditions`)."""
        return [arguments.get(name) for name in self.adapter.conditions]


def _pixels(arguments: Mapping[str, Any]) -> Tensor | None:
    """The tensor of pixels among a feature function's arguments."""
    return next((v for k, v in arguments.items() if k.startswith("pixel") and isinstance(v, Tensor)), None)


def _comparable(value: Any) -> Any:
    """The same for equal values: a tensor's shape and numbers, anything else itself."""
    return (tuple(value.shape), tuple(value.flatten().tolist())) if isinstance(value, Tensor) else value
