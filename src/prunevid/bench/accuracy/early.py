# SPDX-License-Identifier: Apache-2.0
"""Layers before a choice compute the same for every method that chooses after them: they are run once for a batch.

Later passes over the same batch are given what the layers returned and wrote into the cache, the very same tensors.
That keep-all equals the unpruned model, which never runs through this, is checked on every clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from prunevid.methods import Method


class EarlyLayers:
    """What decoder layers made of one batch.

    Args:
        layers: of the language model.
    """

    def __init__(self, layers: Any) -> None:
        self._layers = layers
        self._known: dict[int, tuple[Any, Tensor, Tensor]] = {}
        self.ran = 0
        """How often one of the layers was really run in the blocks of `shared`; for tests."""

    @contextmanager
    def shared(self, method: Method) -> Iterator[None]:
        """In its block, for one pass, the layers before the method's first choice are run only if they never were.

        A method that changes what these layers see, or looks at every layer, runs all of them.
        """
        apart = method.merges or method.shrinks_cache or method.revision_layer is not None
        count = 0 if apart or not method.selection_layers else method.selection_layers[0]
        chosen = list(self._layers)[:count]
        for index, layer in enumerate(chosen):
            layer.__dict__["forward"] = self._once(index, layer.forward)
        try:
            yield
        finally:
            for layer in chosen:
                del layer.__dict__["forward"]

    def _once(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward function of a layer that remembers."""

        def remembered(hidden_states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
            if index not in self._known:
                self.ran += 1
                output = forward(hidden_states, *args, past_key_values=past_key_values, **kwargs)
                held = past_key_values.layers[index]
                self._known[index] = output, held.keys, held.values
                return output
            output, keys, values = self._known[index]
            past_key_values.update(keys, values, index)
            return output

        return remembered
