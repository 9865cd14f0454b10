# SPDX-License-Identifier: Apache-2.0
"""Puts all questions about one clip to a model at once, pruned by any method, the clip encoded once.

A batch holds a row for each question. The vision tower runs once for the clip; what it made is handed to every row, and
the engine takes the rows for repetitions of one prompt's video, so that a merge runs once, too. The logits are those of
one forward pass of the model's own code, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from prunevid.bench.accuracy.early import EarlyLayers
from prunevid.engine import Pruning, attach
from prunevid.engine.record import Encodings
from prunevid.generation import input_device
from prunevid.methods import Method
from prunevid.models import adapter_for, base_of
from prunevid.prompting import Prompter, VideoPrompt, truncates_seconds
from prunevid.video import load_clip

_PIXELS, _GRID, _ENCODE = "pixel_values_videos", "video_grid_thw", "get_video_features"
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


@dataclass(frozen=True)
class Asked:
    """What one pass over all questions of a clip gave.

    Attributes:
        logits: (B, V) float32, of the token after each prompt.
        kept: share of the visual tokens that is left in the end, the mean over the questions.
        flops: share of the unpruned prefill's FLOPs, counted layer by layer (`prunevid.stats`), likewise.
        scores: of each row the scores of the first choice, (n,) float32; empty where no choice was made by scores.
        tokens: visual tokens left of each row.
    """

    logits: Tensor
    kept: float
    flops: float
    scores: list[Tensor]
    tokens: list[int]


class Sheet:
    """Questions about one clip, a row of a batch each, ready to be put many times.

    Args:
        model, processor: of a family that is given its videos as videos, such as the embedded model.
        frames: (T, H, W, 3) uint8.
        fps: frames a second.
        texts: the questions.
    """

    def __init__(self, model: Any, processor: Any, frames: np.ndarray, fps: float, texts: Sequence[str]) -> None:
        self.model, self.base = model, base_of(model)
        self.rows = len(texts)
        prompter = Prompter(processor, input_device(model), model.dtype, truncates_seconds(self.base))
        prompt = VideoPrompt(prompter, load_clip(frames, max_frames=len(frames), source_fps=fps))
        self.inputs = side_by_side([prompt.encode(text) for text in texts], processor.tokenizer.pad_token_id)
        self._encodings = Encodings(keep_merged=False)
        self.early = EarlyLayers(adapter_for(model).language_model(self.base).layers)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Steps, rows and columns of the clip's visual tokens."""
        steps, height, width = self.inputs["video_grid_thw"][0].tolist()
        merge = int(self.base.config.vision_config.spatial_merge_size)
        return steps, height // merge, width // merge

    @property
    def depth(self) -> int:
        """Decoder layers of the model."""
        return len(adapter_for(self.model).language_model(self.base).layers)

    @torch.inference_mode()
    def features(self) -> Tensor:
        """(cells, C): what the vision tower makes of the clip, as the language model is given it."""
        with attach(self.model, "none") as pruning, pruning.reuse(self._encodings):
            output = getattr(self.base, _ENCODE)(self.inputs[_PIXELS], self.inputs[_GRID][:1])
        return torch.cat(list(output.pooler_output))

    @torch.inference_mode()
    def unpruned(self) -> Tensor:
        """(B, V) float32: the logits of the model as it is, with nothing attached."""
        known = self.features()
        with _spread(self.base, self.rows, known):
            return self._logits()

    @torch.inference_mode()
    def ask(self, method: Method) -> Asked:
        """All questions, pruned by a method."""
        with (
            attach(self.model, method) as pruning,
            pruning.reuse(self._encodings),
            _spread(self.base, self.rows),
            self.early.shared(pruning.method),
        ):
            logits = self._logits()
            return _read(pruning, logits)

    def row(self, number: int) -> Sheet:
        """One of the questions alone, about the same encoded clip."""
        other = copy.copy(self)
        other.rows = 1
        other.early = EarlyLayers(adapter_for(self.model).language_model(self.base).layers)
        alone = slice(number, number + 1)
        visible = self.inputs["attention_mask"][number].bool()
        other.inputs = {
            name: value[alone, visible] if name in _PER_TOKEN else value if name == _PIXELS else value[alone]
            for name, value in self.inputs.items()
        }
        return other

    def _logits(self) -> Tensor:
        out = self.model(**self.inputs, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].float()


def side_by_side(prompts: Sequence[dict[str, Any]], padding: int) -> dict[str, Any]:
    """Prompts about one clip as one batch, padded on the left; the pixels stand in it once.

    Args:
        prompts: of `VideoPrompt.encode`, each a batch of one.
        padding: id of the padding token.
    """
    length = max(prompt["input_ids"].shape[1] for prompt in prompts)
    joined: dict[str, Any] = {}
    for name, first in prompts[0].items():
        if name in _PER_TOKEN:
            fill = padding if name == "input_ids" else 0
            parts = [prompt[name] for prompt in prompts]
            joined[name] = torch.cat([pad(part, (length - part.shape[1], 0), value=fill) for part in parts])
        elif name == _PIXELS:
            joined[name] = first
        else:
            joined[name] = torch.cat([prompt[name] for prompt in prompts])
    return joined


@contextmanager
def _spread(base: Any, rows: int, features: Tensor | None = None) -> Iterator[None]:
    """In its block the model shows one clip, which it is given once, to every row of a batch.

    Args:
        base: the module that encodes videos, pruned or not.
        rows: of the batch.
        features: (cells, C) to be shown; None: what the module makes of the clip.
    """
    own = base.__dict__.get(_ENCODE)
    encode = getattr(base, _ENCODE)

    def spread(pixel_values_videos: Tensor, video_grid_thw: Tensor, **more: Any) -> Any:
        if features is not None:
            return SimpleNamespace(pooler_output=(features,) * rows)
        output = copy.copy(encode(pixel_values_videos, video_grid_thw[:1], **more))
        output.pooler_output = (torch.cat(list(output.pooler_output)),) * rows
        return output

    base.__dict__[_ENCODE] = spread
    try:
        yield
    finally:
        if own is None:
            del base.__dict__[_ENCODE]
        else:
            base.__dict__[_ENCODE] = own


def _read(pruning: Pruning, logits: Tensor) -> Asked:
    """What is kept of a pass."""
    rows = pruning.stats
    scores = [
        maps[0].step_scores[0].float()
        for maps in pruning.maps
        if maps[0].step_scores and maps[0].step_scores[0] is not None
    ]
    return Asked(
        logits=logits,
        kept=sum(row["total"]["retained_ratio"] for row in rows) / len(rows),
        flops=sum(row["total"]["flops_ratio"] for row in rows) / len(rows),
        scores=scores,
        tokens=[row["stage2"]["compressed_tokens"] for row in rows],
    )
