# SPDX-License-Identifier: Apache-2.0
"""The choices of one prefill: after each selection layer fewer visual tokens go on, and the cache follows.

What a method chooses by is seen by hooks on the selection layer; the shorter sequence is put in place by hooks on the
layers after it. All of them belong to one prefill of one thread and are gone when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunevid.engine import cache as caches
from prunevid.engine.hooks import OwnHooks
from prunevid.engine.masks import left_padding, prefill_mask
from prunevid.engine.record import RowRecord
from prunevid.engine.rows import Row
from prunevid.engine.timing import stopwatch
from prunevid.methods.base import Attention, Choice, Choosing

if TYPE_CHECKING:
    from prunevid.engine.prefill import Prefill


class Chooser:
    """Carries out a method's choices on the rows of one prefill."""

    def __init__(self, prefill: Prefill):
        self.prefill = prefill
        self.layers = prefill.language_model.layers
        self.waiting = list(prefill.method.selection_layers)  # the layers whose choice is still to be made
        self.step = 0
        self.hooks = OwnHooks()
        self.states: dict[str, Tensor] = {}
        self.tables: tuple[Tensor, ...] | None = None  # rotary tables of the shorter sequence
        self.late: dict[str, Any] | None = None  # what layers after the last choice are given
        self.owners = [_owners(row, record) for row, record in zip(prefill.rows, prefill.records)]

    def arm(self) -> None:
        """Puts the hooks in place."""
        for index in range(self.waiting[0] + 1, len(self.layers)):
            self.hooks.add(self.layers[index].register_forward_pre_hook, self._entering(index), with_kwargs=True)
        for layer in self.waiting:  # after the others, so that a second selection layer shows what it really runs with
            queries, keys = self.prefill.adapter.projections(self.layers[layer].self_attn)
            self.hooks.add(self.layers[layer].register_forward_pre_hook, self._see_layer, with_kwargs=True)
            self.hooks.add(queries.register_forward_hook, lambda module, args, output: self._see("queries", output))
            self.hooks.add(keys.register_forward_hook, lambda module, args, output: self._see("keys", output))

    def disarm(self) -> None:
        """Removes every hook; safe to call twice."""
        self.hooks.remove()
        self.states.clear()
        self.late = self.tables = None

    def finish(self, output: Any) -> None:
        """Makes the choice of a last layer, which only the cache and the records feel."""
        if self.waiting and self.states:
            hidden = getattr(output, "last_hidden_state", None)
            self._choose(self._whole("hidden", hidden if isinstance(hidden, Tensor) else output[0]))

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def _see_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, table in zip(("cos", "sin"), kwargs["position_embeddings"]):
            self.states[name] = self._whole(name, table)
        if self._goes_on:
            self.tables = self.states["cos"], self.states["sin"]
        if self.prefill.cache is None:
            self.prefill.cache = kwargs.get("past_key_values")
            caches.check_cache(self.prefill.cache)

    def _see(self, name: str, output: Tensor) -> None:
        # A copy of the question's queries, so that the whole of them need not stay in memory.
        rows = max(row.after for row in self.prefill.rows)
        asking = name == "queries"
        self.states[name] = output[:, output.shape[1] - rows :].clone() if asking else self._whole(name, output)

    @property
    def _goes_on(self) -> bool:
        """Whether the layers up to the first choice, which is not made yet, run what follows a held prefix alone."""
        sharing = self.prefill.sharing
        return sharing is not None and sharing.prefix is not None and self.step == 0

    def _whole(self, name: str, behind: Tensor) -> Tensor:
        """What the first choice sees, with what is held of the prompt's first tokens where these did not run again."""
        return self.prefill.sharing.whole(name, behind) if self._goes_on and self.prefill.sharing else behind

    def _entering(self, index: int) -> Callable[..., Any]:
        """The hook of layer `index`: makes a choice that is due, and gives the layer the shortened sequence."""

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if self.waiting and self.waiting[0] < index:
                with stopwatch(self.prefill.times, "choose", hidden.device, self.prefill.method.collect_stats):
                    places, hidden = self._choose(self._whole("hidden", hidden))
                    if places is not None:
                        hidden = hidden.gather(1, places.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))
                        self.late = self._late_arguments(hidden, places, kwargs)
            kwargs = {**kwargs, **(self.late or {})}
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        return enter

    def _late_arguments(self, hidden: Tensor, places: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask, rotary tables and positions of the shortened sequence, made once for all later layers."""
        tables = []
        for table in self.tables or kwargs["position_embeddings"]:
            where = places.to(table.device)[..., None].expand(-1, -1, table.shape[-1])
            tables.append(table.expand(places.shape[0], -1, -1).gather(1, where))
        self.tables = tuple(tables)
        cache, keys = self.prefill.cache, None
        if cache is not None and cache.layers and hasattr(cache.layers[0], "max_cache_len"):
            keys = cache.layers[0].max_cache_len
        late = {
            "position_embeddings": self.tables,
            "attention_mask": prefill_mask(self.prefill.language_model, hidden, self.prefill.visible, keys),
        }
        if kwargs.get("position_ids") is not None:
            late["position_ids"] = self.prefill.counted(places)
        return late

    # ---- choices -------------------------------------------------------------------------------------------------

    def _choose(self, hidden: Tensor) -> tuple[Tensor | None, Tensor]:
        """Makes the choice that is due, and reduces the cache and the records to it.

        Args:
            hidden: (B, n, C) after the selection layer.

        Returns:
            (B, n') int64 places that go on (padding points at place 0), or None where everything does; and the
            hidden states with merged tokens in place.
        """
        prefill, layer = self.prefill, self.waiting.pop(0)
        grows = self._goes_on  # the layers that follow run more tokens than those before
        if prefill.sharing is not None and self.step == 0:
            prefill.sharing.leave(hidden, self.states)
        kept, rows, changed = [], [], False
        for index, (row, record) in enumerate(zip(prefill.rows, prefill.records)):
            start = prefill.length - row.tokens
            places, merged = self._choose_row(row, record, index, layer, hidden[index, start:])
            rows.append(hidden[index] if merged is None else torch.cat([hidden[index, :start], merged]))
            changed = changed or merged is not None
            record.after_choices.append(len(places))
            kept.append(places)
        hidden = torch.stack(rows) if changed else hidden
        self.step += 1
        self.states.clear()
        if all(len(places) == row.tokens for places, row in zip(kept, prefill.rows)) and not grows:
            return None, hidden
        return self._shorten(kept, layer), hidden

    def _shorten(self, kept: list[Tensor], layer: int) -> Tensor:
        """Writes the new lengths into the prefill, and reduces the cache of the layers so far where that is asked."""
        prefill = self.prefill
        lengths = [len(places) for places in kept]
        old, before = prefill.length, (prefill.length, prefill.visible)
        prefill.length = max(lengths)
        prefill.visible = left_padding(lengths, prefill.length, kept[0].device)
        index = torch.zeros(len(kept), prefill.length, dtype=torch.long, device=kept[0].device)
        for number, (places, row) in enumerate(zip(kept, prefill.rows)):
            index[number, prefill.length - len(places) :] = places + (old - row.tokens)
            row.source = row.source[places]
        early, now = layer + 1, (prefill.length, prefill.visible)
        held = prefill.by_layer or [before] * len(self.layers)
        if prefill.method.compresses_cache:
            held = [now] * early
            for one in prefill.cache.layers[:early] if prefill.cache is not None else []:
                caches.gather_tokens(one, index)
        prefill.by_layer = [*held[:early], *[now] * (len(self.layers) - early)]
        return index

    def _choose_row(
        self, row: Row, record: RowRecord, index: int, layer: int, hidden: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(n',) int64 places of the row (padding left out) that go on, and its hidden states where tokens merged."""
        everything = torch.arange(row.tokens, device=row.source.device)
        if not record.maps or row.after == 0:
            return everything, None
        scene, video = self.owners[index]
        attention = self._attention(row, index, layer)
        cells = [item.tokens for item in record.maps]
        choosing = Choosing(
            attention=attention,
            step=self.step,
            group=row.group.to(attention.keys.device),
            scene=scene.to(attention.keys.device),
            video=video.to(attention.keys.device),
            cells=cells,
            quota=self._quota(record),
            hidden=hidden[row.visual.to(hidden.device)],
            text=hidden[len(hidden) - row.after :],
            row=index,
        )
        sharing = self.prefill.sharing
        ahead = sharing is not None and sharing.held.ahead
        choice = Choice(row.visual[:0]) if ahead else self.prefill.method.choose(choosing)
        kept = choice.kept.to(row.visual.device)
        target = choice.target
        merged = None if target is None else _join(hidden, row.visual.to(hidden.device), target.to(hidden.device))
        _remember(row, record, layer, choice, kept)
        dropped = torch.zeros(row.tokens, dtype=torch.bool, device=row.source.device)
        dropped[row.visual] = True
        dropped[row.visual[kept]] = False
        left = row.tokens - len(row.visual) + len(kept)  # known, so that nobody waits for the device
        places = dropped.sort(stable=True).indices[:left]
        row.visual = torch.searchsorted(places, row.visual[kept])
        row.order, row.group = row.order[kept], row.group[kept]
        self.owners[index] = scene[kept], video[kept]
        return places, merged

    def _quota(self, record: RowRecord) -> list[int] | None:
        """Tokens of each video that the budget leaves after this choice; None where no budget was given."""
        quotas = []
        for item in record.maps:
            split = self.prefill.method.split(item.layout.cells, item.layout.frames, len(self.layers))
            if split.chosen is None:
                return None
            quotas.append(split.chosen[self.step])
        return quotas

    def _attention(self, row: Row, index: int, layer: int) -> Attention:
        """What the method scores for one row: tensors of the selection layer without padding."""
        start = self.prefill.length - row.tokens
        attention = self.layers[layer].self_attn
        size = attention.head_dim
        keys = self.states["keys"][index, start:]
        queries = self.states["queries"][index, -row.after :]
        keys, queries = (x.reshape(x.shape[0], -1, size).transpose(0, 1) for x in (keys, queries))
        visual = torch.zeros(row.tokens, dtype=torch.bool, device=keys.device)
        visual[row.visual.to(keys.device)] = True
        tables = [
            table.expand(len(self.prefill.rows), -1, -1)[index, start:].to(keys.device)
            for table in (self.states["cos"], self.states["sin"])
        ]

        def rotate() -> tuple[Tensor, Tensor]:
            ends = [table[-row.after :] for table in tables]
            turn = self.prefill.adapter.rotate
            return turn(attention, queries, *ends), turn(attention, keys, *tables)

        rows = torch.arange(row.tokens - row.after, row.tokens, device=keys.device)
        return Attention(queries, keys, visual, rows, rotate)


def _owners(row: Row, record: RowRecord) -> tuple[Tensor, Tensor]:
    """(v,) int64 each: the scene (numbered through all videos) and the video of each of the row's visual tokens."""
    videos = [item.tokens for item in record.maps]
    scenes = [tokens for item in record.maps for tokens in item.scene_tokens]
    found = []
    for sizes in (scenes, videos):
        owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        found.append(owner.to(row.order.device)[row.order])
    return found[0], found[1]


def _join(hidden: Tensor, visual: Tensor, target: Tensor) -> Tensor:
    """(n, C) hidden states of a row in which each kept visual token is the mean of itself and those that join it."""
    states = hidden[visual].float()
    alive = target >= 0
    place = target.clamp(min=0)
    total = torch.zeros_like(states).index_add_(0, place[alive], states[alive])
    count = torch.bincount(place[alive], minlength=len(states))
    several = count > 1  # a token that nobody joins stays bit for bit
    joined = hidden.clone()
    joined[visual[several]] = (total[several] / count[several, None]).to(hidden.dtype)
    return joined


def _remember(row: Row, record: RowRecord, layer: int, choice: Choice, kept: Tensor) -> None:
    """Writes scores and choice into the token maps, in the numbering of each video's merged tokens."""
    device = row.order.device
    sizes = [item.tokens for item in record.maps]
    total = sum(sizes)
    place = torch.full((total,), -1, dtype=torch.long, device=device)
    place[row.order[kept]] = row.order[kept]
    if choice.target is not None:
        target = choice.target.to(device)
        alive = target >= 0
        place[row.order[alive]] = row.order[target[alive]]
    scores = None
    if choice.scores is not None:
        scores = torch.full((total,), float("-inf"), device=choice.scores.device)
        scores[row.order.to(scores.device)] = choice.scores.float()
    start = 0
    for item, size in zip(record.maps, sizes):
        own = place[start : start + size]
        rated = None if scores is None else scores[start : start + size]
        item.choose(layer, torch.where(own < 0, own, own - start), rated)
        start += size


def bands(by_layer: Iterable[tuple[int, Tensor | None]]) -> list[int]:
    """A number for each layer, equal for layers that hold the same tokens, 0 for those of the last layer."""
    layers = list(by_layer)
    known: list[tuple[int, Tensor | None]] = [layers[-1]]
    numbers = []
    for length, visible in layers:
        same = [i for i, (n, mask) in enumerate(known) if n == length and mask is visible]
        if not same:
            known.append((length, visible))
        numbers.append(same[0] if same else len(known) - 1)
    return numbers
