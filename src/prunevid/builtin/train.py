# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model from scratch: `python -m prunevid.builtin.train --out DIR [--minutes M] [--resume]`.

Everything is rendered on the fly from seeds, so a run needs nothing but this package. The budget is wall-clock time (or
`--steps`, for a run that can be repeated exactly): the first tenth trains the vision tower alone, the rest is end to
end. A checkpoint is written every three minutes and at the end; `--resume` goes on from the last one as if nothing had
happened. At the end `model.safetensors` (bfloat16) lies in DIR. Accuracy stays flat for a while (the model must first
learn to look things up) and then jumps: do not stop early.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from prunevid.builtin import checkpoint, learning
from prunevid.builtin.model import build_model

log = logging.getLogger("prunevid.builtin.train")


@dataclass(frozen=True)
class Settings:
    """Settings of a run; `steps` (over both phases), when given, replaces `minutes`."""

    minutes: float = 86.0
    steps: int | None = None
    clips: int = 8
    questions: int = 14
    rate: float = 1.3e-3
    vision_share: float = 0.1
    save_seconds: float = 180.0
    look_seconds: float = 240.0
    look_clips: int = 48
    seed: int = 0


class Run:
    """One training run in a folder; `phase` 0 is the vision tower alone, 1 end to end."""

    def __init__(self, folder: Path, settings: Settings, *, resume: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings = folder, settings
        torch.manual_seed(settings.seed)
        self.model = build_model().train()
        learning.fast_vision_attention(self.model)
        self.heads = learning.Heads(self.model.config.text_config.hidden_size)
        self.optimizers = learning.optimizers(self.model, self.heads)
        self.progress = checkpoint.Progress()
        if resume:
            self.progress = checkpoint.restore(folder, self.model, self.heads, self.optimizers)
        self._looked = self._saved = time.monotonic()

    def share(self) -> float:
        """Share of the present phase that is done, 0 ... 1."""
        part = self.settings.vision_share if self.progress.phase == 0 else 1 - self.settings.vision_share
        if self.settings.steps is not None:
            return self.progress.step / max(round(part * self.settings.steps), 1)
        return self.progress.seconds / (part * self.settings.minutes * 60)

    def finished(self) -> bool:
        """Whether both phases are done."""
        return self.progress.phase > 1

    def step(self) -> dict[str, float]:
        """One optimiser step of the present phase on the next clips."""
        began, now = time.monotonic(), self.progress
        rate = learning.learning_rate(self.share(), self.settings.rate)
        clips = self.settings.clips * (2 if now.phase == 0 else 1)
        # The phases draw from far apart seeds of the training split.
        first = now.step * clips + (500_000_000 if now.phase == 0 else 0)
        batch = learning.make_batch(
            first, clips, "train", 1 if now.phase == 0 else self.settings.questions, augment=True
        )
        loss_of: Callable = learning.vision_loss if now.phase == 0 else learning.answer_loss
        loss, parts = loss_of(self.model, self.heads, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 2.0)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now.step += 1
        now.total_steps += 1
        if now.phase == 1:
            now.clips += clips
            now.pairs += len(batch.packed.wanted)
        spent = time.monotonic() - began
        now.seconds += spent
        now.total_seconds += spent
        if self.share() >= 1.0:
            now.phase, now.step, now.seconds = now.phase + 1, 0, 0.0
        return {**parts, "rate": rate}

    def train(self, stop_after: int | None = None) -> None:
        """Runs to the end (or for `stop_after` steps), logging, saving and looking at held-out clips on the way."""
        made = 0
        while not self.finished() and (stop_after is None or made < stop_after):
            parts = self.step()
            made += 1
            if self.progress.total_steps % 25 == 0:
                text = " ".join(f"{name} {value:.4f}" for name, value in parts.items())
                log.info(
                    "phase %d step %d %.0f s %s",
                    self.progress.phase,
                    self.progress.step,
                    self.progress.total_seconds,
                    text,
                )
            self._now_and_then()
        checkpoint.save(self.folder, self.model, self.heads, self.optimizers, self.progress)
        if self.finished():
            self.look()
            checkpoint.export(self.model, self.folder / "model.safetensors")

    def look(self) -> float:
        """Logs and returns the accuracy on clips of the dev split."""
        self.model.eval()
        every, kinds = learning.packed_accuracy(self.model, 0, self.settings.look_clips)
        self.model.train()
        log.info("dev accuracy %.3f  %s", every, " ".join(f"{kind} {share:.2f}" for kind, share in kinds.items()))
        return every

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._saved > self.settings.save_seconds:
            checkpoint.save(self.folder, self.model, self.heads, self.optimizers, self.progress)
            self._saved = now
        if self.progress.phase == 1 and now - self._looked > self.settings.look_seconds:
            self.look()
            self._looked = now


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    standard = Settings()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the final weights")
    parser.add_argument("--minutes", type=float, default=standard.minutes, help="wall-clock budget")
    parser.add_argument("--steps", type=int, help="budget in steps instead: a run that can be repeated exactly")
    parser.add_argument("--clips", type=int, default=standard.clips, help="clips in a step")
    parser.add_argument("--seed", type=int, default=standard.seed, help="seed of the first weights")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = Settings(minutes=given.minutes, steps=given.steps, clips=given.clips, seed=given.seed)
    Run(given.out, settings, resume=given.resume).train()


if __name__ == "__main__":
    main()
