# SPDX-License-Identifier: Apache-2.0
"""A benchmark's protocol from a clip's file to what is read: settings, frames, prompts, stop words, readings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from app import tiny_qwen
from prunevid.config import PruneVidConfig, get_paper_config
from prunevid.errors import InputError
from prunevid.evaluation.items import BENCHMARKS, Item, VideoSource
from prunevid.evaluation.matching import Reading
from prunevid.evaluation.protocols import protocol_for
from prunevid.models.pllava.prompts import chat_template


def item(path: Path, benchmark: str, answer: str | None = "xyz") -> Item:
    candidates = () if benchmark == "vcgbench" else ("abc", "xyz", "klm")
    right = 1 if candidates and answer else None
    return Item(benchmark, "x/0", "x", VideoSource(path), "Q?", candidates, answer, right)


@pytest.fixture
def clip_path(tmp_path: Path) -> Path:
    return tiny_qwen.write_clip(tmp_path / "clip.mp4", count=40, rate=8)


PLLAVA = SimpleNamespace(chat_template=chat_template("vicuna"), video_token="<image>", tokenizer=object())


@pytest.mark.parametrize(
    ("benchmark", "layer", "alpha"),
    [("mvbench", 10, 14), ("videomme", 10, 14), ("egoschema", 10, 14), ("vcgbench", 5, 4)],
)
def test_the_published_settings(benchmark: str, layer: int, alpha: float) -> None:
    paper = protocol_for(benchmark, "paper")
    assert (paper.name, paper.frames, paper.max_new_tokens, paper.lora_alpha) == ("paper", 16, 100, alpha)
    config = PruneVidConfig().replace(**paper.defaults)
    assert config == get_paper_config().replace(pruning_layer=layer)
    assert config.pruning_layer.for_depth(32) == layer  # type: ignore[attr-defined]
    lmms = protocol_for(benchmark, "lmms")
    assert (lmms.name, lmms.frames) == ("lmms", 32)
    assert lmms.max_new_tokens == (1024 if benchmark == "vcgbench" else 16)


@pytest.mark.parametrize(
    ("benchmark", "alpha", "said"),
    [
        ("mvbench", 14, ""),
        ("mvbench", None, ""),
        ("mvbench", 4, "merged with alpha 4 here, but with 14 in the published run of mvbench"),
        ("vcgbench", 4.0, ""),
        ("vcgbench", 14, "convert the checkpoint again with --lora-alpha 4 or --keep-adapters"),
    ],
)
def test_other_adapters_than_published_are_said(benchmark: str, alpha: float | None, said: str) -> None:
    remarks = protocol_for(benchmark, "paper").remarks(SimpleNamespace(pllava_lora_alpha=alpha))
    assert len(remarks) == bool(said) and said in "".join(remarks)
    assert protocol_for(benchmark, "paper").remarks(SimpleNamespace()) == []


@pytest.mark.parametrize("name", ["paper", "lmms"])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_from_a_clip_to_a_reading(benchmark: str, name: str, clip_path: Path) -> None:
    protocol, asked = protocol_for(benchmark, name), item(clip_path, benchmark)
    clip = protocol.load(asked, protocol.frames)
    assert len(clip) == protocol.frames and clip.indices[-1] == (39 if name == "lmms" else 38)
    assert clip.times == pytest.approx([number / 8 for number in clip.indices])
    prompt = protocol.prompt(asked, clip, PLLAVA, "pllava")
    assert prompt.count("<image>") == 1 and "Q?" in prompt
    assert prompt.endswith("ASSISTANT:Best option:(") is (name == "paper" and benchmark != "vcgbench")
    expected = {"paper": Reading("(B) xyz", 1, True, True), "lmms": Reading("B", 1, True, True)}[name]
    said = "B) xyz" if name == "paper" else "(B) xyz"
    assert protocol.read(asked, said) == (Reading(said) if benchmark == "vcgbench" else expected)
    assert protocol.read(item(clip_path, benchmark, None), "B) xyz").correct is None


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_answers_stop_where_the_family_says(benchmark: str) -> None:
    paper, lmms = protocol_for(benchmark, "paper"), protocol_for(benchmark, "lmms")
    assert list(paper.generation(PLLAVA, "pllava")) == (["stopping_criteria"] if benchmark == "vcgbench" else [])
    assert paper.generation(PLLAVA, "qwen2_5_vl") == {} == lmms.generation(PLLAVA, "pllava")
    for protocol in (paper, lmms):
        criteria = protocol.generation(PLLAVA, "stllm")["stopping_criteria"]
        ids = torch.tensor([[5, 835, 6, 835], [5, 835, 6, 7]])
        assert criteria(ids, None).tolist() == [True, False]


def test_stllms_marks_are_no_part_of_an_answer() -> None:
    protocol, path = protocol_for("mvbench", "paper"), Path("x.mp4")
    assert protocol.read(item(path, "mvbench"), "B###", "stllm") == Reading("(B", 1, True, True)
    assert protocol.read(item(path, "vcgbench"), "It runs. ###Human: x", "stllm").pred == "It runs."


WORDS = (
    "<pad>",
    "<s>",
    "</s>",
    "#",
    "##",
    "###",
    "US",
    "ER",
    "USER",
    "U",
    "SER",
    " a",
    " man",
    " runs",
    ".",
    "ASSISTANT:",
)


def _says(words: list[str]) -> tuple[Any, Any]:
    """A tokenizer of whole pieces, and `generate` of a model that says these words after a prompt with stop words."""
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), eos_token_id=2, pad_token_id=0, **sizes)).eval()
    prompt = torch.tensor([[WORDS.index(word) for word in (" a", "###", "USER", " man", "ASSISTANT:")]])
    ids = [WORDS.index(word) for word in words]

    def forced(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wanted = ids[input_ids.shape[1] - prompt.shape[1]]
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([wanted]), 0.0)

    def generate(**options: Any) -> str:
        out = model.generate(prompt, logits_processor=[forced], do_sample=False, max_new_tokens=len(ids), **options)
        return tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)

    return tokenizer, generate


@pytest.mark.parametrize(
    "words",
    [
        [" a", " man", " runs", ".", "###", " a", " man"],
        [" a", "##", "#", " a"],
        [" a", "#", "##", " a"],
        [" man", "US", "ER", " runs"],
        [" man", "USER", " runs"],
        ["U", "SER", " a"],
        ["US", " a", "ER", "##", " man", "."],
    ],
)
def test_open_answers_of_pllava_stop_at_a_stop_word_and_keep_it(words: list[str]) -> None:
    """Against a plain loop: the text grows word by word until a stop word is in it."""
    expected = ""
    for word in words:
        expected += word
        if "###" in expected or "USER" in expected:
            break
    tokenizer, generate = _says(words)
    options = protocol_for("vcgbench", "paper").generation(SimpleNamespace(tokenizer=tokenizer), "pllava")
    for _ in range(2):  # the same arguments serve a second question
        assert generate(**options) == expected


def test_subtitles_reach_the_question(monkeypatch: pytest.MonkeyPatch, clip_path: Path) -> None:
    """What the subtitles' module is asked, and where its text goes."""
    told: list[Any] = []
    module = ModuleType("prunevid.evaluation.subtitles")
    module.paper_text = lambda path, times: told.append((path, times)) or "Hello."  # type: ignore[attr-defined]
    module.lmms_text = lambda path, places, fps: told.append((path, places, fps)) or "Hi."  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    asked = item(clip_path, "videomme")
    for name, text in (("paper", "below:\nHello.\nQuestion: Q?"), ("lmms", "below: \nHi.\nSelect the best")):
        protocol = protocol_for("videomme", name, subtitles=True)
        clip = protocol.load(asked, 4)
        prompt = protocol.prompt(asked, clip, PLLAVA, "pllava")
        assert f"USER: This video's subtitles are listed {text}" in prompt
        assert told.pop() == ((clip_path, clip.times) if name == "paper" else (clip_path, clip.indices, 8.0))
        plain = protocol_for("videomme", name).prompt(asked, clip, PLLAVA, "pllava")
        assert not told and "subtitles are listed" not in plain
    before = protocol_for("videomme", "paper", subtitles=True, subtitles_before_video=True)
    assert "below:\nHello.\n USER: <image>" in before.prompt(asked, before.load(asked, 4), PLLAVA, "pllava")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mvbench", "papers"), {}, "no protocol 'papers'"),
        (("mmbench", "paper"), {}, "no benchmark 'mmbench'"),
        (("mvbench", "paper"), {"subtitles": True}, "mvbench has no subtitles"),
        (("videomme", "lmms"), {"subtitles": True, "subtitles_before_video": True}, "subtitles_before_video"),
        (("videomme", "paper"), {"subtitles_before_video": True}, "subtitles_before_video"),
    ],
)
def test_protocols_that_are_none(arguments: tuple[str, str], options: dict[str, bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        protocol_for(*arguments, **options)


@pytest.mark.parametrize("frames", [0, -1])
def test_a_clip_needs_a_frame(frames: int, clip_path: Path) -> None:
    with pytest.raises(InputError, match=f"frames is {frames}"):
        protocol_for("mvbench", "paper").load(item(clip_path, "mvbench"), frames)
