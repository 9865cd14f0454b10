# SPDX-License-Identifier: Apache-2.0
"""Carries a pruning method into a loaded model and out again."""

from __future__ import annotations

from prunevid.engine.attach import Pruning, attach
from prunevid.engine.prefix import Held
from prunevid.engine.record import Encodings, TokenMap

__all__ = ["Encodings", "Held", "Pruning", "TokenMap", "attach"]
