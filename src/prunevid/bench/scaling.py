# SPDX-License-Identifier: Apache-2.0
"""How stage 1 grows with the frames of a clip, and the whole prefill with its tokens."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from prunevid.bench import clips as made
from prunevid.bench.clock import Clock, peak_bytes
from prunevid.bench.results import Growth, ScalingResult, Spread, machine_facts
from prunevid.bench.rounds import Tell, rounds
from prunevid.bench.settings import Settings
from prunevid.bench.speed import measure_speed, subject_facts
from prunevid.bench.subjects import Subject
from prunevid.core import merge_video

POSITIONS = 196
"""Tokens of a frame in the measurement of stage 1."""


def measure_scaling(
    subject: Subject,
    settings: Settings,
    *,
    stage1_frames: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024),
    prefill_frames: tuple[int, ...] = (8, 16, 32, 64),
    tell: Tell | None = None,
) -> ScalingResult:
    """Measures both.

    Args:
        subject: the model; stage 1 alone takes features of its width, dtype and device.
        settings: as for `measure_speed`; its frames and batches are not used.
        stage1_frames, prefill_frames: lengths of the clips.
        tell: see `measure_speed`.
    """
    say = tell or (lambda text: None)
    facts = machine_facts(subject.device)
    width = int(subject.language_model.config.hidden_size)
    stage1 = _stage1(subject, settings, stage1_frames, width, say)
    prefill = [_prefill(subject, settings, frames, say) for frames in prefill_frames]
    chosen = {"repeats": settings.repeats, "positions": POSITIONS, "width": width, "cpu_time": settings.cpu_time}
    return ScalingResult(facts, subject_facts(subject), chosen, tuple(stage1), tuple(prefill))


def _stage1(subject: Subject, settings: Settings, frames: tuple[int, ...], width: int, say: Tell) -> list[Growth]:
    """Stage 1 alone, all lengths in turns."""
    clock = Clock(subject.device, settings.cpu_time)
    spent: dict[int, list[float]] = {count: [] for count in frames}
    clips = {count: features(count, POSITIONS, width, subject.dtype, subject.device) for count in frames}
    for count, counts in rounds(settings, list(frames), lambda turn, count: say(f"Stage 1 of {count} frames")):
        milliseconds, _ = clock.time(partial(merge_video, clips[count]))
        if counts:
            spent[count].append(milliseconds)
    found = []
    for count in frames:
        peak = {"stage 1": peak_bytes(subject.device, partial(merge_video, clips[count]))} if settings.memory else {}
        found.append(Growth(count, count * POSITIONS, {"stage 1": Spread.of(spent[count])}, peak))
    return found


def _prefill(subject: Subject, settings: Settings, frames: int, say: Tell) -> Growth:
    """The whole prefill of one length, unpruned and with every method."""
    own = {**vars(settings), "frames": frames, "batches": (1,), "new_tokens": 3}
    result = measure_speed(subject, Settings(**own), lambda text: say(f"{frames} frames: {text}"), goals=False)
    sides = result.batches[0].sides
    peaks = {side.name: side.peak_bytes for side in sides if side.peak_bytes is not None}
    return Growth(frames, sides[0].visual_tokens[0], {side.name: side.prefill for side in sides}, peaks)


@torch.no_grad()
def features(frames: int, positions: int, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(T, N, C) visual tokens of a clip: scenes of `clips.SCENE` frames, in which half of the positions move."""
    generator = torch.Generator(device).manual_seed(0)
    found = torch.empty(frames, positions, channels, dtype=dtype, device=device)
    still = torch.full((positions, 1), 0.1, dtype=dtype, device=device)
    still[positions // 2 :] = 1.0
    for start in range(0, frames, made.SCENE):
        scene = found[start : start + made.SCENE]
        ground = torch.randn(1, positions, channels, generator=generator, device=device).to(dtype)
        scene.copy_(torch.randn(scene.shape, generator=generator, device=device).to(dtype))
        scene.mul_(still).add_(ground)
    return found
