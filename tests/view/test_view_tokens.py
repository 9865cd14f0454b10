# SPDX-License-Identifier: Apache-2.0
"""Lookups in token maps: grids that agree with the statistics, for every method; frames of grid steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunevid.builtin.model import WEIGHTS
from prunevid.engine import TokenMap
from prunevid.models.base import VideoLayout
from prunevid.view import Cells, frame_steps
from shipped import SIDE, STEPS, VISUAL
from view.drawn import NAMES, answer_of, chosen_map, merged_map

needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_grids_of_every_method_agree_with_the_statistics(name: str) -> None:
    answer = answer_of(name)
    cells = Cells.of(answer.maps[0])
    assert cells.shape == (STEPS, SIDE, SIDE) and cells.protected == 0
    stages = [answer.stats[stage]["compressed_tokens"] for stage in ("stage1", "stage2")]
    assert cells.counts[:2] == [VISUAL, stages[0]] and cells.counts[-1] == stages[1]
    assert len(np.unique(cells.final[cells.clear])) == stages[1]
    assert not ((cells.merged < 0) & cells.clear).any()
    assert not (cells.static & (cells.group < 0)).any()
    scenes = cells.scenes
    assert [scene.start for scene in scenes] == [0, *(scene.stop for scene in scenes[:-1])] and scenes[-1].stop == STEPS
    assert sum(scene.static + scene.dynamic for scene in scenes) == stages[0]
    assert sum(scene.kept_static + scene.kept_dynamic for scene in scenes) == stages[1]
    kept = VISUAL * 0.15
    assert bool(cells.notes) == (name in ("lookm", "dycoke"))
    if name == "lookm":
        assert cells.held == round(kept) and "other" not in cells.notes[0] and str(cells.held) in cells.notes[0]


def test_what_became_of_each_cell() -> None:
    cells = Cells.of(chosen_map())
    assert cells.merged[0].tolist() == [[0, 0, 0], [0, 0, 0]] and cells.merged[3].tolist() == [[1, 4, 4], [1, 4, -1]]
    assert cells.final[0].max() == -1 and cells.final[2].tolist() == [[1, 2, 2], [1, 2, 2]]
    assert cells.counts == [25, 6, 5, 4] and cells.sizes.tolist() == [6, 6, 4, 4, 3]
    assert cells.static[1:, :, 0].all() and int(cells.static.sum()) == 6
    assert cells.group[3].tolist() == [[1, 4, 4], [1, 4, -1]]
    first, second = cells.steps
    assert (first.layer, second.layer) == (2, 5)
    assert first.token[0].max() == -1 and first.token[2].tolist() == [[1, 3, 3], [1, 3, 3]]
    assert first.scores[0] == pytest.approx(np.full((2, 3), 0.1, dtype=np.float32))
    assert np.isnan(first.scores[3, 1, 2]) and np.isnan(second.scores[0]).all()
    assert second.scores[2, 0].tolist() == [0.5, 0.0, 0.0]
    assert [(scene.start, scene.stop, scene.static, scene.kept_dynamic) for scene in cells.scenes] == [
        (0, 1, 0, 0),
        (1, 4, 1, 2),
    ]


def test_a_map_is_read_and_not_changed() -> None:
    item = chosen_map()
    before = [item.joined.clone(), *(step.clone() for step in item.steps), *(s.clone() for s in item.step_scores)]
    cells = Cells.of(item)
    cells.final[:] = 7
    cells.steps[0].token[:] = 7
    after = [item.joined, *item.steps, *item.step_scores]
    assert all((one == other).all() for one, other in zip(before, after))


@pytest.mark.parametrize("layout", [VideoLayout(1, 3, 5, newlines=1, image=True), VideoLayout(3, 2, 2, tail=4)])
def test_a_video_that_passed_whole(layout: VideoLayout) -> None:
    cells = Cells.of(TokenMap(layout, None))
    assert cells.image == layout.image and cells.clear.all() and not cells.static.any()
    assert (cells.merged == np.arange(layout.cells).reshape(cells.shape)).all() and (cells.final == cells.merged).all()
    assert cells.protected == layout.tokens - layout.cells and cells.counts == [layout.tokens, layout.tokens]
    assert cells.steps == () and [(scene.start, scene.stop) for scene in cells.scenes] == [(0, layout.frames)]


def test_nothing_is_left() -> None:
    item = merged_map()
    item.choose(1, item.merged.representative * 0 - 1, None)
    cells = Cells.of(item)
    assert not cells.clear.any() and cells.counts[-1] == 1 and cells.steps[0].scores is None


@pytest.mark.parametrize(
    ("frames", "steps", "expected"),
    [
        (4, 4, [[0], [1], [2], [3]]),
        (16, 8, [[2 * i, 2 * i + 1] for i in range(8)]),
        (5, 3, [[0, 1], [2, 3], [4]]),
        (1, 1, [[0]]),
        (2, 4, [[0], [0], [1], [1]]),
        (9, 4, [[0, 1], [2, 3], [4, 5], [6, 7, 8]]),
    ],
)
def test_frames_of_every_step(frames: int, steps: int, expected: list[list[int]]) -> None:
    found = [list(part) for part in frame_steps(frames, steps)]
    assert found == expected


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_step_shows_a_frame_and_every_frame_is_shown(frames: int, steps: int) -> None:
    found = frame_steps(frames, steps)
    assert len(found) == steps and all(len(part) >= 1 for part in found)
    shown = [frame for part in found for frame in part]
    assert shown == sorted(shown) and set(shown) == set(range(frames))
    if frames >= steps:
        assert shown == list(range(frames))
