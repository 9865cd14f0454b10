# SPDX-License-Identifier: Apache-2.0
"""An independent forward pass in which nothing is dropped: masks hide what pruning would have dropped.

One row, no cache, no padding, the plain decoder layers in a hand-written loop:
- a merged token's feature stands at its representative's place with the representative's position, and an
  additive mask hides the video's other tokens from everybody (for the published order the video's tokens are
  permuted first: those that stand for a merged token in published order, then the hidden ones);
- after the chosen layer further masks hide what the question did not choose;
- with cache compression, rows after the prompt (generated tokens, second turns) see only chosen tokens in
  every layer, while the prompt's rows see all merged tokens up to the chosen layer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.families import FAMILIES, VideoPrompt, language_of, make_inputs
from engine.loop_merge import Token, merge
from engine.tiny import Prompt


@dataclass
class Reference:
    """What the reference saw.

    logits: (S, vocabulary) by original place; original, merged, kept: original places of the row's video
    tokens at first, after stage 1 and after stage 2, ascending; tokens, scenes: stage 1 of each video;
    scores: stage 2's score by place; entering: states that enter the chosen layer, (S, hidden) by place.
    """

    logits: Tensor
    original: list[int]
    merged: list[int]
    kept: list[int]
    tokens: list[list[Token]]
    scenes: list[list[int]]
    scores: dict[int, float]
    entering: Tensor | None = None


def plain_copy(model: Any) -> Any:
    """A copy of an unattached model that computes attention eagerly."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    return plain


@torch.no_grad()
def reference(
    plain: Any,
    prompt: Prompt | VideoPrompt,
    new_ids: Tensor,
    config: Any,
    order: str = "raster",
    counted: int | None = None,
    positions: Tensor | None = None,
    tail: Tensor | None = None,
) -> Reference:
    """Logits of the prompt and of `new_ids` (G,) after it (teacher forcing), masked as `config` says.

    order: "merged" (of cells that stand in one unbroken run; other cells keep their places) or "raster".
    counted: how many of the new tokens have positions that count on from the
    prompt's last one, as generation does step by step; the others have index + rope delta, as transformers
    numbers a second turn on a cache (the same, unless the clip is longer than it is wide and high).
    positions: (3, S) instead of those. tail: (G, hidden) embeddings of the new tokens where they are no text.
    """
    deep: list[Tensor] = []
    if isinstance(prompt, VideoPrompt):
        hidden, own, deep = captured(plain, prompt, new_ids)
    else:
        hidden, own = _embed(plain, prompt, new_ids, len(new_ids) if counted is None else counted)
    positions = own if positions is None else positions
    if tail is not None:
        hidden[len(prompt) :] = tail
    length, prompt_length = hidden.shape[0], len(prompt)
    spans = spans_of(prompt, config)
    place = list(range(length))  # place[i]: original index of the token in row i of the permuted sequence
    visible = [True] * length  # by original index
    groups: dict[int, tuple] = {}  # by original index of a merged token
    all_tokens, all_scenes = [], []
    for video, (cells, frames) in enumerate(spans):
        tokens, scenes = _stage1(hidden, deep, cells, frames, config)
        all_tokens.append(tokens)
        all_scenes.append(scenes)
        shown = [cells[token.representative] for token in tokens]
        rest = sorted(set(cells) - set(shown))
        for index in rest:
            visible[index] = False
        groups |= {index: (video, *token.group) for index, token in zip(shown, tokens)}
        if order == "merged" and cells[-1] - cells[0] + 1 == len(cells):
            place[cells[0] : cells[-1] + 1] = shown + rest
    seen = torch.tensor(visible)
    if positions is None and config.positions == "keep":  # one axis: nothing was dropped, so nothing moves
        positions = torch.arange(length)
    elif positions is None:  # one axis: the tokens that stage 1 leaves are counted anew
        positions = torch.zeros(length, dtype=torch.long)
        positions[place] = seen[place].long().cumsum(0) - 1
        positions = positions.clamp(min=0)
    layers = Layers(plain, place, positions, deep)
    state = hidden[place]
    original = [i for cells, _ in spans for i in cells]
    merged = sorted(groups)
    result = Reference(torch.empty(0), original, merged, merged, all_tokens, all_scenes, {})
    choosing = config.enable_stage2 and bool(groups)
    chosen_seen = seen
    if choosing:
        before = layers.run(state, range(config.pruning_layer), layers.mask(seen, seen, prompt_length))
        result.entering = torch.empty_like(before).index_copy_(0, torch.tensor(place), before)
        question = max(i for i, kind in enumerate(prompt.kinds.tolist()) if kind) + 1
        result.scores = layers.scores(before, config, seen, merged, range(question, prompt_length))
        ranked = result.scores
        if config.keep_rule == "peaks":
            chosen = range(config.pruning_layer, config.pruning_layer + 1)
            after = layers.run(before, chosen, layers.mask(seen, seen, prompt_length))
            ranked = peaks(ranked, {index: after[place.index(index)] for index in merged}, groups)
        result.kept = choose(ranked, groups, config)
        chosen_seen = seen.clone()
        chosen_seen[sorted(set(merged) - set(result.kept))] = False
    late = chosen_seen if config.enable_cache_compression else seen
    first = config.pruning_layer + 1 if choosing else len(layers.layers)
    state = layers.run(state, range(first), layers.mask(seen, late, prompt_length))
    everyone = layers.mask(chosen_seen, chosen_seen, prompt_length)
    state = layers.run(state, range(first, len(layers.layers)), everyone)
    logits = plain.lm_head(language_of(plain).norm(state))
    result.logits = torch.empty_like(logits).index_copy_(0, torch.tensor(place), logits)
    return result


def compare(
    plain: Any,
    prompts: Sequence[Prompt | VideoPrompt],
    out: Any,
    config: Any,
    order: str = "raster",
    atol: float = 1e-5,
) -> list[Reference]:
    """Asserts that every step's logits of a generated batch (left-padded, unexpanded) are the reference's."""
    width = max(len(prompt) for prompt in prompts)
    steps = torch.stack(out.logits, dim=1)
    found = []
    for row, prompt in enumerate(prompts):
        ref = reference(plain, prompt, out.sequences[row, width:], config, order)
        torch.testing.assert_close(steps[row], ref.logits[len(prompt) - 1 : -1], atol=atol, rtol=0)
        found.append(ref)
    return found


def peaks(scores: dict[int, float], states: dict[int, Tensor], groups: dict[int, tuple]) -> dict[int, float]:
    """Each score times the distance to the nearest token of the same video with a higher one."""
    found = {}
    for video in {group[0] for group in groups.values()}:
        own = [index for index in scores if groups[index][0] == video]
        mean = torch.stack([states[index] for index in own]).mean(0)
        for index in own:
            above = [other for other in own if (-scores[other], other) < (-scores[index], index)]
            unlike = [
                1 - float(torch.cosine_similarity(states[index] - mean, states[other] - mean, dim=0)) for other in above
            ]
            found[index] = scores[index] * min(unlike, default=2.0)
    return found


def choose(scores: dict[int, float], groups: dict[int, tuple], config: Any) -> list[int]:
    """The places that stay: the top int(keep_ratio * size) of each group, or of all together."""
    kept: list[int] = []
    names = sorted(set(groups.values())) if config.keep_scope == "group" else [None]
    for name in names:
        own = [index for index in groups if name is None or groups[index] == name]
        own.sort(key=lambda index: -scores[index])
        kept += own[: int(config.keep_ratio * len(own))]
    return sorted(kept)


def _stage1(
    hidden: Tensor, deep: list[Tensor], cells: list[int], frames: int, config: Any
) -> tuple[list[Token], list[int]]:
    """Merges one video in place (its representatives' rows take the merged features)."""
    each = len(cells) // frames
    if not config.enable_stage1:
        return [Token((i,), i, (i // each,)) for i in range(len(cells))], [1] * frames
    features, tokens, scenes = merge(
        hidden[cells].view(frames, each, -1),
        config.tau,
        config.cluster_ratio,
        config.temporal_segment_ratio,
        config.dpc_knn_k,
        config.static_position,
    )
    for added in deep:
        before = added[cells]
        for token in tokens:
            added[cells[token.representative]] = before[list(token.members)].mean(0)
    for token, feature in zip(tokens, features):
        hidden[cells[token.representative]] = feature
    return tokens, scenes


def spans_of(prompt: Prompt | VideoPrompt, config: Any) -> list[tuple[list[int], int]]:
    """(original places of the grid's cells, frames) of each video of the prompt, and of each image where the config
    says that it is one of one frame; in the order in which they stand."""
    spans = []
    for kind, clips in ((2, prompt.videos), (1, prompt.images if config.prune_images else [])):
        places, at = (prompt.kinds == kind).nonzero()[:, 0].tolist(), 0
        for clip in clips:
            if isinstance(prompt, VideoPrompt):
                grids, count = clip.grids(), clip.tokens
            else:
                count = clip.frames * clip.cells
                grids = [(list(range(count)), clip.frames)]
            spans += [([places[at + cell] for cell in cells], frames) for cells, frames in grids]
            at += count
    return sorted(spans)


class _Stop(Exception):
    pass


def captured(plain: Any, prompt: VideoPrompt, new_ids: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """What the plain model itself hands to its language model, continued by the new tokens.

    Returns:
        Embeddings (S, hidden); positions (3, S), or None where they just count the tokens; what is added after each of
        the first layers (S, hidden).
    """
    seen: dict[str, Any] = {}

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)
        raise _Stop

    handle = language_of(plain).register_forward_pre_hook(hook, with_kwargs=True)
    with contextlib.suppress(_Stop):
        plain.model(**make_inputs(prompt))
    handle.remove()
    tail = plain.get_input_embeddings()(new_ids)
    hidden = torch.cat([seen["inputs_embeds"][0], tail]).clone()
    deep = []
    for features in seen.get("deepstack_visual_embeds") or []:
        added = torch.zeros_like(hidden)
        added[: len(prompt)][seen["visual_pos_masks"][0]] = features
        deep.append(added)
    positions = seen.get("position_ids")
    if positions is None or positions.ndim < 3:
        three_axes = FAMILIES[prompt.family].kinds and not prompt.videos
        return hidden, torch.arange(len(hidden)).expand(3, -1) if three_axes else None, deep
    positions = positions[-3:, 0]
    steps = positions[0, -1] + 1 + torch.arange(len(new_ids))
    return hidden, torch.cat([positions, steps.expand(3, -1)], dim=-1), deep


def _embed(plain: Any, prompt: Prompt, new_ids: Tensor, counted: int) -> tuple[Tensor, Tensor]:
    """Input embeddings (S, hidden) with visual features in place, and positions (3, S)."""
    base = plain.model
    ids = torch.cat([prompt.ids, new_ids])
    hidden = base.get_input_embeddings()(ids).clone()
    grids = {}
    for kind, clips, encode in (
        (1, prompt.images, base.get_image_features),
        (2, prompt.videos, base.get_video_features),
    ):
        grids[kind] = torch.stack([clip.grid for clip in clips]) if clips else None
        if clips:
            pixels = torch.cat([clip.pixels for clip in clips])
            features = torch.cat(list(encode(pixels, grids[kind]).pooler_output))
            hidden[: len(prompt)][prompt.kinds == kind] = features
    if not prompt.videos and not prompt.images:
        return hidden, torch.arange(len(ids)).expand(3, -1)
    more = {"second_per_grid_ts": torch.tensor([clip.seconds for clip in prompt.videos])} if prompt.videos else {}
    if "second_per_grid_ts" not in base.get_rope_index.__code__.co_varnames:
        more = {}
    positions, deltas = base.get_rope_index(
        prompt.ids[None], prompt.kinds[None], image_grid_thw=grids[1], video_grid_thw=grids[2], **more
    )
    steps = torch.arange(len(new_ids))
    steps = steps + torch.where(steps < counted, positions[0, 0, -1] + 1, len(prompt) + deltas[0])
    return hidden, torch.cat([positions[:, 0], steps.expand(3, -1)], dim=-1)


class Layers:
    """The plain decoder layers over a permuted sequence with masks given by original index."""

    def __init__(self, plain: Any, place: list[int], positions: Tensor, deep: list[Tensor]) -> None:
        self.layers = language_of(plain).layers
        self.place = torch.tensor(place)
        self.deep = [added[self.place] for added in deep]
        anything = torch.zeros(1, len(place), 1)
        positions = positions[..., None, :][..., self.place]  # a batch of one row
        self.rope = language_of(plain).rotary_emb(anything, positions)

    def mask(self, prompt_sees: Tensor, later_sees: Tensor, prompt_length: int) -> Tensor:
        """Additive (1, 1, S, S): causal, and only what the prompt's and the later rows may see."""
        length = len(self.place)
        allowed = torch.ones(length, length, dtype=torch.bool).tril()
        allowed[:prompt_length] &= prompt_sees[self.place]
        allowed[prompt_length:] &= later_sees[self.place]
        return torch.zeros(length, length).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]

    def run(self, state: Tensor, which: range, mask: Tensor) -> Tensor:
        state = state[None]
        for index in which:
            state = self.layers[index](state, attention_mask=mask, position_embeddings=self.rope, position_ids=None)
            if index < len(self.deep):
                state = state + self.deep[index]
        return state[0]

    def scores(self, state: Tensor, config: Any, seen: Tensor, columns: list[int], question: range) -> dict[int, float]:
        """Stage 2's score of every merged token by original index; `state` enters the chosen layer."""
        layer = self.layers[config.pruning_layer]
        attention = layer.self_attn
        normed = layer.input_layernorm(state)
        size = attention.head_dim
        queries = attention.q_proj(normed).view(len(state), -1, size)
        keys = attention.k_proj(normed).view(len(state), -1, size)
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        if config.score_rope:
            queries, keys = self.rotate(queries), self.rotate(keys)
        place = self.place.tolist()
        visible = [i for i in range(len(place)) if seen[place[i]] and place[i] < question.stop]
        heads = queries.shape[1]
        rows = []
        for head in range(heads):
            own = keys[:, head * keys.shape[1] // heads]
            for row in question:  # text after the video keeps its place in any order
                usable = [i for i in visible if not config.score_causal or i <= row]
                weights = torch.softmax(own[usable] @ queries[row, head] / size**0.5, dim=0)
                found = dict(zip((place[i] for i in usable), weights.tolist()))
                rows.append([found.get(column, 0.0) for column in columns])
        table = torch.tensor(rows)
        best = table.amax(0) if config.attention_aggregation == "max" else table.mean(0)
        return dict(zip(columns, best.tolist()))

    def rotate(self, vectors: Tensor) -> Tensor:
        cos, sin = (part.view(len(self.place), 1, -1) for part in self.rope)
        left, right = vectors.chunk(2, dim=-1)
        return vectors * cos + torch.cat([-right, left], dim=-1) * sin
