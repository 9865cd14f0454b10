# SPDX-License-Identifier: Apache-2.0
"""The shapes of the embedded model and its clips, for tests that count tokens."""

from prunevid.builtin.model import build_config
from prunevid.builtin.packing import VISUAL
from prunevid.builtin.scenes import FRAMES, SIZE

STEPS = FRAMES // 2
SIDE = SIZE // 16
CELLS = SIDE * SIDE
LAYERS = build_config().text_config.num_hidden_layers

__all__ = ["CELLS", "FRAMES", "LAYERS", "SIDE", "SIZE", "STEPS", "VISUAL"]
