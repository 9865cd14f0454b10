# SPDX-License-Identifier: Apache-2.0
"""ST-LLM's inputs: pixels, rows, the question for the Q-Former, prompts, frames and answers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from models.original_stllm import bert_tokenizer, llama_tokenizer
from prunevid.errors import ConfigError, InputError
from prunevid.models.stllm import STLLMConfig, STLLMProcessor, STLLMVideoProcessor, prompts, register_auto
from prunevid.models.stllm.modeling import residual_indices

QUESTION = "Question: What moves?\nOptions:\n(A) a cat\n(B) a dog"
MVBENCH = (
    "###Human: Carefully watch the video and pay attention to the cause and sequence of events, the detail and "
    "movement of objects, and the action and pose of persons. Based on your observations, select the best option that "
    "accurately addresses the question.\nQuestion: What moves?\nOptions:\n(A) a cat\n(B) a dog\nOnly give the best "
    "option.\n###Assistant: Best option:("
)


def make(video_input: str = "all", side: int = 224) -> Any:
    tokenizer, questions = llama_tokenizer(), bert_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return STLLMProcessor(STLLMVideoProcessor(**sizes), tokenizer, questions, video_input=video_input)


def picture(height: int, width: int, number: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = (x * 255 // width, y * 255 // height, ((x // 17 + (y + number) // 13) % 2) * 200)
    return np.stack(planes, -1).astype(np.uint8)


def clip(frames: int, height: int = 30, width: int = 40) -> np.ndarray:
    return np.stack([picture(height, width, number) for number in range(frames)])


def expected_pixels(frame: np.ndarray, side: int) -> Tensor:
    """The described steps, by PIL and numpy alone."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (side, int(side * height / width)) if width == short else (int(side * width / height), side)
    resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (round((edge - side) / 2) for edge in resized.shape[:2])
    cut = resized[top : top + side, left : left + side].astype(np.float64) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy(((cut - mean) / deviation).transpose(2, 0, 1)).float()


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (224, 224), (360, 637), (101, 99), (720, 1280)])
def test_pixels(size: tuple[int, int]) -> None:
    frames = np.stack([picture(*size, number) for number in range(2)])
    found = make()(["<unk>a"], [frames], input_data_format="channels_last")["pixel_values_videos"]
    assert found.shape == (1, 2, 3, 224, 224) and found.dtype == torch.float32
    expected = torch.stack([expected_pixels(frame, 224) for frame in frames])[None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("video_input", "tokens"), [("all", 5 * 32), ("residual", 16 * 32)])
def test_the_video_comes_first_in_every_padded_row(video_input: str, tokens: int) -> None:
    processor = make(video_input, 16)
    texts = [prompts.mvbench(QUESTION), prompts.conversation("Why?"), "no video"]
    rows = processor([f"<unk>{text}" for text in texts[:2]] + texts[2:], [clip(5), clip(5)])
    ids, mask = rows["input_ids"], rows["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64 and set(rows) == set(processor.model_input_names)
    tokenizer = processor.tokenizer
    for row, (text, videos) in enumerate(zip(texts, (tokens, tokens, 0))):
        padding = int((mask[row] == 0).sum())
        assert mask[row].tolist() == [0] * padding + [1] * (len(mask[row]) - padding)
        assert ids[row, :padding].tolist() == [tokenizer.pad_token_id] * padding
        own = ids[row, padding:].tolist()
        assert own[: videos + 1] == [0] * videos + [2]
        assert own[videos + 1 :] == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert 0 not in own[videos:] and tokenizer.decode(own[videos + 1 :]) == text
    questions, shown = rows["qformer_input_ids"], rows["qformer_attention_mask"]
    for row, text in enumerate((QUESTION, "Why?")):
        alone = processor.qformer_tokenizer(text)["input_ids"]
        assert questions[row, : len(alone)].tolist() == alone and shown[row].sum() == len(alone)
    given = processor([f"<unk>{texts[1]}"], [clip(5)], qformer_text="Other?")["qformer_input_ids"][0].tolist()
    assert given == processor.qformer_tokenizer("Other?")["input_ids"]


def test_a_long_question_loses_its_start() -> None:
    processor = make(side=16)
    ids = processor(["<unk>" + prompts.conversation("a " * 300 + "zebra")], [clip(2)])["qformer_input_ids"][0]
    whole = processor.qformer_tokenizer("a " * 300 + "zebra")["input_ids"]
    assert ids.tolist() == [whole[0], *whole[-255:]]


def test_what_is_refused() -> None:
    processor, video = make(side=16), clip(3)
    for texts, videos, message in (
        (["text <unk>"], [video], "before any text"),
        (["<unk><unk>text"], [video], "before any text"),
        (["text"], [video], "0 prompts.*1 videos"),
        (["<unk>text"], None, "1 prompts.*0 videos"),
        (["<unk>a", "<unk>b"], [video, clip(4)], r"\[3, 4\] frames"),
    ):
        with pytest.raises(InputError, match=message):
            processor(texts, videos)
    with pytest.raises(InputError, match="2 texts for the Q-Former"):
        processor(["<unk>a"], [video], qformer_text=["a", "b"])
    with pytest.raises(InputError, match="video_input is 'some'"):
        STLLMProcessor(None, None, None, video_input="some")


@pytest.mark.parametrize(
    "wrong",
    [{"video_input": "some"}, {"bt_adapter_depth": 40}, {"num_query_tokens": 0}, {"video_token_id": 32001}],
    ids=str,
)
def test_configs_that_can_not_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        STLLMConfig(**wrong)


def test_saved_and_loaded(tmp_path: Path) -> None:
    register_auto()
    register_auto()
    processor = make("residual", 16)
    processor.save_pretrained(tmp_path)
    STLLMConfig().save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(again, STLLMProcessor) and isinstance(again.video_processor, STLLMVideoProcessor)
    arguments = (["<unk>" + prompts.mvbench(QUESTION), "<unk>b"], [clip(5), clip(5)])
    for name, value in processor(*arguments).items():
        assert torch.equal(again(*arguments)[name], value)
    assert again.chat_template == processor.chat_template


# ---- prompts ---------------------------------------------------------------------------------------------------------


def rendered(question: str, system: str = "") -> str:
    messages: list[Any] = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    content = [{"type": "video"}, {"type": "text", "text": question}]
    processor = make(side=16)
    text = processor.apply_chat_template(
        [*messages, {"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return str(text)


def test_prompts_byte_for_byte() -> None:
    assert prompts.mvbench(QUESTION) == MVBENCH
    assert prompts.conversation("Why?") == "###Human: Why? ###Assistant: "
    assert prompts.conversation("Why?", "Look. ") == "Look. ###Human: Why? ###Assistant: "
    assert rendered(QUESTION) == "<unk>" + MVBENCH
    assert rendered("Why?") == "<unk>" + prompts.conversation("Why?")
    assert rendered("Why?", "Look. ") == "<unk>" + prompts.conversation("Why?", "Look. ")


def test_a_second_turn() -> None:
    turns = [("user", "Why?"), ("assistant", "So."), ("user", "And then?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    messages[0]["content"] = [{"type": "text", "text": "Why?"}, {"type": "video"}]  # type: ignore[assignment]
    text = make(side=16).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<unk>###Human: Why? ###Assistant: So.###Human: And then? ###Assistant: "
    assert prompts.question_of(text) == "And then?"


@pytest.mark.parametrize(
    ("prompt", "question"),
    [(MVBENCH, QUESTION), (prompts.conversation("Why?", "Look. "), "Why?"), ("plain", "plain"), ("", "")],
)
def test_the_question_in_a_prompt(prompt: str, question: str) -> None:
    assert prompts.question_of(prompt) == question


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A) a cat.###Human: more", "(A) a cat."),
        ("Assistant: B) a dog\nbecause", "(B) a dog"),
        (" C", "(C"),
        ("", "("),
        ("###", "("),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert prompts.mvbench_answer(text) == answer
    assert prompts.conversation_answer("It moves.\nFast. ###Human:") == "It moves.\nFast."


# ---- frames ----------------------------------------------------------------------------------------------------------


def sampled(frames: int, fps: float, bound: tuple[float, float] | None) -> list[int]:
    """The description once more, by numpy."""
    last = frames - 1
    length = bound[1] - bound[0] if bound else last / fps
    count = 4 if length < 4 else 16 if length > 16 else int(np.floor(length))
    start, end = bound or (-100000, 100000)
    first, stop = max(0, round(start * fps)), min(round(end * fps), last)
    size = float(stop - first) / count
    return [int(first + size / 2 + np.round(size * index)) for index in range(count)]


@pytest.mark.parametrize("bound", [None, (0.0, 2.5), (1.0, 8.9), (3.2, 40.0)])
@pytest.mark.parametrize(("frames", "fps"), [(1, 25.0), (40, 25.0), (101, 10.0), (250, 29.97), (1000, 24.0)])
def test_frames_for_multiple_choice(frames: int, fps: float, bound: tuple[float, float] | None) -> None:
    found, plain = prompts.mvbench_frames(frames, fps, bound), sampled(frames, fps, bound)
    assert 4 <= len(found) <= 16 and all(0 <= index < frames for index in found)
    assert found == [min(max(index, 0), frames - 1) for index in plain]


@pytest.mark.parametrize(("frames", "expected"), [(1, [0]), (4, [0, 1, 2, 2]), (64, None), (65, None), (1000, None)])
def test_frames_for_conversation(frames: int, expected: list[int] | None) -> None:
    count, last = min(frames, 64), frames - 1
    edges = [round(last / count * index) for index in range(count + 1)]
    plain = [(one + other) // 2 for one, other in itertools.pairwise(edges)]
    found = prompts.conversation_frames(frames)
    assert found == plain and len(found) == count and found == sorted(found)
    assert expected is None or found == expected


def test_clips_without_frames() -> None:
    for broken in (lambda: prompts.mvbench_frames(0, 25.0), lambda: prompts.mvbench_frames(5, 0.0)):
        with pytest.raises(InputError, match="above 0"):
            broken()
    with pytest.raises(InputError, match="must be some"):
        prompts.conversation_frames(0)


@pytest.mark.parametrize("frames", [1, 3, 16, 17, 33, 64])
def test_residual_frames(frames: int) -> None:
    size = frames / 16
    plain = [min(frames - 1, int(size / 2 + np.round(size * index))) for index in range(16)]
    assert residual_indices(frames, 16) == plain


# ---- generation ------------------------------------------------------------------------------------------------------


def test_stopping() -> None:
    stop = prompts.StopAt(2)
    rows = torch.tensor([[835, 5, 7, 835], [5, 835, 1, 29937], [1, 2, 2277, 29937], [2277, 2277, 1, 2277]])
    assert stop(rows, None).tolist() == [True, False, True, False]
    assert stop(rows[:, :2], None).tolist() == [False] * 4


def test_the_penalty_does_not_see_the_prompt() -> None:
    (penalty,) = prompts.conversation_options(3)["logits_processor"]
    ids, scores = torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 6)
    assert penalty(ids, scores).tolist() == [[1, 1, 1, 1, pytest.approx(1 / 1.5), 1]]


def test_imports_without_pyav() -> None:
    code = "import sys; sys.modules['av'] = None\nimport prunevid.models.stllm as s; s.register_auto()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
