# SPDX-License-Identifier: Apache-2.0
"""What `torch.compile` needs: a prefill that it leaves alone, and hooks that it knows again.

`torch.compile` guards its graphs with the ids of the hooks that it has seen and with the thread-local state that they
read. Both would be new at every `attach`, and `VideoQA` attaches at every question; after a handful of compilations
torch gives up. So a model keeps them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def eagerly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which a compiler calls as it is (and with fullgraph=True refuses, naming this reason)."""
    reason = "a pruned prompt's first forward pass can't be compiled; compile only decoding, as generate does"
    return torch.compiler.disable(function, reason=reason)


@dataclass
class Kept:
    """What one model keeps through all its attachments: the state of its forward passes, and the ids of its hooks."""

    local: threading.local = field(default_factory=threading.local)
    ids: list[int] = field(default_factory=list)

    def renumber(self, handles: list[RemovableHandle]) -> None:
        """Gives hooks the ids that the hooks of the same number had at the first `attach`."""
        self.ids += [handle.id for handle in handles[len(self.ids) :]]
        for handle, known in zip(handles, self.ids):
            extra = handle.extra_dict_ref or ()
            for entries in (handle.hooks_dict_ref(), *(reference() for reference in extra)):
                if entries is not None and handle.id in entries:
                    entries[known] = entries.pop(handle.id)
            handle.id = known


_KEPT: weakref.WeakKeyDictionary[nn.Module, Kept] = weakref.WeakKeyDictionary()


def kept(base: nn.Module) -> Kept:
    """What this model keeps; made at first use, gone with the model."""
    return _KEPT.setdefault(base, Kept())
