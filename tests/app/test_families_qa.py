# SPDX-License-Identifier: Apache-2.0
"""From a real clip file through each family's own processor, built from a configuration, to an answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from app import tiny_qwen
from engine.families import build, settings
from prunevid import models
from prunevid.errors import InputError, UnprunedWarning
from prunevid.models.pllava import PLLaVAProcessor
from prunevid.models.pllava.prompts import chat_template
from prunevid.models.stllm import STLLMProcessor, STLLMVideoProcessor
from prunevid.qa import VideoQA

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
QUESTION, OTHER = "what moves ?", "which colour is the circle ?"
FRAMES = 8
_SQUARE, _SMALL = {"height": 40, "width": 40}, {"height": 20, "width": 20}
_AREA = {"shortest_edge": 2 * 40 * 40, "longest_edge": 2 * 40 * 40}
_SHORT = {"shortest_edge": 20}


def _pair(family: str, image: dict[str, Any], video: dict[str, Any], **options: Any) -> Any:
    """The processor of a family from the settings of its two parts."""
    made = transformers
    return getattr(made, f"{family}Processor")(
        image_processor=getattr(made, options.pop("images", f"{family}ImageProcessor"))(**image),
        video_processor=getattr(made, f"{family}VideoProcessor")(**video),
        tokenizer=options.pop("tokenizer", None) or tiny_qwen.tokenizer(),
        chat_template=tiny_qwen.TEMPLATE,
        **options,
    )


def _llava(family: str, strategy: str, image: dict[str, Any], video: dict[str, Any], **options: Any) -> Any:
    names = {"image_token": IMAGE, "video_token": VIDEO, "vision_feature_select_strategy": strategy}
    return _pair(family, image, video, **names, **options)


def _llava_next_video() -> Any:
    size, more = {"size": _SQUARE, "crop_size": _SQUARE}, {"patch_size": 4, "num_additional_image_tokens": 1}
    return _llava("LlavaNextVideo", "default", size, size, images="LlavaNextImageProcessor", **more)


def _video_llava() -> Any:
    size, more = {"size": _SHORT, "crop_size": _SMALL}, {"patch_size": 4, "num_additional_image_tokens": 1}
    return _llava("VideoLlava", "default", size, size, **more)


def _internvl() -> Any:
    tokenizer = tiny_qwen.tokenizer()
    names = {"start_image": "<|vision_start|>", "end_image": "<|vision_end|>", "context_image": IMAGE, "video": VIDEO}
    for name, token in names.items():
        setattr(tokenizer, f"{name}_token", token)
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
    video = {"size": _SQUARE}
    options = {"images": "GotOcr2ImageProcessor", "tokenizer": tokenizer, "image_seq_length": 25}
    return _pair("InternVL", {"size": _SQUARE}, video, **options)


def _smolvlm() -> Any:
    tokenizer = tiny_qwen.tokenizer()
    names = {"fake_image": "<|vision_start|>", "global_image": "<|vision_end|>", "image": IMAGE}
    for name, token in names.items():  # a video's own token stands in its built-in template
        setattr(tokenizer, f"{name}_token", token)
    edge = {"longest_edge": 50}  # 5 x 5 tokens of 2 x 2 patches of 5 pixels
    image = {"size": edge, "max_image_size": edge}
    video = image | {"video_sampling": {"max_frames": 64, "fps": 1, "video_size": edge}}
    return _pair("SmolVLM", image, video, tokenizer=tokenizer, image_seq_len=25)


def _pllava() -> Any:
    tokenizer = tiny_qwen.tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return PLLaVAProcessor(tokenizer, chat_template("vicuna"), FRAMES, (FRAMES, 5, 5), crop_size=40)


def _stllm() -> Any:
    tokenizer, size = tiny_qwen.tokenizer(), {"size": {"shortest_edge": 40}, "crop_size": _SQUARE}
    tokenizer.bos_token = "<|im_end|>"
    words = {word: place for place, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *tiny_qwen.WORDS))}
    questions = transformers.BertTokenizer(words)
    return STLLMProcessor(STLLMVideoProcessor(**size), tokenizer, questions, video_token=VIDEO)


# How each family's processor is made, and the visual tokens of FRAMES frames of 48 x 64 pixels.
PROCESSORS: dict[str, tuple[Callable[[], Any], int]] = {
    "qwen2_vl": (lambda: tiny_qwen.processor("qwen2_vl"), FRAMES // 2 * 20),
    "qwen2_5_vl": (lambda: tiny_qwen.processor("qwen2_5_vl"), FRAMES // 2 * 20),
    "smolvlm": (_smolvlm, FRAMES * 25),
    "llava_onevision": (
        lambda: _llava("LlavaOnevision", "full", {"size": _SQUARE}, {"size": _SQUARE}, num_image_tokens=100),
        FRAMES * 25 + 1,
    ),
    "llava_next_video": (_llava_next_video, FRAMES * 25),
    "video_llava": (_video_llava, FRAMES * 26),
    "qwen3_vl": (
        lambda: _pair("Qwen3VL", {"patch_size": 4}, {"patch_size": 4, "size": _AREA}, images="Qwen2VLImageProcessor"),
        0,
    ),
    "internvl": (_internvl, FRAMES * 25),
    "pllava": (_pllava, FRAMES * 25),
    "stllm": (_stllm, FRAMES * 32),
    "video_llama_3": (
        lambda: _pair(
            "VideoLlama3", {"patch_size": 4}, {"patch_size": 4, "use_token_compression": False, "size": _AREA}
        ),
        0,
    ),
}
PROCESSORS["qwen3_vl_moe"] = PROCESSORS["qwen3_vl"]
MODELS = {family: tiny_qwen.model for family in ("qwen2_vl", "qwen2_5_vl")}  # pictures in the published patches


def _qa(family: str) -> VideoQA:
    """The family's tiny model, whose token ids become those of its processor."""
    processor, model = PROCESSORS[family][0](), MODELS.get(family, build)(family)
    tokens = ["<image>", "<image>"] if family == "pllava" else [IMAGE, VIDEO]
    ids = dict(zip(("image", "video"), processor.tokenizer.convert_tokens_to_ids(tokens)))
    for name, token in ids.items():
        for attribute in (f"{name}_token_index", f"{name}_token_id"):
            if hasattr(model.config, attribute):
                setattr(model.config, attribute, token)
    return VideoQA(model, processor, config=settings(family))


@pytest.mark.parametrize("family", PROCESSORS)
def test_from_a_file_to_an_answer(family: str, tmp_path: Path) -> None:
    qa, path = _qa(family), tiny_qwen.write_clip(tmp_path / "clip.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnprunedWarning)
        answer = qa.ask(path, QUESTION, max_new_tokens=4, max_frames=FRAMES)
        plain, pruned = qa.compare(path, QUESTION, max_new_tokens=4, max_frames=FRAMES)
        batch = qa.ask_batch([(path, QUESTION), (path, OTHER)], max_new_tokens=4, max_frames=FRAMES)
        with qa.open(path, max_frames=FRAMES) as video:
            held = [video.ask(question, max_new_tokens=4) for question in (QUESTION, OTHER)]
    stage1, stage2 = answer.stats["stage1"], answer.stats["stage2"]
    assert stage1["original_tokens"] == (PROCESSORS[family][1] or stage1["original_tokens"])
    assert stage1["original_tokens"] > stage1["compressed_tokens"] > stage2["compressed_tokens"] > 0
    assert plain.stats["stage2"]["compressed_tokens"] == plain.stats["stage1"]["original_tokens"]
    assert plain.stats["stage1"]["original_tokens"] == stage1["original_tokens"]
    assert pruned.text == answer.text == held[0].text
    assert held[1].stats["stage2"]["compressed_tokens"] == batch[1].stats["stage2"]["compressed_tokens"]
    assert [one.text for one in batch] == [one.text for one in held]
    opened = held[1].stats["open"]
    assert (opened["prefix_tokens"] > 0) is (opened["why"] is None) is (family != "stllm")


@pytest.mark.parametrize("family", PROCESSORS)
def test_a_whole_prompt_takes_the_questions_place(family: str, tmp_path: Path) -> None:
    """The chat template's own text gives what the question gives; another text gives the same alone and held open."""
    qa, path = _qa(family), tiny_qwen.write_clip(tmp_path / "clip.mp4", count=FRAMES)
    clip = qa.load_clip(path, max_frames=FRAMES)
    texts = [qa._answering.prompter.text(question) for question in (QUESTION, OTHER)]
    head, token, tail = texts[0].rpartition(qa.processor.video_token)
    texts += [f"{head}{token} the blue {tail}", f"{head}{token}the{tail} red"]
    if family != "stllm":  # whose video comes first of all
        texts.append(f"the red circle {head}{token}{tail}")
    alone = [qa.ask(clip, "kept", prompt=text, max_new_tokens=4) for text in texts]
    for answer, question in zip(alone, (QUESTION, OTHER)):
        expected = qa.ask(clip, question, max_new_tokens=4)
        assert (answer.text, answer.stats["stage2"]) == (expected.text, expected.stats["stage2"])
    with qa.open(clip) as video:
        held = [video.ask("", prompt=text, max_new_tokens=4) for text in texts]
        for text in texts:  # the tensors, too: short answers of tiny models are often the same
            fresh = qa._answering.prompter.encode([clip], [""], [text])
            reused = video._prompt.encode("", text)
            assert fresh.keys() == reused.keys()
            assert all(torch.equal(fresh[name], reused[name]) for name in fresh if hasattr(fresh[name], "shape"))
    together = qa.ask_batch([(clip, "kept")] * len(texts), prompts=texts, max_new_tokens=4)
    assert [one.text for one in held] == [one.text for one in alone] == [one.text for one in together]
    assert [one.stats["stage2"] for one in held] == [one.stats["stage2"] for one in alone]
    assert {one.question for one in alone} == {"kept"} and held[0].question == ""
    for wrong in (head, texts[0] + token):
        with pytest.raises(InputError, match="stands for the video; write it once"):
            qa.ask(clip, QUESTION, prompt=wrong)


@pytest.mark.parametrize("family", PROCESSORS)
def test_clips_of_different_length_in_one_batch(family: str, tmp_path: Path) -> None:
    qa, path = _qa(family), tiny_qwen.write_clip(tmp_path / "clip.mp4")
    clips = [qa.load_clip(path, max_frames=frames) for frames in (FRAMES, 4, FRAMES)]
    alone = [qa.ask(clip, question, max_new_tokens=3) for clip, question in zip(clips, (QUESTION, OTHER, OTHER))]
    batch = qa.ask_batch(list(zip(clips, (QUESTION, OTHER, OTHER))), max_new_tokens=3)
    assert [one.text for one in batch] == [one.text for one in alone]
    assert [one.question for one in batch] == [QUESTION, OTHER, OTHER]
    for one, other in zip(batch, alone):
        assert one.clip.times == other.clip.times
        assert one.stats["stage2"] == other.stats["stage2"] and one.stats["stage1"] == other.stats["stage1"]


@pytest.mark.parametrize("family", PROCESSORS)
def test_methods_side_by_side(family: str, tmp_path: Path) -> None:
    """One that acts at each place, and one that asks the tower, with features that are encoded once for all of them."""
    qa, path = _qa(family), tiny_qwen.write_clip(tmp_path / "clip.mp4")
    names = ("prunevid", "fastv", "visionzip", "lookm", "dycoke", "tome|fastv")
    if not models.adapter_of(family).describes_tower:
        names = tuple(name for name in names if name != "visionzip")
    options: dict[str, Any] = {"max_new_tokens": 3, "max_frames": FRAMES}
    found = qa.compare_methods(path, QUESTION, names, retention=[0.4], repeats=1, **options)
    assert found.unpruned.answer == qa.compare(path, QUESTION, **options)[0].text
    for side in found.sides:
        assert side.reason is None, side
        assert abs(side.tokens - 0.4 * side.original_tokens) <= 1
        alone = VideoQA(qa.model, qa.processor, method=side.method, retention_ratio=0.4).ask(path, QUESTION, **options)
        assert side.answer == alone.text
        assert side.retained_ratio == alone.stats["total"]["retained_ratio"]
