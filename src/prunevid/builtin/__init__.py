# SPDX-License-Identifier: Apache-2.0
"""The embedded model: a small, really trained video language model with its own clips and questions.

It ships inside the package so that a machine without network or GPU can answer questions about a clip file, with and
without pruning. `weights/MODEL_CARD.md` says what it was trained on, how well it does and where it ends.
"""

from __future__ import annotations

from prunevid.builtin.clips import SyntheticClip, make_clip, write_clip
from prunevid.builtin.model import ANSWER_TOKENS, DEFAULTS, load
from prunevid.builtin.questions import KINDS, Question
from prunevid.builtin.scenes import FPS, FRAMES, SIZE

__all__ = [
    "ANSWER_TOKENS",
    "DEFAULTS",
    "FPS",
    "FRAMES",
    "KINDS",
    "SIZE",
    "Question",
    "SyntheticClip",
    "load",
    "make_clip",
    "write_clip",
]
