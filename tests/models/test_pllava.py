# SPDX-License-Identifier: Apache-2.0
"""PLLaVA's pictures, prompts and processor, and what the model makes of images and of other numbers of frames."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoProcessor

import prunevid
from engine.families import build, settings
from engine.tiny import generate
from models import hub_pllava as hub
from models.recorded import Shared
from prunevid import models
from prunevid.errors import ConfigError, InputError
from prunevid.models.pllava import PLLaVAProcessor, prompts, published_config
from prunevid.models.pllava.pictures import Pictures
from prunevid.qa import VideoQA

SIZES = ["720x1280", "240x320", "480x640", "360x360", "640x360", "1080x1920", "100x400"]
NOISE = np.random.default_rng(3).integers(0, 255, (17, 40, 50, 3), dtype=np.uint8)


def recorded_frame(size: str) -> np.ndarray:
    """The frame from which the recorded pixels were made."""
    height, width = map(int, size.split("x"))
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x // 17 + y // 13) % 2 * 200], axis=-1).astype(np.uint8)


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["array", "picture", "channels first"])
@pytest.mark.parametrize("size", SIZES)
def test_recorded_pixels(shared: Shared, size: str, form: str) -> None:
    recorded = torch.from_numpy(np.load(shared("golden", "preproc.npz"))[size])
    frame: Any = recorded_frame(size)
    if form == "picture":
        frame = Image.fromarray(frame)
    elif form == "channels first":
        frame = frame.transpose(2, 0, 1)
    found = Pictures()([frame], "channels_first" if form == "channels first" else "channels_last")
    assert torch.equal(found.half(), recorded)


@pytest.mark.parametrize("size", ["720x1280", "1080x1920"])
def test_one_resize_gives_other_pixels(shared: Shared, size: str) -> None:
    recorded = torch.from_numpy(np.load(shared("golden", "preproc.npz"))[size]).float()
    found = Pictures(longest_edge=10**6)([recorded_frame(size)])
    assert (found - recorded).abs().max() > 0.05


@pytest.mark.parametrize(
    ("size", "edge"),
    [
        ((1280, 720), 360),
        ((320, 240), 336),
        ((640, 480), 480),
        ((360, 360), 360),
        ((400, 100), 336),
        ((720, 1280), 360),
    ],
)
def test_the_first_edge(size: tuple[int, int], edge: int) -> None:
    assert Pictures().first_edge(*size) == edge


@pytest.mark.parametrize(
    "frames",
    [[], [np.zeros((4, 4), np.uint8)], [np.zeros((4, 4, 3))], [np.zeros((4, 4, 4), np.uint8)]],
    ids=["none", "no channels", "floats", "four channels"],
)
def test_what_is_no_frame(frames: list[Any]) -> None:
    with pytest.raises(InputError, match=r"no frames|A frame is an array"):
        Pictures()(frames)


# ---- prompts ---------------------------------------------------------------------------------------------------------

MVBENCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n USER: <image>\n USER: Question: Q?\nOptions:\n(A) a\n(B) b \nOnly give the best option. "
    "ASSISTANT:Best option:("
)
VIDEOMME = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, or D) of the correct option.\n USER: <image>\n USER: Question: Q?\nOptions:\n(A) a\n(B) b \nOnly give "
    "the best option. ASSISTANT:Best option:("
)
SYSTEM = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content that the "
    "user provides, and assist the user with a variety of tasks using natural language.Follow the instructions "
    "carefully and explain your answers in detail based on the provided video."
)
CHATML = (
    SYSTEM
    + "<|im_end|>\n<|im_start|>user\n<image>\n<|im_end|>\n<|im_start|>user\nQuestion: Q?\nOptions:\n(A) a\n(B) b "
    "\nOnly give the best option.<|im_end|>\n<|im_start|>assistant\nBest option:("
)


def test_prompts_to_the_letter() -> None:
    assert prompts.mvbench("Q?", ["a", "b"]) == MVBENCH
    assert prompts.videomme("Q?", ["a", "b"]) == VIDEOMME
    assert prompts.chat("Q?") == SYSTEM + " USER: <image>\n USER: Q? ASSISTANT:"
    assert prompts.mvbench("Q?", ["a", "b"], "chatml") == CHATML
    assert prompts.options("Q?", ["a", "b "]) == "Question: Q?\nOptions:\n(A) a\n(B) b"


@pytest.mark.parametrize("style", prompts.STYLES)
def test_the_chat_template_is_the_prompt(style: str) -> None:
    processor = PLLaVAProcessor(hub.tokenizer(), prompts.chat_template(style))
    for content in ("what moves ?", [{"type": "video"}, {"type": "text", "text": "what moves ?"}]):
        said = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert said == prompts.chat("what moves ?", style)


@pytest.mark.parametrize(
    "call",
    [
        lambda: prompts.chat("what is <image> ?"),
        lambda: prompts.mvbench("Q?", []),
        lambda: prompts.mvbench("Q?", ["a"] * 27),
        lambda: prompts.chat("Q?", "llama"),
    ],
)
def test_prompts_that_can_not_be_made(call: Any) -> None:
    with pytest.raises(InputError):
        call()


# ---- the processor ---------------------------------------------------------------------------------------------------


def processor(**options: Any) -> PLLaVAProcessor:
    """The published sizes, but for the pictures' side."""
    return PLLaVAProcessor(hub.tokenizer(), prompts.chat_template("vicuna"), **({"crop_size": 28} | options))


@pytest.mark.parametrize(("frames", "tokens"), [(16, 2304), (8, 1152), (17, 2448), (1, 2304)])
def test_as_many_placeholders_as_tokens(frames: int, tokens: int) -> None:
    made = processor()(
        text=["what <image> is", "the <image> circle moves ?"], videos=[NOISE[:frames], list(NOISE[:frames])]
    )
    assert (made["input_ids"] == hub.IMAGE).sum(1).tolist() == [tokens, tokens]
    assert made["pixel_values_videos"].shape == (2, frames, 3, 28, 28)
    assert torch.equal(made["pixel_values_videos"][0], made["pixel_values_videos"][1])
    assert made["attention_mask"][0].tolist() == [0, 0] + [1] * (tokens + 2) and made["attention_mask"][1].all()


def test_one_video_or_picture_alone() -> None:
    for videos in (NOISE[:2], list(NOISE[:2]), [NOISE[:2]]):
        assert processor()(text="<image>", videos=videos)["pixel_values_videos"].shape == (1, 2, 3, 28, 28)
    picture = Image.fromarray(NOISE[0])
    for images in (NOISE[0], picture, [picture]):
        assert processor()(images, "<image>")["pixel_values_videos"].shape == (1, 1, 3, 28, 28)
    both = processor()([picture, NOISE[1]], "<image> is <image>")
    assert both["pixel_values_videos"].shape[0] == 2 and int((both["input_ids"] == hub.IMAGE).sum()) == 2 * 2304
    assert "pixel_values_videos" not in processor()(text="what moves ?")


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    models.register_ports()
    made = processor(num_frames=8, pooling_shape=(8, 3, 4), longest_edge=50, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    made.save_pretrained(tmp_path)
    for again in (PLLaVAProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(again, PLLaVAProcessor) and again.chat_template == made.chat_template
        assert again.tokens_of(8) == again.tokens_of(1) == 96 and again.tokens_of(5) == 60
        first, second = (one(text="<image> moves", videos=NOISE[:5]) for one in (made, again))
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(videos=NOISE[:2]), "There is no text"),
        (dict(text="<image>"), "hold 1 times '<image>' for 0 videos"),
        (dict(text="<image> <image>", videos=NOISE[:2]), "hold 2 times '<image>' for 1 videos"),
        (dict(text="<image> <image>", videos=[NOISE[:2], NOISE[:3]]), r"have \[2, 3\] frames"),
        (dict(text="<image>", videos=NOISE[:2], images=NOISE[0]), "either images or videos"),
        (dict(text="<image>", videos=NOISE[:2], return_tensors="np"), "return_tensors is 'np'"),
    ],
)
def test_inputs_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        processor()(**arguments)


def test_a_tokenizer_without_the_placeholder() -> None:
    from app import tiny_qwen

    with pytest.raises(InputError, match="does not know '<image>'"):
        PLLaVAProcessor(tiny_qwen.tokenizer())


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [2, 4, 5, 7])
def test_frames_are_pooled_by_themselves(frames: int) -> None:
    """Means over 2 x 2 patches after the projector; no frame is mixed with another, whatever their number."""
    model = build("pllava").model
    pixels = torch.randn(2, frames, 3, 40, 40)
    found = model.get_video_features(pixels).pooler_output
    states = model.vision_tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states[-2][:, 1:]
    tokens = functional.gelu(
        states @ model.multi_modal_projector.linear_1.weight.T + model.multi_modal_projector.linear_1.bias
    )
    tokens = tokens @ model.multi_modal_projector.linear_2.weight.T + model.multi_modal_projector.linear_2.bias
    grid = tokens.view(2, frames, 5, 2, 5, 2, -1)
    wanted = (grid[:, :, :, 0, :, 0] + grid[:, :, :, 0, :, 1] + grid[:, :, :, 1, :, 0] + grid[:, :, :, 1, :, 1]) / 4
    torch.testing.assert_close(found, wanted.flatten(1, 3), atol=1e-6, rtol=0)


def test_time_is_pooled_where_the_config_says_so() -> None:
    model = build("pllava").model
    model.config.num_frames, model.config.pooling_shape = 6, [3, 5, 5]
    pixels = torch.randn(1, 6, 3, 40, 40)
    found = model.get_video_features(pixels).pooler_output
    model.config.num_frames = 7
    single = model.get_video_features(pixels).pooler_output.view(1, 3, 2, 25, -1)
    torch.testing.assert_close(found, single.mean(2).flatten(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_an_image_is_a_video_of_equal_frames(kernel: str) -> None:
    """It is encoded once, and merged and chosen from like that video."""
    model, config = build("pllava", kernel), settings("pllava")
    picture = torch.randn(1, 1, 3, 40, 40)
    runs: list[int] = []
    model.model.vision_tower.register_forward_hook(lambda module, args, out: runs.append(len(out.last_hidden_state)))
    ids = torch.tensor([[20, 21, *[model.config.image_token_index] * 125, 22, 23, 24]])
    results = []
    for pixels in (picture, picture.expand(-1, 5, -1, -1, -1)):
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
        with prunevid.attach(model, config) as pruning:
            out = generate(model, inputs, 3)
        results.append((torch.stack(out.logits), pruning.maps[0][0]))
    assert runs == [1, 5]
    (one, first), (other, second) = results
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert first.layout == second.layout and first.layout.cells == 125
    assert first.merged.features.shape[0] < 125 and first.kept.tolist() == second.kept.tolist()


@pytest.mark.parametrize("method", ["visionzip", "prumerge", "fastvid"])
def test_an_image_for_methods_that_ask_for_the_tower(method: str) -> None:
    model = build("pllava")
    ids = torch.tensor([[20, 21, *[model.config.image_token_index] * 125, 22, 23, 24]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    picture = torch.randn(1, 1, 3, 40, 40)
    counts = []
    for pixels in (picture, picture.expand(-1, 5, -1, -1, -1)):
        with prunevid.attach(model, method) as pruning:
            generate(model, {**inputs, "pixel_values_videos": pixels}, 2)
        counts.append(pruning.stats[0]["stage2"]["compressed_tokens"])
    assert counts[0] == counts[1] < 125


def test_inputs_that_the_model_refuses() -> None:
    model = build("pllava")
    ids = torch.full((1, 125), model.config.image_token_index)
    with pytest.raises(InputError, match=r"has the shape \(5, 3, 40, 40\)"):
        model(input_ids=ids, pixel_values_videos=torch.zeros(5, 3, 40, 40))
    with pytest.raises(InputError, match="hold 124 placeholders, but the videos have 125 tokens"):
        model(input_ids=ids[:, 1:], pixel_values_videos=torch.zeros(1, 5, 3, 40, 40))
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        model()
    embeds = model.get_input_embeddings()(ids)
    with pytest.raises(InputError, match="need input_ids"):
        model(inputs_embeds=embeds, pixel_values_videos=torch.zeros(1, 5, 3, 40, 40))


def test_labels_and_gradients() -> None:
    """It is a stock model besides: a loss has gradients."""
    model = build("pllava").requires_grad_(True)
    ids = torch.tensor([[20, *[model.config.image_token_index] * 125, 22, 23, 24]])
    loss = model(input_ids=ids, pixel_values_videos=torch.randn(1, 5, 3, 40, 40), labels=ids).loss
    loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().max() > 0


def test_an_unknown_size() -> None:
    with pytest.raises(ConfigError, match="size is '70b'"):
        published_config("70b")


def test_rows_of_a_batch_are_the_rows_alone() -> None:
    """From pictures through the processor: a batch of clips gives what each clip gives."""
    model = build("pllava")
    model.resize_token_embeddings(hub.VOCABULARY, mean_resizing=False)
    model.config.image_token_index = hub.IMAGE
    made = processor(crop_size=40, num_frames=5, pooling_shape=(5, 5, 5))
    qa = VideoQA(model, made, config=settings("pllava"))
    questions = ["what moves ?", "is the circle what ?", "colour ?", "what colour ?"]
    pairs = list(zip((list(NOISE[first:last]) for first, last in ((0, 5), (5, 10), (10, 15), (15, 17))), questions))
    batch = qa.ask_batch(pairs, max_new_tokens=3)
    for (clip, question), together in zip(pairs, batch):
        alone = qa.ask(clip, question, max_new_tokens=3)
        assert together.text == alone.text and together.stats["stage2"] == alone.stats["stage2"]
        assert together.stats["stage1"]["original_tokens"] == len(clip) * 25


def test_it_needs_nothing_that_reads_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "pllava", models.pllava)
    for name in [name for name in sys.modules if name.startswith("prunevid.models.pllava")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("av", "prunevid.video", "prunevid.prompting"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("adapter", "configuration", "conversion", "lora", "modeling", "pictures", "processing", "prompts"):
        assert importlib.import_module(f"prunevid.models.pllava.{name}")
