# SPDX-License-Identifier: Apache-2.0
"""`attach`: carries a method into a loaded transformers model by hooks, and takes it out again without a trace."""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from prunevid.config import PruneVidConfig
from prunevid.engine import cache as caches
from prunevid.engine.compiled import eagerly, kept
from prunevid.engine.decode import Decode
from prunevid.engine.encoders import Encoders
from prunevid.engine.fits import check
from prunevid.engine.prefill import Prefill, refuse_uncached
from prunevid.engine.prefix import Held, Sharing
from prunevid.engine.record import Encoded, Encodings, Summary, TokenMap
from prunevid.engine.repeats import refuse_interleaved, refuse_mixed
from prunevid.engine.supplying import Supply
from prunevid.engine.timing import now
from prunevid.errors import (
    AlreadyAttachedError,
    ConfigError,
    InputError,
    UnprunedWarning,
    UnsupportedError,
)
from prunevid.methods import resolve
from prunevid.methods.base import Method
from prunevid.models import Adapter, adapter_for, base_of

# Weak on both sides, so that a model dropped while attached is freed: its own hooks keep the handle alive.
_ATTACHED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Pruning]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def attach(
    model: nn.Module,
    config_or_method: PruneVidConfig | Method | str = "prunevid",
    *,
    frames_per_video: int | Sequence[int] | None = None,
    **overrides: Any,
) -> Pruning:
    """Makes a model prune the videos of its prompts, from now until `detach`.

    The model's own `generate` and `forward` are used as they are; its weights and code stay untouched.

    Args:
        model: a model of a supported family (`prunevid.models.supported()`).
        config_or_method: a `PruneVidConfig`, a method, or a method's name.
        frames_per_video: for families whose frames come as images: how many images make one video, or a
            list with the number of frames of every video in the order of the prompts (a negative number: that many
            images that are no frames); 0: images are images (with `prune_images` each is pruned by itself). It can be
            changed later on the handle.
        **overrides: settings to change in it, e.g. `keep_ratio=0.2`.

    Returns:
        A handle: a context manager with `.detach()`, `.stats` and `.maps`.

    Raises:
        UnsupportedModelError: the family has no adapter, or this model of it can't be pruned.
        AlreadyAttachedError: a pruning is attached to the model already.
        UnsupportedError: the method asks for the vision tower, which the family's adapter does not describe.
        ConfigError: a setting is out of range, its layer beyond the model's depth, its positions not to be had, or
            images are to be pruned in a family whose adapter does not describe them.
    """
    return Pruning(model, resolve(config_or_method, **overrides), frames_per_video)


class Pruning:
    """A method attached to a model. Use it as a context manager, or call `detach` when done.

    Attributes:
        model: the model.
        method: the method, with what depends on the model's depth filled in (`Method.for_depth`).
    """

    def __init__(self, model: nn.Module, method: Method, frames_per_video: int | Sequence[int] | None = None):
        self.model = model
        self.adapter: Adapter = adapter_for(model)
        self.base = base_of(model)
        self.language_model = self.adapter.language_model(self.base)
        first = self.adapter.first_selection_layer(self.base.config)
        self.method = method.for_depth(self.language_model.config.num_hidden_layers, first)
        check(self.method, self.adapter, self.language_model, first)
        if self.method.tower is not None:  # raises where the tower has no such layer
            self.adapter.tower(self.base).attention(self.method.tower.layer)
        self._local = kept(self.base).local
        self._reports = threading.local()
        self._last: Summary | None = None
        self._encoders = Encoders(self.adapter, self.base, self.method, self._local, lambda: self.frames_per_video)
        self._held: Held | None = None
        self._frames_per_video: int | Sequence[int] | None = None
        self.frames_per_video = frames_per_video
        self._handles: list[Any] = []
        with _LOCK:
            other = _attached_to(self.base)
            if other is not None:
                raise AlreadyAttachedError(
                    f"The method {other.method.name!r} is attached to this model already; detach it first."
                )
            _ATTACHED[self.base] = weakref.ref(self)
        self._attach()

    def __enter__(self) -> Pruning:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Takes every hook off the model; safe to call twice."""
        with _LOCK:
            if _attached_to(self.base) is not self:
                return
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            self._encoders.remove()
            self._held = None
            del _ATTACHED[self.base]

    @property
    def frames_per_video(self) -> int | Sequence[int] | None:
        """Which images of the coming prompts are frames (see `attach`); None for families that have a video input.

        Raises:
            ConfigError: set for a family that has a video input.
        """
        return self._frames_per_video

    @frames_per_video.setter
    def frames_per_video(self, frames: int | Sequence[int] | None) -> None:
        if frames is not None and not self.adapter.frames_as_images:
            raise ConfigError(
                f"frames_per_video is {frames!r}, but a {type(self.model).__name__} is given its videos as videos; "
                "leave it out."
            )
        if self._encoders.remembered is not None and frames != self._frames_per_video:
            self._encoders.remembered.forget()  # what was remembered has other layouts
        self._frames_per_video = frames

    @property
    def stats(self) -> list[dict[str, Any]]:
        """What the last prefill kept and cost, one dictionary per row (see `prunevid.stats.row_stats`).

        The last prefill of the calling thread, or, where it ran none, of any thread; empty before the first.
        """
        last = self._last_prefill()
        return last.stats if last else []

    @property
    def maps(self) -> list[list[TokenMap]]:
        """What became of every cell in the last prefill: per row, a `TokenMap` for each video.

        With `prune_images` for each image too, all in the order in which they stand in the row.
        """
        last = self._last_prefill()
        return last.maps if last else []

    def forget(self) -> None:
        """Forgets the last prefill: its stats, and its maps, which hold the merged tokens."""
        self._last, self._reports = None, threading.local()

    @property
    def times(self) -> dict[str, float]:
        """Milliseconds of the steps of the last prefill; empty before the first, or where nothing is measured.

        vision, merge (stage 1), choose (stages 2 and 3: scores, choice, cache and shorter sequence; a part of prefill),
        prefill (the language model without merge). A step that did not happen is missing.
        """
        last = self._last_prefill()
        return dict(last.times) if last else {}

    def figure(self, frames: Any = None, *, row: int = 0, **options: Any) -> Any:
        """A picture of what became of the cells of one row of the last prefill (`prunevid.view.sheet`).

        Args:
            frames: of the row's video, (T, H, W, 3) uint8; a list of such for several videos. None: the cells are
                drawn without frames, which an attached model does not keep.
            row: of the batch.
            options: see `prunevid.view.sheet`.

        Returns:
            A Pillow image, which notebooks show.

        Raises:
            InputError: there is no such row, no video in it, or frames that don't fit.
        """
        view = importlib.import_module("prunevid.view")  # pictures know the engine; it must not know them
        maps = self.maps
        if not 0 <= row < len(maps):
            raise InputError(f"row is {row}, but the last prompt had {len(maps)} rows; they count from 0.")
        return view.sheet(view.Subject.of(maps[row], frames).with_stats(self.stats[row]), **options)

    @contextmanager
    def reuse(self, encodings: Encodings | None = None, held: Held | None = None) -> Iterator[None]:
        """In its block, a video whose pixel tensor was seen before (the same object) is not encoded or merged again.

        The same is true of images that are pruned.

        Args:
            encodings: where to look and to remember, to be shared with other prunings of this model (with the same
                `frames_per_video`); None: those of `held`, or what was seen is forgotten after the block.
            held: what goes from one prompt to the next about the same video besides: the state of everything up to
                its last visual token, so that this runs through the first layers once.
        """
        if encodings is None:
            encodings = Encodings() if held is None else held.encodings
        self._encoders.remembered, self._held = encodings, held
        try:
            yield
        finally:
            self._encoders.remembered = self._held = None

    def supply(self, inputs: Mapping[str, Any], frames: Sequence[int]) -> AbstractContextManager[Supply]:
        """In its block, the videos of a prompt are taken from features that were encoded in parts.

        See `prunevid.engine.encoders.Encoders.supply`.
        """
        return self._encoders.supply(inputs, frames)

    def _last_prefill(self) -> Summary | None:
        return getattr(self._reports, "last", None) or self._last

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        self._encoders.install()
        self._handles = [
            self.base.register_forward_pre_hook(self._before_base, with_kwargs=True),
            self.base.register_forward_hook(self._after_base, always_call=True),
            self.language_model.register_forward_pre_hook(self._before_language_model, with_kwargs=True),
            self.language_model.register_forward_hook(self._after_language_model, always_call=True),
        ]
        if self.model is not self.base:
            self._handles.append(self.model.register_forward_pre_hook(self._before_model, with_kwargs=True))
        for index in self._late_layers:  # at rest, so that a compiler finds them where they stay
            late = self.language_model.layers[index]
            self._handles.append(late.register_forward_pre_hook(self._before_late_layer(index), with_kwargs=True))
        kept(self.base).renumber(self._handles)

    def _prefill(self) -> Prefill | None:
        return getattr(self._local, "prefill", None)

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuses training: a loss can't be computed over tokens that are gone. Takes the layouts off the features."""
        arguments = _bind(module, args, kwargs)
        # accelerate rebuilds every output on its way to another device, and what was left on it stays behind.
        self._local.arrived = self._encoders.arrived(arguments)
        if arguments.get("labels") is not None and self._has_video(arguments) and self._active:
            raise UnsupportedError(
                "labels were given, but the logits of a pruned prompt are fewer than its labels; detach to train or to "
                "compute a loss."
            )

    @property
    def _active(self) -> bool:
        return self.method.acts

    @property
    def _late_layers(self) -> range:
        """Layers whose cache holds fewer tokens than that of the layers before, so that they need their own mask."""
        layers, depth = self.method.selection_layers, len(self.language_model.layers)
        return range(depth if not layers or self.method.compresses_cache else layers[0] + 1, depth)

    def _has_video(self, arguments: dict[str, Any]) -> bool:
        """Whether the arguments hold a video, or an image that is to be pruned."""
        if self.adapter.frames_as_images and not (self.frames_per_video or self.method.prunes_images):
            return False
        return self._encoders.are_given(arguments)

    def _check_prompt(self, arguments: dict[str, Any]) -> None:
        """Refuses what can't be pruned, and warns where images might be frames."""
        if (self.method.selection_layers or self.method.shrinks_cache) and self._has_video(arguments):
            refuse_uncached(arguments, self.language_model.config)
        if not self._active:
            return
        self.adapter.check(arguments)
        unsaid = self.adapter.frames_as_images and self.frames_per_video is None and not self.method.prunes_images
        if unsaid and self._encoders.are_given(arguments):
            warnings.warn(
                "This model is given frames as images, so images are not pruned; attach with frames_per_video to say "
                "which of them are frames (0: none).",
                UnprunedWarning,
                stacklevel=2,
            )

    def _check_repeats(self, prefill: Prefill, arguments: dict[str, Any]) -> None:
        """Refuses rows for beams and several sequences whose pixels or features were not repeated row by row."""
        if not self._active or not self._has_video(arguments):
            return
        masks = {"video": prefill.video_mask, "image": prefill.image_mask}
        for kind, output in self._encoders.outputs(arguments).items():
            if kind in prefill.encoded:
                tokens = masks[kind].sum(1).tolist()
                known = sum(layout.tokens for layout in prefill.encoded[kind].layouts)
                refuse_mixed(output.pooler_output, tokens, sum(tokens) // known if known else 1)
        pixels = arguments.get(self.adapter.pixels)
        by_row = not self.adapter.equal_frames or (self.adapter.frames_as_images and getattr(pixels, "ndim", 0) > 4)
        base: Any = type(self.base)
        if pixels is not None and not by_row and "mm_encoder_outputs" not in _signature(base).parameters:
            refuse_interleaved(arguments["input_ids"], prefill.video_mask, pixels)

    def _before_base(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decides whether this forward pass is a prefill, and opens its state."""
        arrived = getattr(self._local, "arrived", None) or {}
        self._local.prefill = self._local.arrived = None
        arguments = _bind(module, args, kwargs)
        ids, past = arguments.get("input_ids"), arguments.get("past_key_values")
        if ids is None:
            embeds = arguments.get("inputs_embeds")
            if embeds is not None and embeds.shape[1] > 1 and self._active and not _filled(past):
                warnings.warn(
                    "inputs_embeds were given instead of input_ids, so the visual tokens can't be told apart and "
                    "nothing is pruned; pass input_ids.",
                    UnprunedWarning,
                    stacklevel=2,
                )
            return
        if ids.shape[1] == 1 and past is not None:
            return
        if _filled(past):
            if self._has_video(arguments) and self._active:
                warnings.warn(
                    "A new video (or image) in a later turn of a conversation is not pruned; start a new cache to "
                    "prune it.",
                    UnprunedWarning,
                    stacklevel=2,
                )
            return
        self._open(module.config, arguments, arrived)

    @eagerly
    def _open(self, config: Any, arguments: dict[str, Any], arrived: dict[str, Encoded]) -> None:
        """Opens the state of a prefill; `arrived`: the layouts of features that were encoded before this pass."""
        prefill = Prefill(self.method, self.adapter, self.language_model, arguments["input_ids"], config)
        known = {**arrived, **self._encoders.arrived(arguments)}
        for kind in self._encoders.outputs(arguments):
            if kind in known:
                prefill.encoded[kind] = known[kind]
            elif self._active:
                raise UnsupportedError(
                    f"The {kind} features of this prompt were not encoded by the attached model, or cut in chunks, so "
                    "their layout is not known; leave prefill_chunk_size unset and pass "
                    f"{self._encoders.kinds[kind][1][0]}."
                )
        self._check_prompt(arguments)
        self._check_repeats(prefill, arguments)
        if self._held is not None:
            prefill.sharing = Sharing(prefill, self._held)
        self._local.prefill = prefill

    def _before_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Prefill: stage 1, and stage 2 is armed. Later: masks and positions of the pruned cache."""
        prefill = self._prefill()
        if prefill is not None:
            return args, self._start(prefill, kwargs)
        past = kwargs.get("past_key_values")
        if past is None or not getattr(past, "layers", None) or not caches.is_pruned(past.layers[0]):
            return None
        decode = Decode(self.method, self.adapter, module, past, kwargs["inputs_embeds"].shape[1], self._late_layers)
        self._local.decode = decode
        return args, decode.start(kwargs)

    @eagerly
    def _start(self, prefill: Prefill, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Stage 1 on the language model's arguments, and stage 2 armed."""
        masks = {"video": prefill.video_mask, "image": prefill.image_mask}
        for kind in self._encoders.kinds if self._active else ():
            if kind not in prefill.encoded and bool(masks[kind].any()):
                raise UnsupportedError(
                    f"The prompt has {kind} tokens but no {kind} was encoded with it; leave prefill_chunk_size unset "
                    "and pass what the model's processor returned."
                )
        if prefill.encoded:
            prefill.times["vision"] = sum(encoded.milliseconds for encoded in prefill.encoded.values())
        device = kwargs["inputs_embeds"].device
        prefill.started = now(device, self.method.collect_stats)
        return prefill.start(kwargs)

    def _before_late_layer(self, index: int) -> Callable[..., Any]:
        """The hook that gives layer `index` its own mask where it needs one."""

        def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            decode = getattr(self._local, "decode", None)
            if decode is None or index not in decode.late:
                return None
            return args, {**kwargs, "attention_mask": decode.late[index]}

        return give

    def _after_language_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Closes what `_before_language_model` opened, after an exception too (`output` is None then)."""
        decode = getattr(self._local, "decode", None)
        if decode is not None:
            self._local.decode = None
            decode.disarm()
        prefill = self._prefill()
        if prefill is not None:
            self._local.prefill = None
            self._finish(prefill, output)

    @eagerly
    def _finish(self, prefill: Prefill, output: Any) -> None:
        try:
            if output is not None:
                prefill.finish(output)
                spent = now(prefill.device, self.method.collect_stats) - prefill.started
                prefill.times["prefill"] = spent - prefill.times.get("merge", 0.0)
                self._last = self._reports.last = prefill.summary()
        finally:
            prefill.disarm()

    def _after_base(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._local.prefill = None


def _attached_to(base: nn.Module) -> Pruning | None:
    known = _ATTACHED.get(base)
    return known() if known is not None else None


@functools.cache
def _signature(kind: type) -> inspect.Signature:
    return inspect.signature(kind.forward)  # type: ignore[attr-defined]


def _bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A forward call's arguments by name."""
    if not args:
        return kwargs
    kind: Any = type(module)
    bound = _signature(kind).bind_partial(module, *args).arguments
    return {**bound, **kwargs}


def _filled(cache: Any) -> bool:
    """Whether a cache holds tokens already."""
    return cache is not None and bool(cache.get_seq_length() > 0)
