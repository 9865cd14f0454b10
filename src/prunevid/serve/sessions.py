# SPDX-License-Identifier: Apache-2.0
"""Clips that were read once and are kept for follow-up questions: few, for a while, each for one client."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from prunevid.serve.refusals import unusable
from prunevid.video import Clip


@dataclass
class _Kept:
    client: str
    clip: Clip
    used: float


class Sessions:
    """Sampled clips by a key that can't be guessed.

    Args:
        most: clips that are kept; the one that was not used for longest goes first.
        seconds: for how long a clip is kept after its last use.
        now: a clock in seconds.
    """

    def __init__(self, most: int = 8, seconds: float = 1800.0, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._now = most, seconds, now
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            self._forget_old()
            return len(self._kept)

    def put(self, client: str, clip: Clip) -> str:
        """Keeps a clip of a client; returns its key."""
        key = secrets.token_urlsafe(24)
        with self._lock:
            self._forget_old()
            self._kept[key] = _Kept(client, clip, self._now())
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return key

    def get(self, client: str, key: str) -> Clip:
        """The clip of that key.

        Raises:
            Refusal: 422: there is none any more, or it is another client's.
        """
        with self._lock:
            self._forget_old()
            kept = self._kept.get(key)
            if kept is None or kept.client != client:
                raise unusable("This clip is no longer kept; send it again.", "unknown_session")
            kept.used = self._now()
            self._kept.move_to_end(key)
            return kept.clip

    def drop(self, client: str, key: str) -> None:
        """Forgets a clip of a client; nothing happens where there is none."""
        with self._lock:
            if key in self._kept and self._kept[key].client == client:
                del self._kept[key]

    def clear(self) -> None:
        """Forgets all."""
        with self._lock:
            self._kept.clear()

    def _forget_old(self) -> None:
        oldest = self._now() - self._seconds
        while self._kept and next(iter(self._kept.values())).used < oldest:
            self._kept.popitem(last=False)
