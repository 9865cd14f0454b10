# SPDX-License-Identifier: Apache-2.0
"""Training only: batches of fresh clips, the losses, the optimisers and the learning rate.

Two phases: first the vision tower alone, whose every token must name the colour and shape words of what it shows
(through the language model's own embedding table); then everything end to end on packed questions.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from prunevid.builtin.clips import SyntheticClip, make_clip
from prunevid.builtin.labels import CLASSES, NAMES, NONE, SIDE, token_labels
from prunevid.builtin.model import vocabulary
from prunevid.builtin.packing import (
    FIRST_VISUAL,
    GRID,
    PREFIX,
    VISUAL,
    Packed,
    pack,
    packed_states,
    patches,
    visual_features,
)
from prunevid.builtin.questions import CORNERS, Question
from prunevid.builtin.scenes import COLORS, SHAPES

EARLY, MIDDLE, LATE = 3, 5, 8
"""Hidden states (0: the embeddings) that the auxiliary losses look at: where a token is, what happens to it, and what a
name in a question calls up. The last is late, so that looking up is spread over the first two thirds of the layers."""
_IDS = vocabulary()
COLOR_IDS = [_IDS[word] for word in COLORS]
SHAPE_IDS = [_IDS[word] for word in SHAPES]
CORNER_IDS = [_IDS[word] for word in CORNERS]
_PLACE = torch.arange(SIDE)
_ROW, _COLUMN = torch.meshgrid(_PLACE, _PLACE, indexing="ij")
_BETWEEN = (_ROW * 2 == SIDE - 1) | (_COLUMN * 2 == SIDE - 1)
# Which corner word fits each visual token: rotary positions are relative, so a token must work out where it is.
_CORNER = (2 * (_ROW * 2 > SIDE - 1).long() + (_COLUMN * 2 > SIDE - 1).long()).masked_fill(_BETWEEN, NONE)
_CORNERS = _CORNER.flatten().repeat(VISUAL // SIDE**2)


@dataclass
class Batch:
    """Pixels as flat patches, token labels (B, 6, VISUAL), the packed questions, and for the words in them that name a
    thing (2, N): where they are in the flattened sequence, and the id of the thing's other word."""

    clips: int
    pixels: Tensor
    labels: Tensor
    questions: list[list[Question]]
    packed: Packed
    named: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("pixels", "labels", "named")}
        return dataclasses.replace(self, **moved, packed=self.packed.to(device))


def make_batch(first: int, clips: int, split: str, questions: int, *, augment: bool) -> Batch:
    """Clips `first` ... `first + clips - 1` of a split with up to that many questions each, the same every time."""
    made = [make_clip(seed, split, questions=questions) for seed in range(first, first + clips)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in made])).permute(0, 1, 4, 2, 3).float().div_(255.0)
    if augment:
        frames = _augment(frames, np.random.default_rng([7, first]))
    labels = torch.from_numpy(np.stack([token_labels(clip) for clip in made]))
    asked = [clip.questions for clip in made]
    packed = pack(asked)
    pixels = patches((frames - 0.5) / 0.5)
    return Batch(clips, pixels, labels, asked, packed, _named(made, packed))


def _named(clips: list[SyntheticClip], packed: Packed) -> Tensor:
    """Positions and targets of the look-up loss: a shape word must call up the colour of the one thing of that shape, a
    colour word the shape of the one thing of that colour."""
    found: list[tuple[int, int]] = []
    pairs = [(clip.plan, question) for clip in clips for question in clip.questions]
    for (plan, question), start in zip(pairs, packed.starts.tolist(), strict=True):
        for place, word in enumerate(question.text.replace("?", " ?").split()):
            other: list[str | None] = []
            if word in SHAPES:
                other = [None if t.color_after else t.color for t in plan.things if t.shape == word]
            elif word in COLORS:
                other = [t.shape for t in plan.things if word in t.all_colors()]
            if len(other) == 1 and other[0] is not None:
                found.append((start + place, _IDS[other[0]]))
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2).T


def _augment(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """What a video file does to a clip, per clip at random: blur or ringing, colour gains and offsets, noise."""
    batch, _, channels, _, _ = frames.shape
    soft = torch.from_numpy(rng.uniform(-0.04, 0.13, size=(batch, 1, 1, 1, 1)).astype(np.float32))
    blurred = frames.clone()
    for dim in (3, 4):
        ahead, behind = blurred.roll(1, dim), blurred.roll(-1, dim)
        blurred = blurred + soft * (ahead + behind - 2 * blurred)

    gain = torch.from_numpy(rng.uniform(0.94, 1.06, size=(batch, 1, channels, 1, 1)).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-0.025, 0.025, size=(batch, 1, channels, 1, 1)).astype(np.float32))
    noise = np.frombuffer(rng.bytes(blurred.numel()), np.uint8).reshape(blurred.shape)
    strength = torch.from_numpy(rng.uniform(0.0, 0.03, size=(batch, 1, 1, 1, 1)).astype(np.float32))
    grain = (torch.from_numpy(noise.copy()).float() / 127.5 - 1.0) * strength
    return (blurred * gain + offset + grain).clamp_(0.0, 1.0)


class Heads(nn.Module):
    """Throw-away linear heads of the auxiliary losses: on the visual features, and on states of the decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict({name: nn.Linear(width, CLASSES[name]) for name in ("size", "motion")})
        self.states = nn.ModuleDict({name: nn.Linear(width, CLASSES[name]) for name in ("event", "motion", "scene")})


def _unit(states: Tensor) -> Tensor:
    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=NONE)


def _word_loss(states: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """Colour and shape words of the tokens that show a thing, through the embedding table."""
    seen = labels[:, 0].flatten() != NONE
    found = states.flatten(0, 1)[seen]
    color = F.cross_entropy(found @ table[COLOR_IDS].T, labels[:, 0].flatten()[seen])
    shape = F.cross_entropy(found @ table[SHAPE_IDS].T, labels[:, 1].flatten()[seen])
    return color + shape


def feature_loss(model: Qwen2_5_VLForConditionalGeneration, heads: Heads, features: Tensor, labels: Tensor) -> Tensor:
    """Dense loss of the vision tower: colour and shape word, size and motion of what a token shows."""
    states = _unit(features)
    loss = _word_loss(states, model.model.language_model.embed_tokens.weight, labels)
    for name, head in heads.features.items():
        loss = loss + _entropy(head(states), labels[:, NAMES.index(name)])
    return loss


def vision_loss(
    model: Qwen2_5_VLForConditionalGeneration, heads: Heads, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the first phase."""
    features = visual_features(model, batch.pixels, batch.clips)
    loss = feature_loss(model, heads, features, batch.labels)
    return loss, {"dense": loss.item()}


def answer_loss(
    model: Qwen2_5_VLForConditionalGeneration, heads: Heads, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the second phase: the answers, the end of the turn, and the auxiliary losses."""
    features = visual_features(model, batch.pixels, batch.clips)
    states = packed_states(model, features, batch.packed, every_layer=True)
    last = states[-1].flatten(0, 1)
    answers = F.cross_entropy(model.lm_head(last[batch.packed.asked[:, 0]]), batch.packed.wanted[:, 0])
    ends = F.cross_entropy(model.lm_head(last[batch.packed.asked[:, 1]]), batch.packed.wanted[:, 1])
    visual = slice(FIRST_VISUAL, FIRST_VISUAL + VISUAL)
    middle = _unit(states[MIDDLE][:, visual])
    table = model.model.language_model.embed_tokens.weight
    dense = feature_loss(model, heads, features, batch.labels)
    late = _word_loss(states[-1][:, visual], table, batch.labels)
    event = sum(
        (_entropy(head(middle), batch.labels[:, NAMES.index(name)]) for name, head in heads.states.items()),
        torch.zeros((), device=features.device),
    )
    places, others = batch.named
    called = _unit(states[LATE].flatten(0, 1)[places])
    named = F.cross_entropy(called @ table.T, others) if len(others) else answers.new_zeros(())
    corner = _entropy(
        _unit(states[EARLY][:, visual]) @ table[CORNER_IDS].T, _CORNERS.to(features.device).repeat(batch.clips, 1)
    )
    loss = answers + 0.1 * ends + 0.15 * dense + 0.1 * late + 0.15 * event + 0.3 * named + 0.1 * corner
    return loss, {
        "answer": answers.item(),
        "end": ends.item(),
        "dense": dense.item(),
        "late": late.item(),
        "event": event.item(),
        "named": named.item(),
        "corner": corner.item(),
    }


def optimizers(model: Qwen2_5_VLForConditionalGeneration, heads: Heads) -> dict[str, torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embeddings, the patch projection, biases, norms and the heads."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        hidden = weight.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if hidden else others).append(weight)
    return {
        "muon": torch.optim.Muon(matrices, lr=0.0, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW([*others, *heads.parameters()], lr=0.0, betas=(0.9, 0.98), weight_decay=0.01),
    }


def learning_rate(done: float, peak: float) -> float:
    """Rate at a share `done` (0 ... 1) of a phase: warm-up over 2 %, flat to 40 %, then linearly to zero."""
    return peak * max(0.0, min(1.0, done / 0.02 + 0.02, (1.0 - done) / 0.6))


def train_faster(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Same results, sooner; training only, for this instance.

    The vision blocks attend in one batched call (all chunks are equally long here) instead of one call for each chunk,
    patches are projected by a matrix product instead of a convolution, and the decoder does not compare the clip's rows
    with the questions behind them. Attention stays in float32 on a CPU, where its backward pass in bfloat16 is slow.
    """
    for block in model.model.visual.blocks:
        block.attn.forward = types.MethodType(_attend_in_chunks, block.attn)
    patch_embed = model.model.visual.patch_embed
    patch_embed.forward = types.MethodType(_project, patch_embed)
    AttentionInterface.register(_PACKED, _attend_packed)
    model.model.language_model.config._attn_implementation = _PACKED


_PACKED = "prunevid_packed_training"


def _attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Attention of (..., heads, rows, channels), in float32 on a CPU."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, **options)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), **options)


def _attend_in_chunks(self: Any, hidden_states: Tensor, position_embeddings: tuple, **_: object) -> Tensor:
    query, key, value = self.qkv(hidden_states).reshape(-1, 3, self.num_heads, self.head_dim).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    size = GRID[1] * GRID[2]
    parts = [x.reshape(-1, size, self.num_heads, self.head_dim).transpose(1, 2) for x in (query, key, value)]
    return self.proj(_attend(*parts).transpose(1, 2).reshape(hidden_states.shape[0], -1))


def _project(self: Any, patches: Tensor) -> Tensor:
    return F.linear(patches.flatten(1), self.proj.weight.flatten(1))


def _attend_packed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Rows of the shared prefix see the prefix only, causally; the others see what the packed mask lets them see."""
    end, scale = len(PREFIX), options["scaling"]
    shared = _attend(
        query[:, :, :end], key[:, :, :end], value[:, :, :end], is_causal=True, scale=scale, enable_gqa=True
    )
    rest = _attend(query[:, :, end:], key, value, attn_mask=attention_mask[:, :, end:], scale=scale, enable_gqa=True)
    return torch.cat([shared, rest], dim=2).transpose(1, 2).contiguous(), None


@torch.no_grad()
def packed_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, first: int, clips: int, split: str = "dev"
) -> tuple[float, dict[str, float]]:
    """Share of right answers over all questions, and for each kind (what training looks at while it runs)."""
    right: dict[str, list[bool]] = {}
    for start in range(first, first + clips, 8):
        batch = make_batch(start, min(8, first + clips - start), split, 18, augment=False).to(model.device)
        features = visual_features(model, batch.pixels, batch.clips)
        last = packed_states(model, features, batch.packed)[-1].flatten(0, 1)
        said = model.lm_head(last[batch.packed.asked[:, 0]]).argmax(-1)
        hits = (said == batch.packed.wanted[:, 0]).tolist()
        for question, hit in zip([q for row in batch.questions for q in row], hits, strict=True):
            right.setdefault(question.kind, []).append(hit)
    every = [hit for hits in right.values() for hit in hits]
    return sum(every) / len(every), {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}
