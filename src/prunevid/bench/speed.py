# SPDX-License-Identifier: Apache-2.0
"""`measure_speed`: the unpruned model and some methods on one clip, in turns, every stage by itself.

The sides run within one round (`prunevid.bench.contest`), so that a machine that gets busier does so for all; ratios
are taken round by round. The vision tower runs once for all sides that ask the same of it: pruning does not change what
it costs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from prunevid.bench import clips as made
from prunevid.bench.clock import Clock
from prunevid.bench.contest import Contest
from prunevid.bench.goals import goals_of
from prunevid.bench.probe import Probe
from prunevid.bench.results import Batch, Goal, SpeedResult, Spread, machine_facts
from prunevid.bench.rounds import Tell
from prunevid.bench.settings import Settings, plain
from prunevid.bench.subjects import Frames, Subject


def measure_speed(subject: Subject, settings: Settings, tell: Tell | None = None, *, goals: bool = True) -> SpeedResult:
    """Measures a model; see `Settings` and `SpeedResult`.

    Args:
        subject: the model. Nothing may be attached to it.
        settings: what to do.
        tell: is given a line for people before each step.
        goals: whether the sides run that only the goals need.

    Returns:
        What was found. A method that can't run on this model is left out, with a note that says why.
    """
    say = tell or (lambda text: None)
    clock = Clock(subject.device, settings.cpu_time)
    facts, notes = machine_facts(subject.device), []
    frames = made.make_frames(settings.frames, settings.width, settings.height, settings.seed)
    stages: dict[str, Spread | None] = {"decode_video": None}
    if made.can_write():
        say("Reading a video file")
        stages["decode_video"] = _decode(frames, settings, clock)
    else:
        notes.append("PyAV is not installed, so that no video file was written and read: decode_video is left out.")
    say("Preprocessing")
    stages["preprocess"] = Spread.of([clock.time(lambda: subject.encode([frames]))[0] for _ in range(settings.repeats)])
    batches: list[Batch] = []
    held: list[Goal] = []
    with torch.inference_mode(), clock.running(), Probe(subject, clock) as probe:
        for size in settings.batches:
            contest = Contest(subject, settings, probe, _clips(subject, frames, size), say)
            first = not batches
            sides = contest.run(extra=goals and first, weigh=first and settings.memory)
            batches.append(Batch(size, tuple(len(clip) for clip in contest.clips), tuple(sides)))
            stages.setdefault("vision", contest.vision)
            notes += [note for note in contest.notes if note not in notes]
            if goals and first:
                held = goals_of(contest.goal_ratios(), subject.device.type == "cuda", subject_facts(subject))
    chosen = plain(settings)
    return SpeedResult(facts, subject_facts(subject), chosen, stages, tuple(batches), tuple(held), tuple(notes))


def subject_facts(subject: Subject) -> dict[str, Any]:
    """A model's name and sizes."""
    text = subject.language_model.config
    return {
        "name": subject.name,
        "family": subject.base.config.model_type,
        "layers": int(text.num_hidden_layers),
        "width": int(text.hidden_size),
        "weights": sum(weight.numel() for weight in subject.model.parameters()),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "attention": str(text._attn_implementation),
    }


def _decode(frames: Frames, settings: Settings, clock: Clock) -> Spread:
    """Milliseconds in which a file of these frames is read."""
    from prunevid.video import load_clip

    with tempfile.TemporaryDirectory() as folder:
        path = made.write_file(frames, Path(folder) / "clip.mp4")
        load_clip(path, max_frames=len(frames))
        spent = [clock.time(lambda: load_clip(path, max_frames=len(frames)))[0] for _ in range(settings.repeats)]
    return Spread.of(spent)


def _clips(subject: Subject, frames: Frames, size: int) -> list[Frames]:
    """The clips of a batch: every second one half as long, where the family takes clips of different lengths."""
    equal = subject.adapter.equal_frames
    return [frames[: len(frames) if equal or number % 2 == 0 else max(2, len(frames) // 2)] for number in range(size)]
