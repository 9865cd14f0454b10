# SPDX-License-Identifier: Apache-2.0
"""How HoliTom and FlashVID split a budget between their merge and their choice."""

from __future__ import annotations

import math

import pytest

from prunevid import methods
from prunevid.methods.budget import Split, mean_over_layers

NAMES = ["holitom", "flashvid"]


def test_as_published() -> None:
    """FlashVID's expansion is what makes its mean over 28 layers the budget: 1.25 * (20 + 0.3 * 8) / 28 = 1."""
    split = methods.get("flashvid", retention_ratio=0.25, average_over_layers=True).split(6272, 32, 28)
    assert split == Split(1960, (588,))  # 1.25 * 0.25 * 6272, and 0.3 of it
    assert mean_over_layers(1960, (588,), (19,), 28) == 1568
    assert methods.get("flashvid", retention_ratio=0.25).split(6272, 32, 28) == Split(1960, (1568,))
    assert methods.get("holitom", retention_tokens=600).split(6272, 32, 28) == Split(1200, (600,))


@pytest.mark.parametrize("name", NAMES)
def test_no_budget_and_no_choice(name: str) -> None:
    assert methods.get(name).split(100, 4, 28) == Split(None, None)
    alone = methods.get(name, inner_keep=1.0, retention_tokens=30, average_over_layers=True)
    assert alone.selection_layers == () and alone.split(100, 4, 28) == Split(30, None)


@pytest.mark.parametrize("cells", [1, 2, 7, 60])
@pytest.mark.parametrize(("layer", "depth"), [(1, 2), (18, 28), (28, 28)])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_every_budget(name: str, keep: float, layer: int, depth: int, cells: int) -> None:
    """At the end: exact. As a mean: from below, by less than a token, and never less for more."""
    before = (0, 0)
    for allowed in range(1, cells + 1):
        options = {"inner_keep": keep, "layer": layer, "retention_tokens": allowed}
        split = methods.get(name, **options).split(cells, 1, depth)
        assert split.chosen == (allowed,) and allowed <= split.merged <= cells
        split = methods.get(name, **options, average_over_layers=True).split(cells, 1, depth)
        (chosen,) = split.chosen
        assert 1 <= chosen <= split.merged <= cells
        mean = mean_over_layers(split.merged, (chosen,), (layer - 1,), depth)
        assert allowed - 1 < mean <= allowed or math.isclose(mean, allowed - 1)
        assert split.merged >= before[0] and chosen >= before[1]
        before = (split.merged, chosen)
    assert split == Split(cells, (cells,))  # all of the budget: everything stays
