# SPDX-License-Identifier: Apache-2.0
"""Tiny random Qwen2-VL and Qwen2.5-VL models, and prompts for them built by hand from token ids and pixels.

The weights are scaled so that logits have a standard deviation of about 1 and attention is far from uniform.
The clips have scenes: in each scene some cells keep their pixels (up to a little noise) and the others change
in every frame, so that the merge before the language model really finds scenes, static and dynamic tokens.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

PAD, EOS, START, END, IMAGE, VIDEO = range(6)
SPECIAL = [PAD, EOS, START, END, IMAGE, VIDEO]
VOCABULARY = 120
LAYERS = 4
PATCH = 4
CELL_VALUES = 4 * 3 * 2 * PATCH * PATCH  # one token = 2 x 2 patches of 3 channels x 2 frames x PATCH x PATCH
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
KERNELS = ("sdpa", "eager")
TAU = {"qwen2_vl": 0.96, "qwen2_5_vl": 0.65}  # between the still and the changing cells of `make_clip`

_TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=PAD,
)
_IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END)
_VISION = dict(depth=2, num_heads=2, in_channels=3, patch_size=PATCH, spatial_merge_size=2, temporal_patch_size=2)


@functools.cache
def _built(family: str, kernel: str, layers: int) -> Any:
    text = _TEXT | {"num_hidden_layers": layers}
    if family == "qwen2_vl":
        vision: dict[str, Any] = _VISION | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        config: Any = Qwen2VLConfig(text_config=text, vision_config=vision, **_IDS)
        cls: Any = Qwen2VLForConditionalGeneration
    else:
        vision = _VISION | {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 1}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_IDS)
        cls = Qwen2_5_VLForConditionalGeneration
    config._attn_implementation = kernel
    model = cls(config).eval().requires_grad_(False)
    scale_weights(model)
    model.generation_config.suppress_tokens = list(SPECIAL)
    model.generation_config.pad_token_id = PAD
    return model


def scale_weights(model: Any) -> None:
    """Draws every weight anew: unit-variance outputs, sharper queries and keys, biases that are not zero."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.copy_(1 + 0.1 * noise if "norm" in name.lower() or "ln_q" in name else 0.1 * noise)
        elif "embed_tokens" in name:
            weight.copy_(noise)
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            inputs = weight.shape[-1] if "experts" in name else weight[0].numel()
            weight.copy_(gain * noise / inputs**0.5)


def build(family: str, kernel: str = "sdpa", layers: int = LAYERS) -> Any:
    """A fresh copy of the tiny model of a family: float32, evaluation mode, the same weights every time."""
    return copy.deepcopy(_built(family, kernel, layers))


@dataclass(frozen=True)
class Clip:
    """Pixels of one video or image in the model's own order.

    pixels: (grid_t * grid_h * grid_w, 96) float32; grid: (3,) patches in time, height and width;
    seconds: time between two temporal patches (other than 1 only for Qwen2.5-VL).
    """

    pixels: Tensor
    grid: Tensor
    seconds: float = 1.0

    @property
    def frames(self) -> int:
        return int(self.grid[0])

    @property
    def cells(self) -> int:
        """Tokens a frame."""
        return int(self.grid[1] * self.grid[2]) // 4


def make_clip(
    scenes: Sequence[int] = (3, 3),
    size: tuple[int, int] = (6, 6),
    static_share: float = 0.5,
    seed: int = 0,
    noise: float = 0.02,
    seconds: float = 1.0,
) -> Clip:
    """A clip of `scenes` (frames of each scene) over `size` = (rows, columns) of tokens.

    In each scene the first `static_share` of a random order of the cells stands still, up to `noise`.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = size[0] * size[1]
    frames = []
    for length in scenes:
        still = torch.randperm(cells, generator=generator)[: round(static_share * cells)]
        base = torch.randn(cells, CELL_VALUES, generator=generator)
        for _ in range(length):
            frame = torch.randn(cells, CELL_VALUES, generator=generator)
            frame[still] = base[still] + noise * frame[still]
            frames.append(frame)
    grid = torch.tensor([len(frames), 2 * size[0], 2 * size[1]])
    return Clip(torch.stack(frames).view(-1, CELL_VALUES // 4), grid, seconds)


def make_image(size: tuple[int, int] = (3, 4), seed: int = 0) -> Clip:
    """A still image of (rows, columns) tokens."""
    return make_clip((1,), size, 0.0, seed)


@dataclass(frozen=True)
class Prompt:
    """A row without padding: ids (L,), kinds (L,): 0 text, 1 image, 2 video; videos and images in order."""

    ids: Tensor
    kinds: Tensor
    videos: list[Clip] = field(default_factory=list)
    images: list[Clip] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def make_prompt(*parts: int | Clip | tuple[str, Clip], seed: int = 0) -> Prompt:
    """Joins text (a number of random tokens), videos (a `Clip`) and images (("image", Clip)) to a prompt."""
    generator = torch.Generator().manual_seed(1000 + seed)
    ids: list[int] = []
    kinds: list[int] = []
    videos, images = [], []
    for part in parts:
        if isinstance(part, int):
            ids += torch.randint(len(SPECIAL), VOCABULARY, (part,), generator=generator).tolist()
            kinds += [0] * part
            continue
        still = isinstance(part, tuple)
        clip = part[1] if still else part
        (images if still else videos).append(clip)
        count = clip.frames * clip.cells
        ids += [START] + [IMAGE if still else VIDEO] * count + [END]
        kinds += [0] + [1 if still else 2] * count + [0]
    return Prompt(torch.tensor(ids), torch.tensor(kinds), videos, images)


def make_inputs(*prompts: Prompt, pad_to: int = 0) -> dict[str, Tensor]:
    """What the model's own processor would hand to `generate` for a left-padded batch of these prompts."""
    length = max(pad_to, *(len(p) for p in prompts))
    ids = torch.full((len(prompts), length), PAD)
    kinds, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt.ids
        kinds[row, length - len(prompt) :] = prompt.kinds
        mask[row, length - len(prompt) :] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
    videos = [clip for prompt in prompts for clip in prompt.videos]
    images = [clip for prompt in prompts for clip in prompt.images]
    if videos:
        inputs["pixel_values_videos"] = torch.cat([clip.pixels for clip in videos])
        inputs["video_grid_thw"] = torch.stack([clip.grid for clip in videos])
        if any(clip.seconds != 1 for clip in videos):
            inputs["second_per_grid_ts"] = torch.tensor([clip.seconds for clip in videos])
    if images:
        inputs["pixel_values"] = torch.cat([clip.pixels for clip in images])
        inputs["image_grid_thw"] = torch.stack([clip.grid for clip in images])
    return inputs


def generate(model: Any, inputs: dict[str, Any], new_tokens: int = 4, **options: Any) -> Any:
    """`model.generate` with logits, greedy unless the options say otherwise."""
    settings: dict[str, Any] = dict(
        max_new_tokens=new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    with torch.no_grad():
        return model.generate(**inputs, **(settings | options))
