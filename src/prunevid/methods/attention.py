# SPDX-License-Identifier: Apache-2.0
"""The ranking that FastV introduced, and that several methods share: what the prompt's last token attends to."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid.core import question_scores
from prunevid.methods.base import Attention


def last_row_attention(attention: Attention) -> Tensor:
    """How much the last question row attends to every visual token, as the mean over heads.

    Queries and keys carry their rotary embedding, and the softmax runs over all keys that the row may see (the
    prompt's last row sees all), in float32. Grouped-query attention is understood. One row of attention is computed.

    Args:
        attention: of the selection layer, with one question row at least.

    Returns:
        (n_visual,) float32, in sequence order.
    """
    queries, keys = attention.rotate()
    seen = torch.arange(keys.shape[1], device=keys.device) <= attention.rows[-1]
    return question_scores(queries[:, -1:], keys, attention.visual, "mean", key_mask=seen)
