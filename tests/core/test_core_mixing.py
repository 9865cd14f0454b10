# SPDX-License-Identifier: Apache-2.0
"""The scores that are ours: heads and rows put together in several ways, by loops over heads, rows and tokens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from methods.choosings import make_choosing
from prunevid import PruneVidConfig
from prunevid.core import Mixing, merge_video, mixed_scores, question_scores, scoring
from prunevid.errors import ConfigError, InputError
from prunevid.methods.prunevid import PruneVid


def sample(heads: int = 4, kv_heads: int = 2, rows: int = 5, length: int = 30, width: int = 8) -> tuple:
    queries, keys = 3 * torch.randn(heads, rows, width), torch.randn(kv_heads, length, width)
    visual = (torch.arange(length) >= 4) & (torch.arange(length) < length - rows)
    return queries, keys, visual


def attention_by_loops(queries, keys, mask=None) -> list[list[list[float]]]:
    """[head][row][key]: a softmax over all keys that a row may see."""
    heads, rows, width = queries.shape
    share = heads // len(keys)
    found = []
    for head in range(heads):
        found.append([])
        for row in range(rows):
            dots = [float(queries[head, row].double() @ key.double()) / math.sqrt(width) for key in keys[head // share]]
            seen = [True] * len(dots) if mask is None else [bool(x) for x in mask[row]]
            powers = [math.exp(dot) if ok else 0.0 for dot, ok in zip(dots, seen)]
            found[-1].append([power / (sum(powers) or 1.0) for power in powers])
    return found


def by_loops(queries, keys, visual, mixing: Mixing, mask=None) -> list[float]:
    """Plain Python, a number at a time."""
    tokens = visual.nonzero()[:, 0].tolist()
    every = [[[row[token] for token in tokens] for row in head] for head in attention_by_loops(queries, keys, mask)]
    if mixing.normalise == "head":
        every = [[[a / max(map(max, head)) for a in row] for row in head] for head in every]
    if mixing.normalise == "row":
        every = [[[a / sum(row) for a in row] for row in head] for head in every]
    by_row = []
    for row in range(queries.shape[1]):
        rows = [head[row] for head in every]
        weights = [1.0 / len(rows)] * len(rows)
        if mixing.heads == "peaked":
            peaked = [1 + sum(a / sum(r) * math.log(a / sum(r)) for a in r) / math.log(len(r)) for r in rows]
            weights = [weight / sum(peaked) for weight in peaked]
        if mixing.heads == "max":
            by_row.append([max(column) for column in zip(*rows)])
        else:
            by_row.append([sum(w * a for w, a in zip(weights, column)) for column in zip(*rows)])
    return [max(column) if mixing.rows == "max" else sum(column) / len(column) for column in zip(*by_row)]


EVERY = [Mixing(*each) for each in itertools.product(scoring.HEADS, scoring.ROWS, scoring.NORMALISE)]


@pytest.mark.parametrize("mixing", EVERY, ids=str)
@pytest.mark.parametrize("bound", [1, 300, 2**24])
def test_equals_the_loops(mixing: Mixing, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MAP_ELEMENTS", bound)
    for heads, kv_heads, rows in ((4, 2, 5), (6, 1, 1)):
        given = sample(heads, kv_heads, rows)
        scores = mixed_scores(*given, mixing)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, torch.tensor(by_loops(*given, mixing)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mixing", [Mixing(), Mixing("mean", "mean"), Mixing("peaked", "mean", "row")], ids=str)
def test_a_mask_hides_keys(mixing: Mixing) -> None:
    queries, keys, visual = sample()
    mask = torch.arange(30) <= torch.arange(10, 30, 4)[:, None]
    visual &= torch.arange(30) < 9
    scores = mixed_scores(queries, keys, visual, mixing, key_mask=mask)
    expected = by_loops(queries, keys, visual, mixing, mask)
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_the_published_ways_are_question_scores_bit_for_bit() -> None:
    given = sample()
    assert torch.equal(mixed_scores(*given), question_scores(*given))
    torch.testing.assert_close(mixed_scores(*given, Mixing("mean", "mean")), question_scores(*given, "mean"))


@pytest.mark.parametrize("wrong", [{"heads": "sum"}, {"rows": "peaked"}, {"normalise": "all"}])
def test_unknown_ways_are_named(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is '"):
        Mixing(**wrong)


# ---- as settings of PruneVid -----------------------------------------------------------------------------------------


def chosen_rows(config: PruneVidConfig, rows: int) -> range:
    kinds = {"all": range(rows), "last": range(rows - 1, rows)}
    return kinds.get(config.score_rows, range(config.prompt_head, rows - config.prompt_tail))


@pytest.mark.parametrize("contrast", ["none", "difference", "ratio"])
@pytest.mark.parametrize("rows", ["all", "question", "last"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "mix", [{}, {"attention_aggregation": "mean"}, {"score_heads": "peaked"}, {"score_row_mix": "mean"}], ids=str
)
def test_settings_equal_the_loops(contrast: str, rows: str, causal: bool, mix: dict) -> None:
    config = PruneVidConfig(
        score_contrast=contrast, score_rows=rows, prompt_head=1, prompt_tail=2, score_causal=causal, **mix
    )
    choosing = make_choosing(text=5)
    attention = choosing.attention
    length = attention.keys.shape[1]
    both = config.attention_aggregation
    heads = both if config.score_heads == "auto" else config.score_heads
    mixing = Mixing(heads, both if config.score_row_mix == "auto" else config.score_row_mix)

    def loops(places: range) -> torch.Tensor:
        mask = torch.arange(length) <= attention.rows[list(places), None] if causal else None
        return torch.tensor(
            by_loops(attention.queries[:, list(places)], attention.keys, attention.visual, mixing, mask)
        )

    expected = loops(chosen_rows(config, 5))
    if contrast == "difference":
        expected = expected - loops(range(1))
    if contrast == "ratio":
        expected = expected / (loops(range(1)) + 1 / length)
    torch.testing.assert_close(PruneVid(config).scores(choosing), expected, rtol=1e-4, atol=1e-6)


def test_a_prompt_without_a_question_is_refused() -> None:
    config = PruneVidConfig(score_rows="question", prompt_head=2, prompt_tail=2)
    with pytest.raises(InputError, match="4 tokens after its last visual token"):
        PruneVid(config).scores(make_choosing(text=4))


def test_a_contrast_needs_rows_before_the_question() -> None:
    with pytest.raises(ConfigError, match="score_contrast is 'ratio', but prompt_head is 0"):
        PruneVidConfig(score_contrast="ratio")


# ---- centres by lot --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 60])
def test_cells_join_the_nearest_of_centres_that_were_drawn(budget: int | None) -> None:
    torch.manual_seed(3)
    features = torch.randn(6, 30, 16)
    plain = merge_video(features, 2.0, budget=budget)
    one, again, other = (merge_video(features, 2.0, budget=budget, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.representative, again.representative)
    assert not torch.equal(one.representative, other.representative)
    assert not torch.equal(one.representative, plain.representative)
    assert one.scene_lengths == plain.scene_lengths and one.dynamic_sizes == plain.dynamic_sizes
    cells = features.reshape(-1, 16)
    for cell, joined in enumerate(one.assignment.tolist()):
        mates = (one.group == one.group[joined]).nonzero()[:, 0]
        centres = one.representative[mates]
        if cell in centres.tolist():
            assert one.representative[joined] == cell
        else:
            nearest = mates[(cells[centres] - cells[cell]).square().sum(1).argmin()]
            assert nearest == joined
