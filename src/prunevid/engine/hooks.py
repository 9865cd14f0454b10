# SPDX-License-Identifier: Apache-2.0
"""Hooks that live for one forward pass of one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from prunevid.engine.compiled import eagerly


class OwnHooks:
    """Hooks that act only for the thread that made them, and go together."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.handles: list[Any] = []

    def add(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        """Registers a hook, which a compiler leaves alone.

        Args:
            register: one of a module's `register_..._hook` methods.
            hook: what to register.
            **options: of `register`.
        """

        def own(*args: Any) -> Any:
            return hook(*args) if threading.get_ident() == self.thread else None

        self.handles.append(register(eagerly(own), **options))

    def remove(self) -> None:
        """Removes every hook; safe to call twice."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
