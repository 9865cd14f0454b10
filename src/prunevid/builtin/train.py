# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded model from scratch: `python -m prunevid.builtin.train --out DIR [--steps N] [--seed S]`.

Everything is rendered on the fly from seeds, so a run needs nothing but this package. The budget is a number of steps
(or `--minutes` of computing): the first tenth trains the vision tower alone, the rest is end to end. Products may be
taken in bfloat16 (`--dtype bfloat16`, for GPUs and for CPUs with matrix units); weights and their updates stay in
float32. A checkpoint is written every three minutes and at the end; `--resume` goes on from the last one as if nothing
had happened. At the end `model.safetensors` (bfloat16) lies in DIR. Accuracy stays flat for a while (the model must
first learn to look things up) and then jumps: do not stop early.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from prunevid.builtin import checkpoint, learning
from prunevid.builtin.model import build_model

_ENDLESS = 1 << 40
log = logging.getLogger("prunevid.builtin.train")


@dataclass(frozen=True)
class Settings:
    """Settings of a run; `minutes`, when given, replaces `steps` (over both phases). `workers` render clips beside."""

    minutes: float | None = None
    steps: int = 3_200
    clips: int = 8
    questions: int = 18
    rate: float = 1.3e-3
    vision_share: float = 0.1
    save_seconds: float = 180.0
    look_seconds: float = 240.0
    look_clips: int = 48
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    workers: int = 0


class Batches(Dataset):
    """The batch of each step of a phase; every seed of a run has clips of its own."""

    def __init__(self, settings: Settings, phase: int) -> None:
        self.settings, self.phase = settings, phase

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> learning.Batch:
        settings = self.settings
        clips = settings.clips * (2 if self.phase == 0 else 1)
        # Phases and runs draw from far apart seeds of the training split.
        first = step * clips + 500_000_000 * (1 - self.phase) + 1_000_000_000 * settings.seed
        questions = 1 if self.phase == 0 else settings.questions
        return learning.make_batch(first, clips, "train", questions, augment=True)


class Run:
    """One training run in a folder; `phase` 0 is the vision tower alone, 1 end to end."""

    def __init__(self, folder: Path, settings: Settings, *, resume: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings = folder, settings
        torch.manual_seed(settings.seed)
        self.device = torch.device(settings.device)
        self.model = build_model().train().to(self.device)
        learning.train_faster(self.model)
        self.heads = learning.Heads(self.model.config.text_config.hidden_size).to(self.device)
        self.optimizers = learning.optimizers(self.model, self.heads)
        self.progress = checkpoint.Progress()
        if resume:
            self.progress = checkpoint.restore(folder, self.model, self.heads, self.optimizers)
        self._looked = self._saved = time.monotonic()
        self._batches = self._from(self.progress.step)

    def _from(self, step: int) -> Iterator[learning.Batch]:
        """The batches of the present phase from a step on, made by the workers in advance where there are any."""
        batches = Batches(self.settings, min(self.progress.phase, 1))
        return iter(DataLoader(batches, None, sampler=range(step, _ENDLESS), num_workers=self.settings.workers))

    def share(self) -> float:
        """Share of the present phase that is done, 0 ... 1."""
        part = self.settings.vision_share if self.progress.phase == 0 else 1 - self.settings.vision_share
        if self.settings.minutes is None:
            return self.progress.step / max(round(part * self.settings.steps), 1)
        return self.progress.seconds / (part * self.settings.minutes * 60)

    def finished(self) -> bool:
        """Whether both phases are done."""
        return self.progress.phase > 1

    def step(self) -> dict[str, float]:
        """One optimiser step of the present phase on the next clips."""
        began, now = time.monotonic(), self.progress
        rate = learning.learning_rate(self.share(), self.settings.rate)
        batch = next(self._batches).to(self.device)
        loss_of: Callable = learning.vision_loss if now.phase == 0 else learning.answer_loss
        with torch.autocast(self.device.type, getattr(torch, self.settings.dtype), self.settings.dtype != "float32"):
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
            now.clips += batch.clips
            now.pairs += len(batch.packed.wanted)
        spent = time.monotonic() - began
        now.seconds += spent
        now.total_seconds += spent
        if self.share() >= 1.0:
            now.phase, now.step, now.seconds = now.phase + 1, 0, 0.0
            self._batches = self._from(0)
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
    parser.add_argument("--steps", type=int, default=standard.steps, help="steps over both phases")
    parser.add_argument("--minutes", type=float, help="minutes of computing instead of steps")
    parser.add_argument("--clips", type=int, default=standard.clips, help="clips in a step")
    parser.add_argument("--rate", type=float, default=standard.rate, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=standard.seed, help="seed of the first weights and of the clips")
    parser.add_argument("--device", default=standard.device, help="where to train: cpu, cuda")
    parser.add_argument("--dtype", default=standard.dtype, choices=("bfloat16", "float32"), help="of the products")
    parser.add_argument("--workers", type=int, default=standard.workers, help="processes that draw clips in advance")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    chosen = {name: value for name, value in vars(given).items() if name not in ("out", "resume")}
    Run(given.out, Settings(**chosen), resume=given.resume).train()


if __name__ == "__main__":
    main()
