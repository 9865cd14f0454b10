# SPDX-License-Identifier: Apache-2.0
"""Clips: the same for a seed, splits apart, drawn as planned, and whole after a trip through a video file."""

from __future__ import annotations

import av
import numpy as np
import pytest

from prunevid.builtin.clips import SPLITS, make_clip, write_clip
from prunevid.builtin.labels import GROUPS, NAMES, NONE, SIDE, token_labels
from prunevid.builtin.scenes import COLORS, DRIFT, FPS, FRAMES, SIZE
from prunevid.errors import ConfigError, InputError

SEEDS = range(40)


@pytest.mark.parametrize("split", list(SPLITS))
def test_a_seed_gives_the_same_clip_every_time(split: str) -> None:
    for seed in (0, 7, 12345):
        one, two = make_clip(seed, split), make_clip(seed, split)
        assert np.array_equal(one.frames, two.frames)
        assert one.questions == two.questions
        assert one.frames.shape == (FRAMES, SIZE, SIZE, 3)
        assert one.frames.dtype == np.uint8
        assert one.fps == FPS


def test_splits_share_no_clip() -> None:
    seen: dict[bytes, tuple[str, int]] = {}
    for split in SPLITS:
        for seed in range(150):
            key = make_clip(seed, split).frames.tobytes()
            assert key not in seen, f"{(split, seed)} equals {seen.get(key)}"
            seen[key] = (split, seed)


def test_fewer_questions_do_not_change_the_clip() -> None:
    one, two = make_clip(5, questions=3), make_clip(5)
    assert np.array_equal(one.frames, two.frames)
    assert one.questions == two.questions[:3]


@pytest.mark.parametrize(("seed", "split"), [(-1, "test"), (0, "validation")])
def test_wrong_arguments_are_named(seed: int, split: str) -> None:
    with pytest.raises(ConfigError, match=r"seed is -1|split is 'validation'"):
        make_clip(seed, split)


def test_things_have_their_colour_where_they_are_visible() -> None:
    checked = 0
    for seed in SEEDS:
        clip = make_clip(seed)
        for number, thing in enumerate(clip.plan.things, 1):
            for frame in range(FRAMES):
                mine = clip.owner[frame] == number
                if not thing.born <= frame < thing.dies:
                    assert not mine.any()
                    continue
                assert mine.any()
                mean = clip.frames[frame][mine].mean(axis=0)
                away = {word: np.abs(mean - rgb).sum() for word, rgb in COLORS.items()}
                # Edge pixels are blended with the background, more so in small crosses.
                if mine.sum() > 60:
                    assert min(away, key=lambda word: away[word]) == thing.color_at(frame)
                    checked += 1
    assert checked > 500


def test_things_stay_inside_and_apart() -> None:
    for seed in SEEDS:
        clip = make_clip(seed)
        for thing in clip.plan.things:
            for frame in range(thing.born, thing.dies):
                assert all(thing.radius <= v <= SIZE - 1 - thing.radius for v in clip.plan.seen_at(thing, frame))


def test_backgrounds_move_with_the_camera_only() -> None:
    drifted = 0
    for seed in SEEDS:
        clip = make_clip(seed)
        drift = clip.plan.drift
        assert np.abs(drift).max() <= DRIFT
        drifted += bool(drift.any())
        for scene in range(clip.plan.scenes):
            a, b = clip.plan.bounds[scene], clip.plan.bounds[scene + 1]
            # Frames moved back to where the camera began; what all of them show and no thing is near counts.
            moves = [tuple(int(v) for v in drift[frame][::-1]) for frame in range(a, b)]
            frames = np.stack([np.roll(clip.frames[a + i], move, (0, 1)) for i, move in enumerate(moves)]).astype(int)
            things = np.stack([np.roll(clip.owner[a + i] > 0, move, (0, 1)) for i, move in enumerate(moves)]).any(
                axis=0
            )
            near = [np.roll(things, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)]
            bare = ~np.any(near, axis=0)
            bare[:DRIFT], bare[-DRIFT:], bare[:, :DRIFT], bare[:, -DRIFT:] = False, False, False, False
            assert bare.sum() > 500
            assert np.ptp(frames[:, bare], axis=0).max() <= 7
    assert 5 < drifted < 30


def test_clips_are_like_video() -> None:
    """Large still parts; salient things, besides those that flash, on a quarter of the cells or more; brief events."""
    covered, brief, scenes = [], [], []
    for seed in range(200):
        clip = make_clip(seed)
        lasting = [number for number, thing in enumerate(clip.plan.things, 1) if not thing.brief]
        cells = np.isin(clip.owner, lasting).reshape(FRAMES // 2, 2, SIDE, 16, SIDE, 16).any(axis=(1, 3, 5))
        covered.append(cells.mean())
        brief += [thing.dies - thing.born for thing in clip.plan.things if thing.brief]
        scenes.append(clip.plan.scenes)
    assert 0.2 < np.mean(covered) < 0.35
    assert set(brief) == {2, 4} and len(brief) > 200
    assert set(scenes) == {1, 2, 3} and 0.2 < np.mean(np.array(scenes) > 1) < 0.4


def test_token_labels_describe_what_the_owner_map_shows() -> None:
    for seed in SEEDS:
        clip = make_clip(seed, "train")
        labels = dict(zip(NAMES, token_labels(clip), strict=True))
        shown = labels["color"] != NONE
        assert np.array_equal(shown, labels["size"] > 0)
        assert np.array_equal(shown, np.isin(labels["event"], (1, 2, 3)))
        assert labels["scene"].max() == clip.plan.scenes - 1
        tokens = clip.owner.reshape(GROUPS, 2, SIDE, 16, SIDE, 16).transpose(0, 2, 4, 1, 3, 5).reshape(300, -1)
        assert not (tokens[shown] == 0).all(axis=1).any()
        colors = {list(COLORS)[i] for i in labels["color"][shown]}
        assert colors <= {color for thing in clip.plan.things for color in thing.all_colors()}


@pytest.mark.parametrize("seed", [0, 3, 9])
def test_a_video_file_keeps_frames_times_and_count(seed: int, tmp_path) -> None:
    clip = make_clip(seed)
    path = write_clip(clip, tmp_path / "clip.mp4")
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == FPS
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(stream)]
    assert [time for time, _ in decoded] == pytest.approx([i / FPS for i in range(FRAMES)], abs=1e-3)
    frames = np.stack([picture for _, picture in decoded])
    assert frames.shape == (FRAMES, SIZE * 4, SIZE * 4, 3)
    small = frames.reshape(FRAMES, SIZE, 4, SIZE, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - clip.frames).mean() < 4.0


def test_writing_refuses_what_can_not_work(tmp_path) -> None:
    clip = make_clip(0)
    with pytest.raises(InputError, match="does not exist"):
        write_clip(clip, tmp_path / "nowhere" / "clip.mp4")
    with pytest.raises(ConfigError, match="scale is 3"):
        write_clip(clip, tmp_path / "clip.mp4", scale=3)
