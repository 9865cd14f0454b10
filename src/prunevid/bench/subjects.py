# SPDX-License-Identifier: Apache-2.0
"""What is measured: a model together with what turns clips into its inputs.

A shape has no tokenizer. Its prompts are numbers: some text, the placeholders as the family's processor writes them,
and a question. Pixels come from the family's own video processor, so that preprocessing costs what it costs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunevid import models
from prunevid.bench.clips import FPS
from prunevid.errors import UnsupportedError
from prunevid.generation import input_device

Frames = NDArray[np.uint8]

QUESTION = 32
"""Tokens of text behind the video: a question with what a chat template puts around it."""
_BEFORE = 16  # tokens of text before it
_TEXT = 8  # the first id that is no special token of a shape
_WIDEST = {"shortest_edge": 28 * 28, "longest_edge": 2**40}  # bounds of a video's pixels that never bind


class Subject:
    """A model, and how it is given clips.

    Attributes:
        name: for reports.
        model: in eval mode, on its device.
        adapter: of its family.
    """

    def __init__(self, name: str, model: Any):
        self.name, self.model = name, model
        self.adapter = models.adapter_for(model)
        self.base = models.base_of(model)
        self.language_model = self.adapter.language_model(self.base)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and pixels."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def encode(self, clips: Sequence[Frames]) -> dict[str, Any]:
        """A batch of prompts, one for each clip (T, H, W, 3) uint8, shorter ones padded on the left."""
        raise NotImplementedError

    def encode_videos(self, inputs: dict[str, Any]) -> Any:
        """What the vision tower makes of a batch's inputs, by the family's own function."""
        encode = getattr(self.base, self.adapter.feature_function)
        known = inspect.signature(encode).parameters
        own = {name: value for name, value in inputs.items() if name in known}
        if not any(name.startswith("pixel") for name in own):  # transformers 5.17 calls a video's pixels differently
            own["pixel_values"] = inputs[self.adapter.pixels]
        return encode(**own)

    def frames_per_video(self, clips: Sequence[Frames]) -> list[int] | None:
        """What `attach` has to know of these clips."""
        return [len(clip) for clip in clips] if self.adapter.frames_as_images else None

    def text(self, length: int, rows: int = 1) -> dict[str, Any]:
        """Prompts of so many tokens without a video."""
        ids = self._text_ids(length, rows, seed=length)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def another_question(self, inputs: dict[str, Any], number: int) -> dict[str, Any]:
        """The prompt of one clip with other text behind the video, for each number another; 0 leaves it as it is.

        What the vision tower is asked besides (`Adapter.conditions`) changes, too. All other tensors stay the same.
        """
        if number == 0:
            return inputs
        ids = inputs["input_ids"].clone()
        places = torch.isin(ids[0], torch.tensor(self._visual_ids(), device=ids.device)).nonzero()
        start = int(places[-1]) + 2  # behind the token that ends the video
        ids[:, start:] = self._text_ids(ids.shape[1] - start, 1, seed=number)
        asked = {name: inputs[name].roll(number, -1) for name in self.adapter.conditions if name in inputs}
        return {**inputs, **asked, "input_ids": ids}

    def _text_ids(self, length: int, rows: int, seed: int) -> Tensor:
        """(rows, length) int64 ids of text."""
        vocabulary = int(self.language_model.config.vocab_size)
        ids = torch.randint(_TEXT, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))
        for token in self._visual_ids():
            ids[ids == token] = _TEXT - 1
        return ids.to(self.device)

    def _visual_ids(self) -> list[int]:
        """The placeholders of a family, which may have them for videos alone."""
        config = self.base.config
        found = (self.adapter.video_token_id(config), self.adapter.image_token_id(config))
        return [token for token in found if token is not None]


class Loaded(Subject):
    """A model folder with its own processor."""

    def __init__(self, name: str, model: Any, processor: Any):
        from prunevid.prompting import Prompter, truncates_seconds

        super().__init__(name, model)
        self._prompter = Prompter(processor, self.device, self.dtype, truncates_seconds(self.base))

    def encode(self, clips: Sequence[Frames]) -> dict[str, Any]:
        """See `Subject.encode`."""
        from prunevid.video import load_clip

        read = [load_clip(clip, max_frames=len(clip), source_fps=FPS) for clip in clips]
        return self._prompter.encode(
            read, ["What happens in this video, and in which order does it happen?"] * len(read)
        )


class Made(Subject):
    """A model of a shape, with prompts made of numbers."""

    def __init__(self, name: str, model: Any):
        super().__init__(name, model)
        if model.config.model_type not in _FAMILIES:
            raise UnsupportedError(f"Prompts for a {model.config.model_type} can't be made without its processor.")
        self._family = _FAMILIES[model.config.model_type]
        self._processor = self._family.processor(model.config)

    def encode(self, clips: Sequence[Frames]) -> dict[str, Any]:
        """See `Subject.encode`."""
        pixels, counts = self._family.pixels(self, clips)
        start, end = (getattr(self.base.config, f"vision_{name}_token_id", _TEXT - 1) for name in ("start", "end"))
        placeholder = self.adapter.video_token_id(self.base.config)
        rows = [_row(runs, self._family.between, placeholder, start, end) for runs in counts]
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, length - len(row) :] = row
            mask[number, length - len(row) :] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, **pixels}
        if self._family.kinds:
            inputs["mm_token_type_ids"] = 2 * (ids == placeholder).long()
        return {name: self._place(value) for name, value in inputs.items()}

    def process(self, clips: Sequence[Frames]) -> Any:
        """What the family's video processor makes of the clips."""
        known = inspect.signature(type(self._processor).__init__).parameters  # feature detection, see Prompter.encode
        options: dict[str, Any] = {}
        if hasattr(self._processor, "cap_pixels_per_frame") or "cap_pixels_per_frame" in known:
            options["cap_pixels_per_frame"] = False
        return self._processor(
            videos=list(clips), do_sample_frames=False, input_data_format="channels_last", return_tensors="pt",
            **options,
        )  # fmt: skip

    def _place(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.dtype if value.is_floating_point() and value.dim() > 1 else None)


def _row(runs: Sequence[int], between: int, placeholder: int, start: int, end: int) -> Tensor:
    """One prompt: text, the video's runs of placeholders with `between` tokens of text before each, and a question."""
    parts = [_words(_BEFORE)]
    for run in runs:
        parts += [_words(between), torch.tensor([start]), torch.full((run,), placeholder), torch.tensor([end])]
    return torch.cat([*parts, _words(QUESTION)])


def _words(count: int) -> Tensor:
    """Ids of text."""
    return _TEXT + torch.arange(count) * 7 % 997


# ---- families ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Family:
    """How a family is given its videos.

    processor: makes the video processor from the config; pixels: the model's arguments for some clips, and each clip's
    runs of placeholders; between: text tokens before every run; kinds: whether the model wants `mm_token_type_ids`.
    """

    processor: Callable[[Any], Any]
    pixels: Callable[[Made, Sequence[Frames]], tuple[dict[str, Any], list[list[int]]]]
    between: int = 0
    kinds: bool = False


def _transformers(name: str, side: int | None = None, **options: Any) -> Callable[[Any], Any]:
    """A video processor of transformers."""

    def make(config: Any) -> Any:
        import transformers

        sizes = {"size": {"height": side, "width": side}} if side else {}
        return getattr(transformers, name)(**sizes, **options)

    return make


def _grid(seconds: bool, runs_of_frames: bool) -> Callable[[Made, Sequence[Frames]], Any]:
    """Packed patches with a grid a video."""

    def pixels(subject: Made, clips: Sequence[Frames]) -> tuple[dict[str, Any], list[list[int]]]:
        made = subject.process(clips)
        merge = int(subject.base.visual.spatial_merge_size)
        found: dict[str, Any] = {name: made[name] for name in ("pixel_values_videos", "video_grid_thw")}
        if seconds:
            found["second_per_grid_ts"] = torch.full((len(clips),), 2.0 / FPS)
        sizes = [(t, h * w // merge**2) for t, h, w in made["video_grid_thw"].tolist()]
        return found, [[cells] * steps if runs_of_frames else [steps * cells] for steps, cells in sizes]

    return pixels


def _stacked(cells: Callable[[Any], int], tail: int = 0) -> Callable[[Made, Sequence[Frames]], Any]:
    """One tensor (videos, frames, 3, side, side)."""

    def pixels(subject: Made, clips: Sequence[Frames]) -> tuple[dict[str, Any], list[list[int]]]:
        made = subject.process(clips)["pixel_values_videos"]
        count = made.shape[1] * cells(subject.model.config) + tail
        return {"pixel_values_videos": made}, [[count]] * len(clips)

    return pixels


def _as_images(subject: Made, clips: Sequence[Frames]) -> tuple[dict[str, Any], list[list[int]]]:
    """Frames as pictures, a run of placeholders for each."""
    made = subject.process(clips)["pixel_values_videos"]
    config = subject.model.config
    side = int(config.vision_config.image_size[0] // config.vision_config.patch_size[0] * config.downsample_ratio)
    return {"pixel_values": made.flatten(0, 1)}, [[side * side] * made.shape[1]] * len(clips)


def _pooled_pictures(subject: Made, clips: Sequence[Frames]) -> tuple[dict[str, Any], list[list[int]]]:
    """PLLaVA's: pictures pooled to a shape of the config."""
    made = torch.stack([subject._processor(clip) for clip in clips])
    steps, rows, columns = subject.model.config.pooled_shape(made.shape[1])
    return {"pixel_values_videos": made}, [[steps * rows * columns]] * len(clips)


def _with_question(subject: Made, clips: Sequence[Frames]) -> tuple[dict[str, Any], list[list[int]]]:
    """ST-LLM's: query slots of a frame, which read the question beside it."""
    made, runs = _stacked(lambda config: int(config.num_query_tokens))(subject, clips)
    ids = _words(12).expand(len(clips), -1)
    return {**made, "qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}, runs


def _pictures(config: Any) -> Any:
    from prunevid.models.pllava.pictures import Pictures

    return Pictures(config.vision_config.image_size)


def _stllm_processor(config: Any) -> Any:
    from prunevid.models.stllm.processing import STLLMVideoProcessor

    return STLLMVideoProcessor()


def _half_squared(config: Any) -> int:
    """Cells of a frame whose g x g patches are pooled by two, rounded up as LLaVA-OneVision does."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return int(((side + 1) // 2) ** 2)


_FAMILIES: dict[str, _Family] = {
    "qwen2_vl": _Family(_transformers("Qwen2VLVideoProcessor", size=_WIDEST), _grid(False, False), kinds=True),
    "qwen2_5_vl": _Family(_transformers("Qwen2VLVideoProcessor", size=_WIDEST), _grid(True, False), kinds=True),
    "qwen3_vl": _Family(_transformers("Qwen3VLVideoProcessor", size=_WIDEST), _grid(False, True), 6, kinds=True),
    "llava_onevision": _Family(_transformers("LlavaOnevisionVideoProcessor", 384), _stacked(_half_squared, tail=1)),
    "llava_next_video": _Family(
        _transformers(
            "LlavaNextVideoVideoProcessor", size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        _stacked(lambda config: int((config.vision_config.image_size // config.vision_config.patch_size // 2) ** 2)),
    ),
    "internvl": _Family(_transformers("InternVLVideoProcessor", 448), _as_images, 3),
    "pllava": _Family(_pictures, _pooled_pictures),
    "stllm": _Family(_stllm_processor, _with_question),
}
