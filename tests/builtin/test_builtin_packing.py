# SPDX-License-Identifier: Apache-2.0
"""A packed batch of questions gives the logits, positions and pixels of the ordinary processor and forward."""

from __future__ import annotations

import pytest
import torch

from prunevid.builtin import learning
from prunevid.builtin.clips import make_clip
from prunevid.builtin.evaluate import prompts, straight
from prunevid.builtin.model import build_model, build_processor
from prunevid.builtin.packing import GRID, pack, packed_states, patches, prefix_positions, visual_features


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(3)
    model = build_model().eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Weights of a fresh model are so small that attention hardly matters; larger ones make a mistake show.
            if weight.ndim == 2:
                weight.mul_(3.0)
    return model, build_processor()


def processed(processor, clip, texts):
    frames, metadata = straight(clip)
    return processor(
        text=prompts(processor, texts),
        videos=[frames] * len(texts),
        video_metadata=[dict(metadata) for _ in texts],
        padding=True,
        return_tensors="pt",
    )


def pixels_of(clips) -> torch.Tensor:
    frames = torch.stack([torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255 for clip in clips])
    return patches((frames - 0.5) / 0.5)


@torch.no_grad()
def test_packed_logits_equal_single_questions(parts) -> None:
    model, processor = parts
    clips = [make_clip(seed, questions=4) for seed in (3, 11)]
    batch = pack([clip.questions for clip in clips])
    features = visual_features(model, pixels_of(clips), len(clips))
    last = packed_states(model, features, batch)[-1].flatten(0, 1)
    logits = model.lm_head(last[batch.asked[:, 0]])
    number = 0
    for clip in clips:
        for question in clip.questions:
            alone = model(**processed(processor, clip, [question.text])).logits[0, -1]
            torch.testing.assert_close(logits[number], alone, atol=2e-4, rtol=1e-4)
            number += 1
    assert number == len(logits) == 8
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


@torch.no_grad()
def test_positions_and_patches_equal_the_library(parts) -> None:
    model, processor = parts
    clip = make_clip(3)
    inputs = processed(processor, clip, [clip.questions[0].text])
    torch.testing.assert_close(pixels_of([clip]), inputs["pixel_values_videos"], atol=1e-6, rtol=0)
    theirs, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
        attention_mask=inputs["attention_mask"],
    )
    ours = torch.from_numpy(prefix_positions())
    assert torch.equal(theirs[:, 0, : ours.shape[1]], ours)
    assert len(set(ours[0, 3:-1].tolist())) == GRID[0]
    packed = pack([[clip.questions[0]]])
    length = theirs.shape[-1]
    assert torch.equal(packed.ids[0, :length], inputs["input_ids"][0])
    assert torch.equal(packed.positions[:, 0, :length], theirs[:, 0])


def test_training_s_shortcuts_change_no_loss_and_no_gradient(parts) -> None:
    stock, _ = parts
    batch = learning.make_batch(1, 2, "train", 4, augment=True)
    heads = learning.Heads(stock.config.text_config.hidden_size)
    found = []
    for shorten in (False, True):
        model = build_model().train()
        model.load_state_dict(stock.state_dict())
        if shorten:
            learning.train_faster(model)
        loss, _ = learning.answer_loss(model, heads, batch)
        loss.backward()
        found.append((loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
