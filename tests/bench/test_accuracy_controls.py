# SPDX-License-Identifier: Apache-2.0
"""What the controls go by, cell by cell, and that they keep it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.choosings import make_choosing
from prunevid.bench import controls
from prunevid.builtin.clips import make_clip
from prunevid.builtin.questions import Question
from prunevid.errors import ConfigError, InputError
from prunevid.methods import Video

GRID = (12, 5, 5)


def pixels_by_loops(clip, thing: int) -> np.ndarray:
    """(12, 25): pixels of a thing in every cell of 2 frames x 16 x 16 pixels."""
    found = np.zeros((12, 25), np.int64)
    for frame, y, x in zip(*np.nonzero(clip.owner == thing + 1)):
        found[frame // 2, y // 16 * 5 + x // 16] += 1
    return found


@pytest.mark.parametrize("seed", range(4))
def test_cover_counts_pixels(seed: int) -> None:
    clip = make_clip(seed, "dev")
    about = range(len(clip.plan.things))
    found = controls.cover(clip, about, GRID)
    for thing in about:
        assert np.array_equal(found[thing], pixels_by_loops(clip, thing))


@pytest.mark.parametrize("seed", range(6))
def test_the_oracle_ranks_the_asked_cells_first(seed: int) -> None:
    clip = make_clip(seed, "dev")
    for question in clip.questions:
        scores = controls.oracle_scores(clip, question, GRID, (seed, 0))
        asked = controls.asked_cells(clip, question, GRID)
        by_loops = sum((pixels_by_loops(clip, thing) for thing in question.about), np.zeros((12, 25))).reshape(-1)
        if not question.about:
            assert asked.all() and scores.max() < 1
            continue
        assert asked.tolist() == (by_loops > 0).tolist()
        best = scores.argsort(descending=True)[: int(asked.sum())]
        assert sorted(best.tolist()) == asked.nonzero()[:, 0].tolist()
        assert len(scores.unique()) > 0.5 * len(scores)


def test_a_small_budget_of_the_oracle_sees_every_thing_at_every_time() -> None:
    checked = 0
    for seed in range(12):
        clip = make_clip(seed, "dev")
        for question in clip.questions:
            cover = controls.cover(clip, question.about, GRID)
            firsts = int((cover.sum(2) > 0).sum())
            if len(question.about) < 2 or not firsts:
                continue
            order = controls.oracle_scores(clip, question, GRID, (0, 0)).argsort(descending=True)[:firsts]
            kept = np.zeros(300, bool)
            kept[order.numpy()] = True
            seen = (cover.reshape(len(cover), -1) * kept).reshape(cover.shape).sum(2) > 0
            assert (seen == (cover.sum(2) > 0)).mean() > 0.95  # a cell may be the best one of two things
            checked += 1
    assert checked > 20


def test_saliency_is_the_distance_from_the_mean() -> None:
    features = torch.randn(20, 6, dtype=torch.float64).float()
    mean = [sum(float(row[i]) for row in features) / 20 for i in range(6)]
    expected = [sum((float(value) - centre) ** 2 for value, centre in zip(row, mean)) ** 0.5 for row in features]
    torch.testing.assert_close(controls.saliency(features), torch.tensor(expected))


def test_partners_are_other_questions_about_other_things() -> None:
    one, same, other, whole = (
        Question("count", text, "one", about)
        for text, about in (("a?", (0,)), ("b?", (0, 1)), ("c?", (2,)), ("d?", ()))
    )
    assert controls.partners([one, same, other]) == [2, 2, 0]
    assert controls.partners([one, same]) == [1, 0]
    assert controls.partners([one, one, whole]) == [2, 2, 0]
    with pytest.raises(InputError, match="no other question"):
        controls.partners([one, one])
    for seed in range(20):
        questions = make_clip(seed).questions
        found = controls.partners(questions)
        assert all(questions[other].text != one.text for one, other in zip(questions, found))


def test_a_given_score_is_kept_by_row() -> None:
    scores = tuple(torch.randn(23) for _ in range(3))
    for row in range(3):
        choosing = make_choosing(quota=[5, 2])
        object.__setattr__(choosing, "row", row)
        kept = controls.Given(layer=0, scores=scores).choose(choosing).kept.tolist()
        first = scores[row][:14].argsort(descending=True)[:5].tolist()
        second = (scores[row][14:].argsort(descending=True)[:2] + 14).tolist()
        assert kept == sorted(first + second)


def test_controls_say_what_they_lack() -> None:
    with pytest.raises(InputError, match="the scores are for"):
        controls.Given(scores=(torch.zeros(4),)).choose(make_choosing(quota=[5, 2]))
    with pytest.raises(ConfigError, match="no share of its own"):
        controls.Lots().choose(make_choosing())
    with pytest.raises(InputError, match="give a score for each, and a budget"):
        controls.Shown(scores=torch.zeros(5)).merge(Video(torch.zeros(2, 4, 3), 2, 2, 3))


def test_lots_differ_by_row_and_seed_and_grow_with_the_budget() -> None:
    def kept(seed: int, row: int, quota: list[int]) -> list[int]:
        choosing = make_choosing(quota=quota)
        object.__setattr__(choosing, "row", row)
        return controls.Lots(seed=seed).choose(choosing).kept.tolist()

    assert kept(1, 0, [6, 4]) == kept(1, 0, [6, 4])
    assert len({tuple(kept(seed, row, [6, 4])) for seed in range(3) for row in range(3)}) == 9
    assert set(kept(1, 0, [3, 2])) < set(kept(1, 0, [6, 4]))


@pytest.mark.parametrize("wanted", [1, 15, 30, 299, 300])
def test_even_scores_mark_so_many(wanted: int) -> None:
    scores = controls.even_scores(300, wanted)
    assert int(scores.sum()) == wanted
    gaps = scores.nonzero()[:, 0].diff()
    assert wanted < 3 or int(gaps.max() - gaps.min()) <= 1
