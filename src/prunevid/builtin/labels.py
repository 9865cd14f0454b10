# SPDX-License-Identifier: Apache-2.0
"""Training only: what every visual token of a clip shows, as dense labels for the auxiliary losses."""

from __future__ import annotations

import numpy as np

from prunevid.builtin.clips import SyntheticClip
from prunevid.builtin.scenes import COLORS, DIRECTIONS, FRAMES, SHAPES, SIZE

CELL = 16
GROUPS, SIDE = FRAMES // 2, SIZE // CELL
NONE = -100
_COLOR = {name: i for i, name in enumerate(COLORS)}
_SHAPE = {name: i for i, name in enumerate(SHAPES)}
_WAY = {name: i + 1 for i, name in enumerate(DIRECTIONS)}
NAMES = ("color", "shape", "size", "motion", "event", "scene")
CLASSES = {"size": 3, "motion": 5, "event": 5, "scene": 3}
_LEAST = 22


def token_labels(clip: SyntheticClip) -> np.ndarray:
    """Labels of a clip's visual tokens, (6, 300) int64 in the order of NAMES, NONE where a token has none.

    A token is about the thing that covers most of its 16 x 16 x 2 pixels. color, shape: index of the word; size: 0 no
    thing, 1 small, 2 large; motion: 0 still, then the directions; event: 0 background, 1 thing without event, 2 thing
    that flashes, 3 thing that has changed its colour, 4 background where a thing of this scene has vanished;
    scene: number of the scene.
    """
    plan = clip.plan
    labels = np.full((len(NAMES), GROUPS, SIDE, SIDE), NONE, np.int64)
    labels[2], labels[4] = 0, 0
    for scene in range(plan.scenes):
        labels[5, plan.bounds[scene] // 2 : plan.bounds[scene + 1] // 2] = scene
    best = np.full((GROUPS, SIDE, SIDE), _LEAST - 1, np.int64)
    for number, thing in enumerate(plan.things, 1):
        cover = (clip.owner == number).reshape(GROUPS, 2, SIDE, CELL, SIDE, CELL).sum(axis=(1, 3, 5))
        mine = cover > best
        best = np.where(mine, cover, best)
        labels[1][mine] = _SHAPE[thing.shape]
        labels[2][mine] = 1 if thing.small else 2
        labels[3][mine] = _WAY[thing.direction] if thing.direction else 0
        labels[4][mine] = 2 if thing.brief else 1
        for group in range(GROUPS):
            late = 2 * group + 1
            labels[0, group][mine[group]] = _COLOR[thing.color_at(late)]
            if thing.changes is not None and late >= thing.changes:
                labels[4, group][mine[group]] = 3
    _mark_vanished(clip, labels)
    return labels.reshape(len(NAMES), -1)


def _mark_vanished(clip: SyntheticClip, labels: np.ndarray) -> None:
    for number, thing in enumerate(clip.plan.things, 1):
        end = clip.plan.bounds[thing.scene + 1]
        if thing.dies >= end:
            continue
        seen = clip.owner[thing.dies - 1] == number
        cells = seen.reshape(SIDE, CELL, SIDE, CELL).sum(axis=(1, 3)) * 2 >= _LEAST
        for group in range((thing.dies + 1) // 2, end // 2):
            labels[4, group][cells & (labels[4, group] == 0)] = 4
