# SPDX-License-Identifier: Apache-2.0
"""What later layers see of the video while the answer is written: chosen anew by a method at every new token.

Nothing is taken from the cache. The layers after the chosen one are given a mask that hides what the method does not
show; transformers makes the attention kernel's own mask from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunevid.engine.masks import decode_mask, decode_padding
from prunevid.methods.base import Method
from prunevid.models.base import Adapter


class Reviser:
    """One new token of every row: sees what it attends to, and makes the mask of the later layers."""

    def __init__(self, method: Method, adapter: Adapter, language_model: Any, cache: Any, index: int):
        self.method, self.adapter, self.language_model = method, adapter, language_model
        self.held, self.later = cache.layers[index], cache.layers[index + 1]  # the later one has not seen the token yet
        self.attention = language_model.layers[index].self_attn
        self.queries: Tensor | None = None
        self.tables: tuple[Tensor, Tensor] | None = None
        self.made: Any = None

    def see_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the layer: its rotary tables."""
        self.tables = kwargs["position_embeddings"]

    def see_queries(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """After its projection of queries."""
        self.queries = output

    def mask(self, hidden: Tensor, given: Any) -> Any:
        """The mask of the layers after it, made once for all of them.

        Args:
            hidden: (B, 1, C).
            given: the language model's own `attention_mask`.
        """
        if self.made is None:
            shown, visual = self._shown(self.held.watch), self.held.watch["visual"]
            padding = decode_padding(self.later, given, 1)
            if padding is None:
                length = self.later.removed + self.later.physical_length() + 1
                padding = torch.ones(len(hidden), length, dtype=torch.bool, device=hidden.device)
            padding[:, self.later.removed :][:, : shown.shape[1]] &= (shown | ~visual).to(padding.device)
            self.made = (decode_mask(self.language_model, hidden, self.later, padding),)
        return self.made[0]

    def _shown(self, watch: dict[str, Tensor]) -> Tensor:
        """(B, P) boolean, and what the next token needs to know."""
        weights = self._attention()[:, : watch["visual"].shape[1]]
        before, shown = watch.get("attention"), watch.get("shown", torch.ones_like(watch["visual"]))
        rows = []
        for row, visual in enumerate(watch["visual"]):
            own = shown[row].clone()
            places = visual.nonzero()[:, 0]
            if len(places):
                earlier = None if before is None else before[row, places]
                own[places] = self.method.revise(weights[row, places], earlier, own[places])
            rows.append(own)
        watch["attention"], watch["shown"] = weights, torch.stack(rows)
        return watch["shown"]

    def _attention(self) -> Tensor:
        """(B, S) float32: what the new token pays to everything held, the mean over heads."""
        if self.queries is None or self.tables is None:
            raise RuntimeError("The layer did not show its queries.")
        keys = self.held.keys
        size = self.attention.head_dim
        cos, sin = self.tables
        found = []
        for row, own in enumerate(keys):
            queries = self.queries[row].reshape(1, -1, size).transpose(0, 1)
            tables = (table.expand(len(keys), -1, -1)[row] for table in (cos, sin))
            queries = self.adapter.rotate(self.attention, queries, *tables).float()
            queries = queries.unflatten(0, (len(own), -1)) * getattr(self.attention, "scaling", size**-0.5)
            logits = torch.matmul(queries, own.float().mT[:, None])
            if self.held.visible is not None:
                hidden = ~self.held.visible[row].to(logits.device)
                logits[..., : len(hidden)].masked_fill_(hidden, -torch.inf)
            found.append(logits.softmax(-1).mean((0, 1, 2)))
        return torch.stack(found)
