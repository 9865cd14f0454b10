# SPDX-License-Identifier: Apache-2.0
"""How every method divides a budget between its merge and its choices, for videos and decoders of any size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid import methods
from prunevid.errors import ConfigError
from prunevid.methods.budget import mean_over_layers, tokens_after_choices

COMPOSED = ("vidcom2|fastv", "uniform|pyramiddrop", "tome|sparsevlm", "evs|lookm", "uniform|dycoke")
NAMES = [name for name in (*methods.names(), *COMPOSED) if name not in ("none", "uniform|dycoke")]
SIZES = dict(cells=st.integers(1, 8000), frames=st.integers(1, 32), depth=st.integers(3, 40), share=st.floats(0.001, 1))


def split_of(name: str, tokens: int, cells: int, frames: int, depth: int, average: bool = False):
    """The method with its layers filled in, tokens that enter the decoder, and those after each choice."""
    method = methods.get(name, retention_tokens=tokens, average_over_layers=average).for_depth(depth)
    split = method.split(cells, frames, depth)
    start = cells if split.merged is None or not method.merges else split.merged
    chosen = () if split.chosen is None else split.chosen
    assert len(chosen) == len(method.selection_layers)
    assert 1 <= start <= cells and list((start, *chosen)) == sorted((start, *chosen), reverse=True)
    assert not chosen or chosen[-1] >= 1
    return method, start, chosen


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(**SIZES)
def test_what_is_left_at_the_end_is_the_budget(name: str, cells: int, frames: int, depth: int, share: float) -> None:
    tokens = max(1, int(cells * share))
    method, start, chosen = split_of(name, tokens, cells, frames, depth)
    if method.shrinks_cache:
        assert method.cache_budget(cells, start) == tokens <= start
    else:
        assert (start, *chosen)[-1] == tokens
    assert methods.get(name, retention_ratio=share).budget(cells) == max(1, round(share * cells))
    if tokens < cells:
        _, more, later = split_of(name, tokens + 1, cells, frames, depth)
        assert all(a <= b for a, b in zip((start, *chosen), (more, *later)))


@pytest.mark.parametrize("name", [name for name in NAMES if not methods.get(name).shrinks_cache])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(**SIZES)
def test_the_mean_over_layers_is_the_budget(name: str, cells: int, frames: int, depth: int, share: float) -> None:
    """From below by less than a token, and nothing shrinks as it grows."""
    tokens, before = max(1, int(cells * share)), ()
    for allowed in (tokens, min(tokens + 1, cells), cells):
        try:
            method, start, chosen = split_of(name, allowed, cells, frames, depth, True)
        except ConfigError:
            assert "|" not in name and not before and allowed < cells
            assert name in ("fastv", "pyramiddrop", "sparsevlm")
            continue
        mean = mean_over_layers(start, chosen, method.selection_layers, depth)
        assert allowed - 1 - 1e-9 < mean <= allowed + 1e-9
        assert not before or all(a <= b for a, b in zip(before, (start, *chosen)))
        before = (start, *chosen)
    assert set(before) == {cells}


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "sparsevlm"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(**SIZES)
def test_a_mean_is_refused_only_where_it_can_not_be_had(
    name: str, cells: int, frames: int, depth: int, share: float
) -> None:
    tokens = max(1, int(cells * share))
    layers = methods.get(name).for_depth(depth).selection_layers
    least = mean_over_layers(cells, tokens_after_choices(cells, 1, len(layers)), layers, depth)
    if least <= tokens:
        split_of(name, tokens, cells, frames, depth, True)
    else:
        with pytest.raises(ConfigError, match=f"{least / cells:.3g} is the least"):
            split_of(name, tokens, cells, frames, depth, True)


def test_a_merge_before_choices_leaves_fewer_where_the_mean_asks_for_it() -> None:
    """PyramidDrop sees everything through a third of the layers; alone it can't keep 5 %, after a merge it can."""
    alone = methods.get("pyramiddrop", retention_ratio=0.05, average_over_layers=True).for_depth(28)
    with pytest.raises(ConfigError, match="on average over the layers"):
        alone.split(1000, 8, 28)
    method, start, chosen = split_of("uniform|pyramiddrop", 50, 1000, 8, 28, True)
    assert start < round((1000 * 50) ** 0.5) and chosen[-1] == 1
    assert 49 < mean_over_layers(start, chosen, method.selection_layers, 28) <= 50


def test_a_composed_method_is_what_its_parts_are() -> None:
    """Positions are those of the part that merges, unless told otherwise; images are pruned where a part does so."""
    assert methods.get("evs|lookm").position_scheme == methods.get("evs").position_scheme == "keep"
    assert methods.get("uniform|fastv").position_scheme == methods.get("uniform").position_scheme == "auto"
    assert methods.get("evs|fastv", positions="renumber").position_scheme == "renumber"
    images = methods.get("prunevid", prune_images=True, enable_stage2=False, collect_stats=False, verbose=True)
    both = methods.compose(images, methods.get("lookm"))
    assert both.prunes_images and both.verbose and not both.collect_stats
    plain = methods.get("uniform|fastv")
    assert not plain.prunes_images and not plain.verbose and plain.collect_stats
