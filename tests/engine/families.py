# SPDX-License-Identifier: Apache-2.0
"""A tiny random model of every family, and prompts that each family's own processor could have made.

A prompt is described once, as text lengths and clips, and rendered for a family: how many tokens a frame has, what
stands between frames, and what the model is given besides token ids.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor

from engine.tiny import (
    END,
    IMAGE,
    LAYERS,
    PAD,
    PATCH,
    SPECIAL,
    START,
    VIDEO,
    VOCABULARY,
    make_clip,
    scale_weights,
)
from engine.tiny import build as build_qwen
from prunevid.config import PruneVidConfig
from prunevid.models.pllava import PLLaVAConfig, PLLaVAForConditionalGeneration
from prunevid.models.stllm import STLLMConfig, STLLMForConditionalGeneration

SIDE = 5  # tokens of a frame's row and column
SLOTS = 32  # query slots of ST-LLM, which is what a frame's cells are there
FRAMES = 5  # of every clip: some families take one tensor for all videos of a batch

_TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=4096,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=PAD,
)
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
_TOWER = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=40, patch_size=PATCH
)
_IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO)
_PINPOINTS = [[40, 80], [80, 40], [80, 80]]
_INDEXES = dict(image_token_index=IMAGE, video_token_index=VIDEO)


@dataclass(frozen=True)
class Video:
    """One clip for one family; cells: tokens a frame; tail: placeholders after the last frame.

    An image that the model shows in several views has them in `views`, in place of frames and cells: (rows, columns,
    placeholders after every row that are no cells); size: its (height, width) in pixels.
    """

    pixels: Tensor
    frames: int
    cells: int
    tail: int = 0
    grid: Tensor | None = None
    views: tuple[tuple[int, int, int], ...] = ()
    size: tuple[int, int] = (0, 0)

    def grids(self) -> list[tuple[list[int], int]]:
        """(the cells' places among the placeholders, frames) of the clip, or of each view."""
        if not self.views:
            return [(list(range(self.frames * self.cells)), self.frames)]
        found, start = [], 0
        for rows, columns, extra in self.views:
            step = columns + extra
            found.append(([start + row * step + column for row in range(rows) for column in range(columns)], 1))
            start += rows * step
        return found

    @property
    def tokens(self) -> int:
        """Placeholders."""
        views = sum(rows * (columns + extra) for rows, columns, extra in self.views)
        return (views or self.frames * self.cells) + self.tail


@dataclass(frozen=True)
class VideoPrompt:
    """A row without padding: ids (L,), kinds (L,): 0 text, 1 image, 2 video; its videos, images, and both in order."""

    family: str
    ids: Tensor
    kinds: Tensor
    videos: list[Video] = field(default_factory=list)
    images: list[Video] = field(default_factory=list)
    shown: list[Video] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Family:
    """What the tests know of a family.

    make: builds the model for an attention kernel; video: renders a clip of frames (T, SIDE * SIDE, values);
    inputs: the model's arguments for the videos of every row, besides ids and mask; tau: between the still and the
    changing cells of a clip; between: text tokens before every frame (no separate runs where 0); kinds: whether the
    model wants mm_token_type_ids; attach: options of `attach`; images: the model's arguments for images apart from
    videos; image: renders the image of that number from frames as `video` takes them, where it is no clip of one frame.
    """

    make: Callable[[str], Any]
    video: Callable[[Tensor], Video]
    inputs: Callable[[list[list[Video]]], dict[str, Any]]
    tau: float
    between: int = 0
    placeholder: int = VIDEO
    kinds: bool = False
    attach: dict[str, Any] = field(default_factory=dict)
    images: Callable[[list[Video]], dict[str, Any]] | None = None
    image: Callable[[Tensor, int], Video] | None = None


def _config(kind: str, text: str, vision: Any, **more: Any) -> Any:
    language = getattr(transformers, text)(**_TEXT)
    return getattr(transformers, kind)(text_config=language, vision_config=vision, **more)


def _llava_onevision() -> Any:
    vision = transformers.SiglipVisionConfig(**_TOWER)
    tiles = {"image_grid_pinpoints": _PINPOINTS, "vision_aspect_ratio": "anyres_max_1"}
    return _config("LlavaOnevisionConfig", "Qwen2Config", vision, **_INDEXES, **tiles)


def _llava_next_video() -> Any:
    vision = transformers.CLIPVisionConfig(**_TOWER)
    return _config("LlavaNextVideoConfig", "LlamaConfig", vision, **_INDEXES, image_grid_pinpoints=_PINPOINTS)


def _video_llava() -> Any:
    vision = transformers.CLIPVisionConfig(**(_TOWER | {"image_size": PATCH * SIDE}))
    return _config("VideoLlavaConfig", "LlamaConfig", vision, **_INDEXES)


def _internvl() -> Any:
    sizes = {"image_size": [40, 40], "patch_size": [PATCH, PATCH], "layer_scale_init_value": 1.0}
    vision = transformers.InternVLVisionConfig(**(_TOWER | sizes))
    return _config("InternVLConfig", "Qwen2Config", vision, image_token_id=IMAGE, tie_word_embeddings=False)


def _smolvlm() -> Any:
    # Patches of 5 pixels, since transformers 5.20 wants as many placeholders a row as patch_size divides.
    vision = transformers.SmolVLMVisionConfig(**(_TOWER | {"image_size": 100, "patch_size": SIDE}))
    more = {"image_token_id": IMAGE, "tie_word_embeddings": False, "scale_factor": 2}
    return _config("SmolVLMConfig", "LlamaConfig", vision, **more)


def _pllava() -> Any:
    vision = transformers.CLIPVisionConfig(**_TOWER)
    shapes = {"frame_shape": (10, 10), "pooling_shape": (FRAMES, SIDE, SIDE), "num_frames": FRAMES}
    return PLLaVAConfig(
        text_config=transformers.LlamaConfig(**_TEXT), vision_config=vision, image_token_index=VIDEO, **shapes
    )


def _video_llama_3() -> Any:
    tower = {name: value for name, value in _TOWER.items() if name != "image_size"}
    return _config("VideoLlama3Config", "Qwen2Config", transformers.VideoLlama3VisionConfig(**tower), **_IDS)


def _stllm() -> Any:
    qformer = dict(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    )  # fmt: skip
    return STLLMConfig(
        vision_config=_TOWER,
        qformer_config=qformer,
        text_config=_TEXT,
        num_query_tokens=SLOTS,
        bt_adapter_depth=1,
        bt_adapter_frames=16,
        video_token_id=VIDEO,
    )


def _sharpen(model: Any) -> None:
    """Query slots of random weights see the mean of a frame's patches, and hardly differ between frames."""
    gains = {"patch_embedding.weight": 4, "self_attn.projection.weight": 0.3}
    gains |= {
        f"crossattention.attention.{name}.weight": gain for name, gain in (("query", 4), ("key", 4), ("value", 2))
    }
    for name, weight in model.named_parameters():
        for end, gain in gains.items():
            if name.endswith(end):
                weight.mul_(gain)


def _qwen3_vl(mixture: bool = False) -> Any:
    vision = dict(
        depth=3, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=PATCH, out_hidden_size=64,
        num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
    )  # fmt: skip
    text = _TEXT | {"rope_parameters": _MROPE}
    ids = _IDS | {"vision_start_token_id": START, "vision_end_token_id": END}
    if mixture:
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
        return transformers.Qwen3VLMoeConfig(text_config=text, vision_config=vision, **ids)
    return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)


def _built(
    kind: str | type, config: Callable[[], Any], tweak: Callable[[Any], None] | None = None
) -> Callable[[str], Any]:
    @functools.cache
    def make(kernel: str) -> Any:
        settings = config()
        settings._attn_implementation = kernel
        made = getattr(transformers, kind) if isinstance(kind, str) else kind
        model = made(settings).eval().requires_grad_(False)
        scale_weights(model)
        if tweak is not None:
            tweak(model)
        model.generation_config.suppress_tokens = list(SPECIAL)
        model.generation_config.pad_token_id = PAD
        model.generation_config.eos_token_id = None
        return model

    return lambda kernel: copy.deepcopy(make(kernel))


def _pictures(block: int, extra: int = 0, tail: int = 0) -> Callable[[Tensor], Video]:
    """Frames as pictures in which every cell is a square of `block` pixels."""

    def video(frames: Tensor) -> Video:
        cells = frames[..., : 3 * block * block].unflatten(-1, (3, block, block)).unflatten(1, (SIDE, SIDE))
        picture = cells.permute(0, 3, 1, 4, 2, 5).reshape(len(frames), 3, SIDE * block, SIDE * block)
        return Video(picture, len(frames), SIDE * SIDE + extra, tail)

    return video


def _patches(values: int) -> Callable[[Tensor], Video]:
    """Frames as patches in blocks of 2 x 2, as processors for images of any size make them."""

    def video(frames: Tensor) -> Video:
        grid = torch.tensor([len(frames), 2 * SIDE, 2 * SIDE])
        pixels = frames[..., : 4 * values].reshape(-1, values)
        return Video(pixels, len(frames), SIDE * SIDE, grid=grid)

    return video


# Sizes of images that take two tiles, beside or above each other, and the grid of them that the model leaves: some of
# their rows or columns are padding, and LLaVA-OneVision is set to shrink more than a tile's 100 tokens.
_TILED = (((60, 14), (20, 4), (20, 4)), ((10, 60), (4, 20), (4, 20)), ((22, 60), (8, 20), (6, 15)))


def _tiled(shrunk: bool) -> Callable[[Tensor, int], Video]:
    """Images of 10 x 10 tokens and two tiles."""

    def image(frames: Tensor, number: int) -> Video:
        size, *grids = _TILED[number % len(_TILED)]
        seed = int(frames[0, 0, 0] * 1000) % 1000
        pixels = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(seed))
        return Video(pixels, 1, 0, views=((10, 10, 0), (*grids[shrunk], 1)), size=size)

    return image


def _tiled_images(images: list[Video]) -> dict[str, Any]:
    pixels = torch.zeros(len(images), 4, 3, 40, 40)  # padded, as for an image of three tiles
    for padded, image in zip(pixels, images):
        padded[: len(image.pixels)] = image.pixels
    return {"pixel_values": pixels, "image_sizes": torch.tensor([image.size for image in images])}


def _without_class_token(frames: Tensor, number: int) -> Video:
    return _pictures(PATCH)(frames)


def _flat(rows: list[list[Video]]) -> list[Video]:
    return [video for row in rows for video in row]


def _stacked(rows: list[list[Video]]) -> dict[str, Any]:
    return {"pixel_values_videos": torch.stack([video.pixels for video in _flat(rows)])}


def _with_questions(rows: list[list[Video]]) -> dict[str, Any]:
    """A question of its own length for every video, padded on the right."""
    lengths = [3 + int(video.pixels.abs().sum()) % 4 for video in _flat(rows)]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = mask * (7 + torch.arange(max(lengths)) * torch.tensor(lengths)[:, None])
    return _stacked(rows) | {"qformer_input_ids": ids, "qformer_attention_mask": mask}


def _joined(rows: list[list[Video]]) -> dict[str, Any]:
    return {
        "pixel_values_videos": torch.cat([video.pixels for video in _flat(rows)]),
        "video_grid_thw": torch.stack([video.grid for video in _flat(rows) if video.grid is not None]),
    }


def _with_merge_sizes(rows: list[list[Video]]) -> dict[str, Any]:
    return _joined(rows) | {"video_merge_sizes": torch.full((sum(map(len, rows)),), 2)}


def _as_images(rows: list[list[Video]]) -> dict[str, Any]:
    return {"pixel_values": torch.cat([video.pixels for video in _flat(rows)])}


def _images_by_row(rows: list[list[Video]]) -> dict[str, Any]:
    most = max(sum(video.frames for video in row) for row in rows)
    pixels = torch.zeros(len(rows), most, *_flat(rows)[0].pixels.shape[1:])
    for padded, row in zip(pixels, rows):
        if row:
            frames = torch.cat([video.pixels for video in row])
            padded[: len(frames)] = frames
    return {"pixel_values": pixels}


def _image_patches(images: list[Video]) -> dict[str, Any]:
    joined = _joined([images])
    return {"pixel_values": joined["pixel_values_videos"], "image_grid_thw": joined["video_grid_thw"]}


def _image_patches_with_sizes(images: list[Video]) -> dict[str, Any]:
    return _image_patches(images) | {"image_merge_sizes": torch.full((len(images),), 2)}


def _video_llava_images(images: list[Video]) -> dict[str, Any]:
    known = inspect.signature(transformers.VideoLlavaForConditionalGeneration.forward).parameters
    name = "pixel_values" if "pixel_values" in known else "pixel_values_images"  # as older versions call it
    return {name: torch.stack([image.pixels[0] for image in images])}


_QWEN = dict(video=_patches(3 * 2 * PATCH * PATCH), inputs=_joined, kinds=True, images=_image_patches)
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(lambda kernel: build_qwen("qwen2_vl", kernel), tau=0.96, **_QWEN),
    "qwen2_5_vl": Family(lambda kernel: build_qwen("qwen2_5_vl", kernel), tau=0.65, **_QWEN),
    "llava_onevision": Family(
        _built("LlavaOnevisionForConditionalGeneration", _llava_onevision), _pictures(8, tail=1), _stacked, 0.935,
        images=_tiled_images, image=_tiled(True),
    ),
    "llava_next_video": Family(
        _built("LlavaNextVideoForConditionalGeneration", _llava_next_video), _pictures(8), _stacked, 0.96,
        images=_tiled_images, image=_tiled(False),
    ),
    "video_llava": Family(
        _built("VideoLlavaForConditionalGeneration", _video_llava), _pictures(PATCH, extra=1), _stacked, 0.8,
        images=_video_llava_images, image=_without_class_token,
    ),
    "qwen3_vl": Family(_built("Qwen3VLForConditionalGeneration", _qwen3_vl), tau=0.98, between=2, **_QWEN),
    "qwen3_vl_moe": Family(
        _built("Qwen3VLMoeForConditionalGeneration", functools.partial(_qwen3_vl, True)), tau=0.98, between=2, **_QWEN
    ),
    "internvl": Family(
        _built("InternVLForConditionalGeneration", _internvl), _pictures(8), _as_images, 0.8, 2, IMAGE,
        attach={"frames_per_video": FRAMES},
    ),
    "video_llama_3": Family(
        _built("VideoLlama3ForConditionalGeneration", _video_llama_3), _patches(3 * PATCH * PATCH),
        _with_merge_sizes, 0.975, 1, images=_image_patches_with_sizes,
    ),
    "pllava": Family(_built(PLLaVAForConditionalGeneration, _pllava), _pictures(8), _stacked, 0.96),
    "smolvlm": Family(
        _built("SmolVLMForConditionalGeneration", _smolvlm), _pictures(2 * SIDE), _images_by_row, 0.92, 2, IMAGE,
        attach={"frames_per_video": FRAMES},
    ),
    "stllm": Family(
        _built(STLLMForConditionalGeneration, _stllm, _sharpen), _pictures(8, extra=SLOTS - SIDE * SIDE),
        _with_questions, 0.96,
    ),
}  # fmt: skip

# Where images are something else than videos; PLLaVA shows them as videos, behind the same placeholder.
WITH_IMAGES = {name: kind for name, kind in FAMILIES.items() if kind.images is not None or kind.attach}


def language_of(model: Any) -> Any:
    """The decoder of a model of any family."""
    return getattr(model.model, "language_model", None) or model.model.text_model


def build(family: str, kernel: str = "sdpa") -> Any:
    """A fresh copy of the tiny model of a family: float32, evaluation mode, the same weights every time."""
    return FAMILIES[family].make(kernel)


def settings(family: str, **overrides: Any) -> PruneVidConfig:
    """Settings under which the clips are merged and chosen from."""
    chosen: dict[str, Any] = dict(tau=FAMILIES[family].tau, temporal_segment_ratio=0.4, pruning_layer=1)
    return PruneVidConfig(**(chosen | overrides))


@functools.cache
def _frames(scenes: tuple[int, ...], seed: int) -> Tensor:
    """(T, SIDE * SIDE, 384) values of a clip with scenes, still and changing cells."""
    clip = make_clip(scenes, (SIDE, SIDE), 0.6, seed)
    return clip.pixels.view(sum(scenes), SIDE * SIDE, -1)


def make_prompt(family: str, *parts: int | str | tuple[int, ...], seed: int = 0) -> VideoPrompt:
    """Renders text (a number of random tokens), clips (frames of each scene) and images ("image") for a family."""
    kind = FAMILIES[family]
    generator = torch.Generator().manual_seed(1000 + seed)
    ids: list[int] = []
    kinds: list[int] = []
    videos: list[Video] = []
    images: list[Video] = []
    shown: list[Video] = []

    def text(*tokens: int, count: int = 0) -> None:
        ids.extend([*torch.randint(len(SPECIAL), VOCABULARY, (count,), generator=generator).tolist(), *tokens])
        kinds.extend([0] * (count + len(tokens)))

    def run(token: int, modality: int, count: int) -> None:
        text(START)
        ids.extend([token] * count)
        kinds.extend([modality] * count)
        text(END)

    for part in parts:
        if isinstance(part, int):
            text(count=part)
        elif isinstance(part, str):
            frames = _frames((1,), 50 + seed + 10 * len(images))
            images.append(kind.image(frames, seed + len(images)) if kind.image else kind.video(frames))
            shown.append(images[-1])
            run(IMAGE, 1, images[-1].tokens)
        else:
            video = kind.video(_frames(part, seed + len(videos)))
            videos.append(video)
            shown.append(video)
            for _ in range(video.frames if kind.between else 1):
                text(count=kind.between)
                run(kind.placeholder, 2, video.cells if kind.between else video.tokens)
    return VideoPrompt(family, torch.tensor(ids), torch.tensor(kinds), videos, images, shown)


def make_inputs(*prompts: VideoPrompt) -> dict[str, Any]:
    """What the family's own processor would hand to `generate` for a left-padded batch of these prompts."""
    kind = FAMILIES[prompts[0].family]
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), PAD)
    kinds, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt.ids
        kinds[row, length - len(prompt) :] = prompt.kinds
        mask[row, length - len(prompt) :] = 1
    rows = [prompt.shown if kind.attach else prompt.videos for prompt in prompts]  # frames are images to some families
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if kind.kinds:
        inputs["mm_token_type_ids"] = kinds
    images = [image for prompt in prompts for image in prompt.images]
    if images and kind.images is not None:
        inputs |= kind.images(images)
    return inputs | (kind.inputs(rows) if any(rows) else {})
