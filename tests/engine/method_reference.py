# SPDX-License-Identifier: Apache-2.0
"""An independent forward pass for any method: nothing is dropped, masks hide what the token maps say is gone.

One row, no cache, the plain decoder layers in a hand-written loop, as in `masked_reference`. What the method decided is
taken from `Pruning.maps`; what follows from it for the logits is computed here:
- the merge: a token's feature stands at its representative's place; where the method takes plain means these are
  computed from the assignment, otherwise the recorded features are used;
- each choice: the tokens that are gone are hidden from the next layer on, and the hidden state of a token that others
  join is the plain mean of all of them;
- in which layers generated tokens see the dropped ones; and where a method revises that at every token (DyCoke), which
  of the video's tokens each of them sees, from attention computed here.

Besides, it computes the scores that each choice should have been made by.
`shrunken_reference` does the same for methods that shrink the cache (LOOK-M), in plain loops over heads and tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.families import VideoPrompt, language_of
from engine.masked_reference import Layers, captured, spans_of
from prunevid import PruneVidConfig
from prunevid.engine import TokenMap
from prunevid.methods import Method


@dataclass
class Rows:
    """A prompt and the tokens after it, before the decoder, nothing dropped.

    hidden: (S, C) merged features in place; positions: (S,) or (3, S); seen: (S,) boolean, False for cells that stand
    for no merged token; places: of each video's merged tokens; deep: what is added after each of the first layers.
    """

    hidden: Tensor
    positions: Tensor
    seen: Tensor
    places: list[list[int]]
    deep: list[Tensor]


@dataclass
class MethodReference:
    """Logits (G + 1, vocabulary) of the prompt's last token and of each token after it; scores of each choice: by
    place, of the tokens that took part; shown: for each token after the prompt, the places of the video that later
    layers see, where a method revises that."""

    logits: Tensor
    scores: list[dict[int, float]] = field(default_factory=list)
    shown: list[set[int]] = field(default_factory=list)


@torch.no_grad()
def reference(
    plain: Any,
    prompt: VideoPrompt,
    new_ids: Tensor,
    method: Method,
    maps: Sequence[TokenMap],
    averages: bool,
    together: range = range(0),
) -> MethodReference:
    """Logits after the prompt and after each of `new_ids` (G,), which follow it (teacher forcing).

    Args:
        plain: the model, unattached and eager.
        prompt: the row.
        new_ids: tokens after it.
        method: with its layers filled in (`Pruning.method`).
        maps: of the row.
        averages: whether a merged token is the plain mean of its cells.
        together: which of the new tokens were given in one pass (a further turn), in which nothing is revised.
    """
    rows = rows_of(plain, prompt, new_ids, method, maps, averages)
    length = len(prompt)
    layers = Layers(plain, list(range(len(rows.hidden))), rows.positions, rows.deep)
    alive, found = _alive(rows, maps), MethodReference(torch.empty(0))
    state, step, shown = rows.hidden, 0, None
    for index in range(len(layers.layers)):
        later = alive[-1] if method.compresses_cache else alive[step]
        allowed = _allowed(alive[step], later, length)
        if shown is not None:
            allowed[length:] &= shown
        if index == method.revision_layer and rows.places:
            weights = attention(layers, index, state, allowed).mean(0)[length:]
            visual = [place for own in rows.places for place in own]
            shown, found.shown = _revised(weights, visual, alive[step], method, together)
        before = state
        state = layers.run(state, range(index, index + 1), _additive(allowed))
        if step < len(method.selection_layers) and index == method.selection_layers[step] and len(alive) > 1:
            weights = attention(layers, index, before, allowed)
            found.scores.append(_scores(weights, state, rows, alive[step], prompt, method))
            state = _joined(state, rows, maps, step)
            step += 1
    found.logits = plain.lm_head(language_of(plain).norm(state))[length - 1 :]
    return found


def attention(layers: Layers, index: int, state: Tensor, allowed: Tensor) -> Tensor:
    """(H, S, S) attention of one layer over the states that enter it."""
    module = layers.layers[index].self_attn
    queries, keys = _projected(layers, index, state)
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    logits = torch.einsum("ihd,jhd->hij", queries, keys) / module.head_dim**0.5
    return logits.masked_fill(~allowed, -math.inf).softmax(-1)


def recorded_scores(maps: Sequence[TokenMap], rows: Rows) -> dict[int, float]:
    """The scores in the token maps, by place."""
    found: dict[int, float] = {}
    for item, places in zip(maps, rows.places):
        if item.scores is not None:
            found |= dict(zip(places, item.scores.tolist()))
    return found


def _projected(layers: Layers, index: int, state: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (S, H, d) and keys (S, H_kv, d) of one layer, rotated."""
    layer = layers.layers[index]
    module, normed = layer.self_attn, layer.input_layernorm(state)
    queries, keys = (
        project(normed).view(len(state), -1, module.head_dim) for project in (module.q_proj, module.k_proj)
    )
    if hasattr(module, "q_norm"):
        queries, keys = module.q_norm(queries), module.k_norm(keys)
    return layers.rotate(queries), layers.rotate(keys)


def rows_of(
    plain: Any, prompt: VideoPrompt, new_ids: Tensor, method: Method, maps: Sequence[TokenMap], averages: bool
) -> Rows:
    hidden, positions, deep = captured(plain, prompt, new_ids)
    seen = torch.ones(len(hidden), dtype=torch.bool)
    places: list[list[int]] = []
    for (cells, _), item in zip(spans_of(prompt, PruneVidConfig()), maps):
        places.append(cells)
        if item.merged is None:
            continue
        assignment = item.merged.assignment.tolist()
        members = [[cells[i] for i, token in enumerate(assignment) if token == n] for n in range(item.tokens)]
        places[-1] = [cells[i] for i in item.merged.representative.tolist()]
        for added in [hidden, *deep]:
            means = torch.stack([added[own].mean(0) for own in members])
            added[places[-1]] = item.merged.features if added is hidden and not averages else means
        seen[cells] = False
        seen[places[-1]] = True
    if positions is None:  # one axis
        keep = method.position_scheme == "keep"
        positions = torch.arange(len(hidden)) if keep else (seen.long().cumsum(0) - 1).clamp(min=0)
    return Rows(hidden, positions, seen, places, deep)


def _alive(rows: Rows, maps: Sequence[TokenMap]) -> list[Tensor]:
    """(S,) boolean each: what can be seen before the first choice and after each."""
    alive = [rows.seen]
    for step in range(max((len(item.steps) for item in maps), default=0)):
        now = rows.seen.clone()
        for item, places in zip(maps, rows.places):
            own = item.steps[step].tolist()
            now[[place for i, place in enumerate(places) if own[i] != i]] = False
        alive.append(now)
    return alive


def _allowed(prompt_sees: Tensor, later_sees: Tensor, length: int) -> Tensor:
    """(S, S) boolean: causal, and only what the prompt's and the later rows may see."""
    allowed = torch.ones(len(prompt_sees), len(prompt_sees), dtype=torch.bool).tril()
    allowed[:length] &= prompt_sees
    allowed[length:] &= later_sees
    return allowed


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]


def _joined(state: Tensor, rows: Rows, maps: Sequence[TokenMap], step: int) -> Tensor:
    """The states in which each token that others join at a choice is the mean of them and its own."""
    joined = state.clone()
    for item, places in zip(maps, rows.places):
        target = item.steps[step].tolist()
        before = item.steps[step - 1].tolist() if step else range(len(target))
        for token, place in enumerate(places):
            members = [places[i] for i in range(len(target)) if before[i] == i and target[i] == token]
            if len(members) > 1:
                joined[place] = state[members].mean(0)
    return joined


def _scores(
    weights: Tensor, state: Tensor, rows: Rows, alive: Tensor, prompt: VideoPrompt, method: Method
) -> dict[int, float]:
    """What the prompt's last row pays to every visual token that is left, the mean over heads; with SparseVLM the mean
    over the text rows whose states resemble the video's more than those of other rows do."""
    visual = [place for places in rows.places for place in places if alive[place]]
    first = max(i for i, kind in enumerate(prompt.kinds.tolist()) if kind) + 1
    asking = [len(prompt) - 1]
    if "sparsevlm" in (method.name, *(part.name for part in getattr(method, "parts", ()))):
        text = list(range(first, len(prompt)))
        alike = [
            torch.softmax(torch.stack([state[i] @ state[row] for row in text]) / state.shape[1] ** 0.5, 0)
            for i in visual
        ]
        mean = torch.stack(alike).mean(0)
        asking = [row for row, value in zip(text, mean) if value > mean.mean()]
    return dict(zip(visual, weights[:, asking].mean((0, 1))[visual].tolist()))


def _revised(
    weights: Tensor, visual: list[int], seen: Tensor, method: Any, together: range
) -> tuple[Tensor, list[set[int]]]:
    """(G, S) boolean: what later layers show to each new token, token by token (DyCoke)."""
    method = next((part for part in getattr(method, "parts", ()) if part.revision_layer is not None), method)
    count = max(1, round((1 - method.p) * len(visual)))
    before: Tensor | None = None
    shown, found = set(visual), []
    for number, row in enumerate(weights):
        if number in together:
            found.append(set(visual))
            continue
        own = row[visual]
        turned = before is None or torch.cosine_similarity(own, before, dim=0) < method.turned
        if turned:
            shown = set(sorted(visual, key=lambda place, row=row: (-row[place], place))[:count])
        before = own
        found.append(shown)
    hidden = torch.ones(len(weights), len(seen), dtype=torch.bool)
    for row, own in zip(hidden, found):
        row[[place for place in visual if place not in own]] = False
    return hidden, found


# ---- caches that shrink ------------------------------------------------------------------------------------------


@torch.no_grad()
def shrunken_reference(
    plain: Any, prompt: VideoPrompt, new_ids: Tensor, method: Method, maps: Sequence[TokenMap], averages: bool
) -> MethodReference:
    """`reference` for LOOK-M: every head forgets by itself, the new tokens go on with what each head holds."""
    rows = rows_of(plain, prompt, new_ids, method, maps, averages)
    left = rows.seen.nonzero()[:, 0].tolist()
    length = sum(place < len(prompt) for place in left)
    layers = Layers(plain, left, rows.positions, [])
    video = {left.index(place): number for number, places in enumerate(rows.places) for place in places}
    quota = [min(len(own), method.cache_budget(item.layout.cells, len(own))) for own, item in zip(rows.places, maps)]
    lookm = next((part for part in getattr(method, "parts", ()) if part.shrinks_cache), method)
    state, causal = rows.hidden[left], torch.ones(len(left), len(left), dtype=torch.bool).tril()
    held: list[list[tuple[list[Tensor], list[Tensor]]]] = []
    prefilled = state[:length]
    whole = Layers(plain, left[:length], rows.positions, [])
    for index in range(len(layers.layers)):
        weights = attention(whole, index, prefilled, causal[:length, :length])
        _, keys = _projected(whole, index, prefilled)
        layer = layers.layers[index]
        values = layer.self_attn.v_proj(layer.input_layernorm(prefilled)).view(keys.shape)
        heads = weights.sum(1).unflatten(0, (keys.shape[1], -1)).mean(1)  # (H_kv, S)
        held.append(
            [
                _forget(keys[:, head], values[:, head], heads[head].tolist(), video, quota, lookm)
                for head in range(keys.shape[1])
            ]
        )
        prefilled = whole.run(prefilled, range(index, index + 1), _additive(causal[:length, :length]))
    states = [prefilled[-1]]
    for place in range(length, len(left)):
        states.append(_continue(layers, held, state[place], place))
    return MethodReference(plain.lm_head(language_of(plain).norm(torch.stack(states))))


def _forget(
    keys: Tensor, values: Tensor, scores: list[float], video: dict[int, int], quota: list[int], method: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of one head of one layer after the prompt, in the order of their places."""
    total = len(scores)
    kept = [place for place in range(total) if place not in video]
    for number, allowed in enumerate(quota):
        own = [place for place in video if video[place] == number]
        own.sort(
            key=lambda place: (place < total - method.recent, -scores[place] * (place < total - method.recent), place)
        )
        kept += own[:allowed]
    kept.sort()
    gone = sorted(set(range(total)) - set(kept))
    unit = torch.nn.functional.normalize(keys, dim=-1)
    joins = {place: _most_alike(unit, place, kept) for place in gone}
    mean = sum(value for value, _ in joins.values()) / max(1, len(joins))
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    near = {"pivotal": -2.0, "averaged": mean, "weighted": mean, "none": 2.0}[method.merge_by]
    for place in kept:
        own = [other for other in gone if joins[other][1] == place and joins[other][0] >= near]
        for states, result in zip((keys, values), found):
            parts = [states[place]]
            for other in own:
                if method.merge_by == "pivotal":
                    parts.append((states[other] + states[place]) / 2)
                else:
                    parts.append(states[other] * (joins[other][0] if method.merge_by == "weighted" else 1.0))
            result.append(torch.stack(parts).mean(0))
    return found


def _most_alike(unit: Tensor, place: int, kept: list[int]) -> tuple[float, int]:
    """The greatest cosine with a kept key, and whose."""
    best, which = (unit[kept] @ unit[place]).max(0)
    return float(best), kept[which]


def _continue(layers: Layers, held: list[list[tuple[list[Tensor], list[Tensor]]]], state: Tensor, place: int) -> Tensor:
    """The last hidden state of one new token, which every head's keys and values then hold too."""
    for index, layer in enumerate(layers.layers):
        module = layer.self_attn
        normed = layer.input_layernorm(state)
        queries, keys = (
            layers.rotate(project(normed).view(1, -1, module.head_dim).expand(len(layers.place), -1, -1))[place]
            for project in (module.q_proj, module.k_proj)
        )
        values = module.v_proj(normed).view(-1, module.head_dim)
        outputs = []
        for head, query in enumerate(queries):
            group = head * len(keys) // len(queries)
            own_keys, own_values = held[index][group]
            if head % (len(queries) // len(keys)) == 0:
                own_keys.append(keys[group])
                own_values.append(values[group])
            weights = torch.softmax(torch.stack(own_keys) @ query / module.head_dim**0.5, 0)
            outputs.append(weights @ torch.stack(own_values))
        state = state + module.o_proj(torch.cat(outputs))
        state = state + layer.mlp(layer.post_attention_layernorm(state))
    return state
