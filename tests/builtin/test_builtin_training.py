# SPDX-License-Identifier: Apache-2.0
"""Training: losses fall, a resumed run equals an uninterrupted one, checkpoints hold no pickle."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prunevid.builtin import learning
from prunevid.builtin.clips import make_clip
from prunevid.builtin.model import build_model, load_weights, vocabulary
from prunevid.builtin.train import Run, Settings, main
from prunevid.errors import PruneVidError

SMALL = Settings(steps=6, clips=2, questions=4, vision_share=0.5, look_clips=2, save_seconds=1e9, look_seconds=1e9)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    Run(tmp_path / "whole", SMALL).train()
    for number in range(3):
        run = Run(tmp_path / "parts", SMALL, resume=number > 0)
        run.train(stop_after=2)
    assert run.finished()
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    parts = load_file(tmp_path / "parts" / "checkpoint.safetensors")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    weights = load_file(tmp_path / "parts" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    load_weights(build_model(), tmp_path / "parts" / "model.safetensors")
    kinds = {path.suffix for path in (tmp_path / "parts").iterdir()}
    assert kinds == {".safetensors", ".json"}


@pytest.mark.parametrize("phase", [0, 1])
def test_the_loss_falls_on_clips_seen_again(phase: int) -> None:
    torch.manual_seed(0)
    model = build_model().train()
    heads = learning.Heads(192)
    parts = learning.optimizers(model, heads)
    batch = learning.make_batch(0, 2, "train", 6, augment=True)
    loss_of = (learning.vision_loss, learning.answer_loss)[phase]
    losses = []
    for _ in range(12):
        loss, _ = loss_of(model, heads, batch)
        loss.backward()
        for optimizer in parts.values():
            for group in optimizer.param_groups:
                group["lr"] = 2e-3
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_every_weight_is_trained_by_one_optimizer() -> None:
    model = build_model()
    heads = learning.Heads(192)
    mine = [
        id(w) for part in learning.optimizers(model, heads).values() for g in part.param_groups for w in g["params"]
    ]
    assert sorted(mine) == sorted(id(w) for w in [*model.parameters(), *heads.parameters()])


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [learning.learning_rate(i / 1000, 1.0) for i in range(1001)]
    assert 0 < rates[0] < 0.05
    assert max(rates) == 1.0 == rates[300]
    assert rates[-1] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(rates[300:]))


def test_batches_depend_on_their_seeds_only() -> None:
    one, two = (learning.make_batch(16, 2, "train", 5, augment=True) for _ in range(2))
    assert torch.equal(one.pixels, two.pixels)
    assert torch.equal(one.packed.ids, two.packed.ids)
    plain = learning.make_batch(16, 2, "train", 5, augment=False)
    assert not torch.equal(one.pixels, plain.pixels)
    assert (one.pixels - plain.pixels).abs().mean() < 0.15


def test_names_in_questions_call_up_the_other_word_of_the_one_thing() -> None:
    batch = learning.make_batch(0, 6, "train", 14, augment=False)
    words = {number: word for word, number in vocabulary().items()}
    things = [thing for seed in range(6) for thing in make_clip(seed, "train").plan.things]
    pairs = {(thing.shape, color) for thing in things for color in thing.all_colors()}
    ids = batch.packed.ids.flatten()
    named = [(words[ids[place].item()], words[other.item()]) for place, other in batch.named.T]
    assert len(named) > 30
    for name, other in named:
        assert (name, other) in pairs or (other, name) in pairs
    first = [words[ids[start].item()] for start in batch.packed.starts]
    assert first == [question.text.split()[0] for row in batch.questions for question in row]


def test_resuming_nothing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PruneVidError, match="no checkpoint"):
        main(["--out", str(tmp_path), "--resume"])


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"something": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(PruneVidError, match="do not fit"):
        load_weights(build_model(), tmp_path / "other.safetensors")
