# SPDX-License-Identifier: Apache-2.0
"""Pruning over query slots: clips of any length, both inputs, a video before all text, and held clips."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import prunevid
from engine.families import SLOTS, build, make_inputs, make_prompt, settings
from engine.masked_reference import compare, plain_copy
from engine.matrix import order_of
from engine.tiny import KERNELS, generate
from models.original_stllm import PARTS, bert_tokenizer, llama_tokenizer, random_weights, write
from prunevid.engine.rows import plan_rows
from prunevid.errors import InputError
from prunevid.models import VideoLayout
from prunevid.models.stllm import STLLMForConditionalGeneration, STLLMProcessor, STLLMVideoProcessor, converting
from prunevid.models.stllm.prompts import conversation, mvbench
from prunevid.qa import VideoQA

SCENES: dict[int, tuple[int, ...]] = {4: (2, 2), 5: (5,), 6: (2, 4), 7: (4, 3), 12: (5, 4, 3), 16: (4, 6, 3, 3)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("frames", SCENES)
def test_clips_of_every_length(frames: int, kernel: str) -> None:
    """From 4 frames on, where fewer than the seven nearest exist, to 16; the video stands first in every row."""
    model, config = build("stllm", kernel), settings("stllm", temporal_segment_ratio=0.25)
    prompts = [make_prompt("stllm", SCENES[frames], text, seed=text) for text in (3, 9)]
    with prunevid.attach(model, config) as pruning:
        out = generate(model, make_inputs(*prompts), 3)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))
    for (token_map,) in pruning.maps:
        layout = token_map.layout
        assert (layout.frames, layout.height, layout.width, layout.tail) == (frames, 1, SLOTS, 0)
        assert sum(token_map.merged.scene_lengths) == frames
        assert frames * SLOTS > token_map.tokens > len(token_map.kept) > 0


@functools.cache
def _residual(kernel: str) -> Any:
    """The tiny model with the conversation checkpoint's input: 12 frames become 5."""
    plain = build("stllm", kernel)
    config = copy.deepcopy(plain.config)
    config.video_input, config.residual_frames, config.residual_size, config.bt_adapter_depth = "residual", 5, 16, 0
    model = STLLMForConditionalGeneration(config).eval().requires_grad_(False)
    missing, _ = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing == [f"model.residual.{part}.{kind}" for part in ("down", "up") for kind in ("weight", "bias")]
    model.generation_config = plain.generation_config
    return model


def _shown(scenes: tuple[int, ...], text: int, kept: int) -> Any:
    """A prompt whose clip has as many frames as the scenes, of which `kept` frames' tokens stand in it."""
    long, short = (make_prompt("stllm", part, text, seed=text) for part in (scenes, (kept,)))
    video = dataclasses.replace(short.videos[0], pixels=long.videos[0].pixels)
    return dataclasses.replace(short, videos=[video], shown=[video])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_residual_input(kernel: str) -> None:
    model, config = _residual(kernel), settings("stllm")
    prompts = [_shown((7, 5), text, 5) for text in (4, 8)]
    with prunevid.attach(model, config) as pruning:
        out = generate(model, make_inputs(*prompts), 3)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))
    assert [maps[0].layout.frames for maps in pruning.maps] == [5, 5]
    assert all(5 * SLOTS > maps[0].tokens > len(maps[0].kept) > 0 for maps in pruning.maps)


def test_every_token_of_text_asks() -> None:
    """Stage 2's question rows are BOS and all tokens behind it, in rows of the processor that are padded too."""
    tokenizer, questions = llama_tokenizer(), bert_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    processor = STLLMProcessor(STLLMVideoProcessor(), tokenizer, questions)
    clips = [torch.zeros(3, 20, 30, 3, dtype=torch.uint8).numpy()] * 2
    texts = [text(word) for text, word in ((mvbench, "what?"), (conversation, "why?"))]
    rows = processor([f"<unk>{text}" for text in texts], clips, input_data_format="channels_last")
    layouts = [VideoLayout(3, 1, SLOTS)] * 2
    plans = plan_rows({"video": rows["input_ids"] == 0}, rows["attention_mask"].bool(), {"video": layouts})
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert [plan.after for plan in plans] == [1 + count for count in counts] and counts[0] > counts[1]
    assert [plan.tokens for plan in plans] == [3 * SLOTS + 1 + count for count in counts]


def test_a_held_clip_is_encoded_once_for_every_question() -> None:
    """The features depend on the question: the same pixels are known again with the same question only."""
    model, config = build("stllm"), settings("stllm")
    inputs = make_inputs(make_prompt("stllm", (3, 2), 6))
    other = inputs | {"qformer_input_ids": inputs["qformer_input_ids"].flip(1)}
    calls: list[Tensor] = []
    tower = model.model.vision_model
    with prunevid.attach(model, config):
        expected = [torch.stack(generate(model, one, 2).logits) for one in (inputs, other)]
    handle = tower.register_forward_hook(lambda *call: calls.append(call[1][0]))
    with prunevid.attach(model, config) as pruning, pruning.reuse():
        for one, result, encoded in ((inputs, 0, 1), (inputs, 0, 1), (other, 1, 2), (other, 1, 2), (inputs, 0, 2)):
            again = one | {"qformer_input_ids": one["qformer_input_ids"].clone()}  # the values count
            assert torch.equal(torch.stack(generate(model, again, 2).logits), expected[result])
            assert len(calls) == encoded
    handle.remove()
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_wrong_arguments() -> None:
    model = build("stllm")
    inputs = make_inputs(make_prompt("stllm", (3, 2), 6))
    ids = inputs["input_ids"]
    for change, message in (
        ({"pixel_values_videos": inputs["pixel_values_videos"][0]}, "4 axes"),
        ({"qformer_input_ids": inputs["qformer_input_ids"].repeat(2, 1)}, "1 videos, but 2 questions"),
        ({"qformer_input_ids": None}, "without qformer_input_ids"),
        ({"input_ids": ids[:, 1:].clone().fill_(9), "attention_mask": None}, "0 placeholders"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 64), "attention_mask": None}, "needs input_ids"),
        ({"inputs_embeds": torch.zeros(1, 3, 64)}, "either input_ids or inputs_embeds"),
        ({"pixel_values_videos": inputs["pixel_values_videos"].repeat(1, 4, 1, 1, 1)}, "20 frames.*16 at most"),
    ):
        with pytest.raises(InputError, match=message):
            model(**(inputs | change))


@pytest.mark.parametrize("variant", ["qa", "conversation"])
def test_from_a_checkpoint_to_an_answer(tmp_path: Path, variant: str) -> None:
    """A converted folder answers, pruned and not, alone and in a batch of questions of different length."""
    converting.convert(write(tmp_path / "from", random_weights(variant)), tmp_path / "to", **PARTS)
    config = prunevid.PruneVidConfig(pruning_layer=0, tau=0.9)
    qa = VideoQA.from_pretrained(tmp_path / "to", config=config, device="cpu", dtype="float32")
    frames = torch.randint(0, 256, (8, 20, 30, 3), dtype=torch.uint8).numpy()
    clip = qa.load_clip(images=list(frames), max_frames=8)
    asked = ["why?", "Question: what moves?\nOptions:\n(A) a cat\n(B) a dog"]
    alone = [qa.ask(clip, question, max_new_tokens=4) for question in asked]
    batch = qa.ask_batch([(clip, question) for question in asked], max_new_tokens=4)
    plain, pruned = qa.compare(clip, asked[0], max_new_tokens=4)
    tokens = {"qa": 8, "conversation": 16}[variant] * 32
    for one, other in zip(alone, batch):
        assert one.text == other.text and one.stats["stage2"] == other.stats["stage2"]
        assert one.stats["stage1"]["original_tokens"] == tokens
        assert tokens > one.stats["stage1"]["compressed_tokens"] > one.stats["stage2"]["compressed_tokens"] > 0
    assert pruned.text == alone[0].text
    assert plain.stats["stage2"]["compressed_tokens"] == tokens
