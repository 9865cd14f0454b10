# SPDX-License-Identifier: Apache-2.0
"""Stops an answer at a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopWords(StoppingCriteria):
    """Stops a row once one of the words is in its new text, in however many tokens; greedy decoding only.

    The prompt, in which the words may stand, is what is there when it is first asked; it begins anew with ids that do
    not go on from those that it saw last. (transformers'
    `stop_strings` takes no tokenizer that can't spell.)

    Args:
        tokenizer: decodes the new tokens.
        words: that stop.
    """

    def __init__(self, tokenizer: Any, words: Sequence[str]) -> None:
        self.tokenizer, self.words = tokenizer, tuple(words)
        self._seen: Tensor | None = None
        self._prompt = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,) boolean: which rows of (B, L) ids end now."""
        seen, before = self._seen, input_ids[:, :-1]
        if seen is None or seen.shape != before.shape or not torch.equal(seen, before):
            self._prompt = before.shape[1]
        self._seen = input_ids
        texts = self.tokenizer.batch_decode(input_ids[:, self._prompt :], skip_special_tokens=True)
        done = [any(word in text for word in self.words) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
