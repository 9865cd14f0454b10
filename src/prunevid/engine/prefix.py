# SPDX-License-Identifier: Apache-2.0
"""What a prompt has in common with the next question about the same video, and one prefill that goes on from it.

Attention is causal, so nothing up to a prompt's last visual token depends on the question behind it, in the layers up
to the first choice inside the model. Their keys and values, and what comes out of the last of them, are held; a further
question runs its own tokens through these layers, and the kept sequence through the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunevid.engine import cache as caches
from prunevid.engine.record import Encoded, Encodings, tensors_in
from prunevid.methods.base import Method

if TYPE_CHECKING:
    from prunevid.engine.prefill import Prefill


@dataclass(frozen=True)
class Prefix:
    """The state of a prompt's first P tokens, of which n are left by stage 1; no tensor of it is ever written to.

    identity: of the encoded video (`Encoded.identity`).
    method: which pruned it.
    ids: (P,) int64 of the unpruned prompt.
    positions: (1, n) or (axes, 1, n), as the language model was given them.
    layers: keys and values (1, H_kv, n, d) of every layer up to the first choice, or of all without one.
    hidden: (1, n, C) after the layer of the first choice (a last layer's are normed); None without a choice.
    keys: (1, n, ...) of that layer before rotary embedding; None without a choice.
    tables: cosines and sines (1, n, d) of the rotary embedding; None without a choice.
    scores: (H_kv, n) float32 of every layer, the attention that these tokens paid to each other (`LayerCache.scores`);
        None unless the method shrinks the cache by it.
    """

    identity: object
    method: Method
    ids: Tensor
    positions: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    hidden: Tensor | None = None
    keys: Tensor | None = None
    tables: tuple[Tensor, Tensor] | None = None
    scores: tuple[Tensor, ...] | None = None


class Held:
    """What is held of one open video from one question to the next, within a bound.

    Args:
        most: bytes, at most; None: no bound. It holds between questions: while one is answered more may be in use.
        inputs: returns the model's inputs, which count too. Where there are any, a prefix is held of a video with
            pixels among them only.

    Attributes:
        encodings: the encoder's outputs.
        prefix: the newest prefix; None where there is none.
        reused: tokens of the unpruned prompt that the last prefill took from the prefix.
        reason: why the last prefill neither took nor left a prefix; None where it did.
        ahead: whether only the prefix of the next prefill is wanted, so that no visual token goes on behind it.
    """

    def __init__(self, most: int | None = None, inputs: Callable[[], Any] = tuple):
        self.encodings = Encodings()
        self.prefix: Prefix | None = None
        self.reused = 0
        self.reason: str | None = None
        self.ahead = False
        self._most, self._inputs = most, inputs

    def sizes(self) -> dict[str, int]:
        """Bytes of the storages behind everything held, each counted once: "inputs", "encoded" and "prefix"."""
        seen: set[int] = set()
        parts = {"inputs": self._inputs(), "encoded": list(self.encodings.contents()), "prefix": self.prefix}
        return {name: _storage_bytes(tensors_in(part), seen) for name, part in parts.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of everything held."""
        return sum(self.sizes().values())

    def keep(self, encoded: Encoded, size: int, make: Callable[[], Prefix]) -> None:
        """Holds a new prefix in the old one's place, if it fits.

        Args:
            encoded: the video.
            size: bytes that `make` takes.
        """
        pixels, inputs = self.encodings.pixels_of(encoded), list(tensors_in(self._inputs()))
        if inputs and not any(pixels is own for own in inputs):
            self.reason = "this transformers copies the pixels for beams and several sequences"
            return
        self.prefix = None
        held = self.nbytes
        if self._most is not None and held + size > self._most:
            self.reason = f"it would take {size} bytes beside {held}, above max_open_bytes {self._most}"
        else:
            self.prefix = make()

    def trim(self) -> None:
        """Forgets what does not fit: the prefix, then the oldest encoder outputs."""
        while self._most is not None and self.nbytes > self._most and (self.prefix is not None or self.encodings):
            if self.prefix is not None:
                self.prefix = None
            else:
                self.encodings.forget_oldest()

    def release(self) -> None:
        """Forgets everything."""
        self.prefix = None
        self.encodings.forget()
        self._inputs = tuple


class Sharing:
    """One prefill that goes on from a held prefix, or leaves one behind."""

    def __init__(self, prefill: Prefill, held: Held):
        self.prefill, self.held = prefill, held
        self.prefix: Prefix | None = None  # that this prefill goes on from
        self.tokens = 0  # n of the prefix after stage 1
        self.positions: Tensor | None = None  # of the whole sequence
        self.collected: list[tuple[Tensor, Tensor, Tensor]] = []  # of layers that forget: keys, values and scores
        held.reused, held.reason = 0, "the prompt's videos can't be told apart"

    def begin(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """After stage 1: the language model's arguments, for the tokens behind the prefix alone where one is held."""
        held, prefill = self.held, self.prefill
        held.reason = self._refusal()
        if held.reason is not None:
            return kwargs
        self.tokens = prefill.length - prefill.rows[0].after
        self.positions = prefill.positions(kwargs)
        known = held.prefix
        if known is None or not self._fits(known):
            return kwargs
        self.prefix, held.reused = known, len(known.ids)
        rows = len(prefill.rows)
        for index, states in enumerate(known.layers):
            prefill.cache.update(*(state.expand(rows, -1, -1, -1) for state in states), index)
        behind = {
            "inputs_embeds": kwargs["inputs_embeds"][:, self.tokens :],
            "position_ids": self.positions[..., self.tokens :],
            "attention_mask": None,  # no token is padding
        }
        return {**kwargs, **behind, **prefill.adapter.without_visual(kwargs)}

    def whole(self, name: str, behind: Tensor) -> Tensor:
        """(B, n + s, ...): what is held of the prefix ("hidden", "keys", "cos" or "sin") before what follows it."""
        if self.prefix is None:
            return behind
        cos, sin = self.prefix.tables or (None, None)
        held = {"hidden": self.prefix.hidden, "keys": self.prefix.keys, "cos": cos, "sin": sin}[name]
        if held is None:
            raise RuntimeError(f"The prefix holds no {name}.")
        return torch.cat([held.to(behind.device).expand(len(behind), *held.shape[1:]), behind], dim=1)

    @property
    def acts(self) -> bool:
        """Whether this prefill goes on from a prefix or leaves one."""
        return self.positions is not None

    def scores(self, index: int, device: torch.device) -> Tensor | None:
        """(H_kv, n) float32 that are held for a layer (`Prefix.scores`); None where nothing is."""
        held = self.prefix.scores if self.prefix is not None else None
        return None if held is None else held[index].to(device)

    def collect(self, keys: Tensor, values: Tensor, scores: Tensor) -> None:
        """Takes what the next layer holds of one row, (H_kv, S, d) each, before it forgets, and its prefix's scores."""
        if self.prefix is None:
            n = self.tokens
            self.collected.append((_copy(keys[None, :, :n]), _copy(values[None, :, :n]), scores))

    def leave(self, hidden: Tensor | None = None, states: dict[str, Tensor] | None = None) -> None:
        """Holds this prompt's prefix for the next question, unless it went on from a held one.

        Args:
            hidden, states: of the layer of the first choice; None without a choice, after all layers.
        """
        if self.prefix is not None or self.positions is None:
            return
        prefill, n = self.prefill, self.tokens
        ids, positions = prefill.ids[0, : prefill.border], self.positions.narrow(-2, 0, 1)[..., :n]
        layers, scores = self._layers(None if hidden is None else prefill.method.selection_layers[0] + 1)
        parts = {"hidden": hidden, **{name: (states or {}).get(name) for name in ("keys", "cos", "sin")}}
        cut = {name: part[:1, :n] for name, part in parts.items() if part is not None}
        every = [ids, positions, *scores, *cut.values(), *(state for pair in layers for state in pair)]
        encoded = prefill.encoded["video"]

        def make() -> Prefix:
            own = {name: _copy(part) for name, part in cut.items()}
            return Prefix(
                encoded.identity,
                prefill.method,
                _copy(ids),
                _copy(positions),
                tuple((_copy(keys), _copy(values)) for keys, values in layers),
                own.get("hidden"),
                own.get("keys"),
                (own["cos"], own["sin"]) if "cos" in own else None,
                tuple(scores) or None,
            )

        self.held.keep(encoded, sum(part.numel() * part.element_size() for part in every), make)

    def _layers(self, count: int | None) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Keys and values of the prefix in the first `count` layers (None: all); scores of layers that forget."""
        if self.collected:
            return [(keys, values) for keys, values, _ in self.collected], [scores for _, _, scores in self.collected]
        n, layers = self.tokens, self.prefill.cache.layers[:count]
        return [(layer.keys[:1, :, :n], layer.values[:1, :, :n]) for layer in layers], []

    def _refusal(self) -> str | None:
        """Why this prompt can neither use nor leave a prefix."""
        prefill = self.prefill
        if list(prefill.encoded) != ["video"] or bool(prefill.image_mask.any()):
            return "the prompt does not show one video alone"
        if prefill.encoded["video"].asked:
            return "the video's tokens depend on the question"
        if prefill.visible is not None or not bool((prefill.ids == prefill.ids[:1]).all()):
            return "the rows of the batch are not the same prompt"
        if not prefill.rows or prefill.rows[0].after == 0:
            return "nothing follows the video"
        if not caches.takes_prefix(prefill.cache):
            return f"a cache of type {type(prefill.cache).__name__} is not filled ahead"
        return None

    def _fits(self, known: Prefix) -> bool:
        """Whether a held prefix is this prompt's."""
        prefill, positions = self.prefill, self.positions
        ids = prefill.ids[0, : prefill.border]
        return (
            positions is not None
            and known.identity is prefill.encoded["video"].identity
            and known.method == prefill.method
            and torch.equal(known.ids, ids)
            and torch.equal(known.positions, positions.narrow(-2, 0, 1)[..., : self.tokens])
        )


def _copy(states: Tensor) -> Tensor:
    """The same numbers in a storage of their own, which holds nothing else."""
    return states.clone(memory_format=torch.contiguous_format)


def _storage_bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Bytes of the storages behind these tensors that were not seen before."""
    total = 0
    for storage in _storages(tensors):
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _storages(tensors: Iterable[Tensor]) -> Iterator[Any]:
    return (tensor.untyped_storage() for tensor in tensors)
