# SPDX-License-Identifier: Apache-2.0
"""`prunevid convert stllm`: every name of the original has one place here, and nothing is written otherwise."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from models.original_stllm import (
    PARTS,
    PREFIX,
    Sizes,
    bert_tokenizer,
    llama_tokenizer,
    queries,
    random_weights,
    shapes_of,
    tiny,
    training_only,
    vision,
    visual,
    write,
)
from prunevid import models
from prunevid.cli import run
from prunevid.errors import InputError
from prunevid.loading import load
from prunevid.models.converting import Checkpoint
from prunevid.models.stllm import converting

VARIANTS = ("qa", "conversation")
VICUNA = dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
TRAINING = set(training_only(Sizes()))


def test_the_list_of_names_is_the_recorded_one(shared: Callable[..., Path]) -> None:
    """`original_stllm` was written from the description; the recorded file has the same names and shapes."""
    with safe_open(shared("golden", "stllm_weights.safetensors"), "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    sizes = Sizes(44, 192, 6, 3, 16, 14, 48, 96, 4, 120, 64, 64, 0, 0, 0, 16)
    assert found == visual(sizes) | {f"{PREFIX}Qformer.bert.embeddings.position_ids": (1, 64)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_size_fits_name_by_name(variant: str) -> None:
    """On the meta device: the converter's targets are the model's weights, with their shapes, each made once."""
    original = shapes_of(Sizes(), variant)
    config = converting.config_of(original, VICUNA, variant)
    assert (config.bt_adapter_depth, config.video_input) == {"qa": (3, "all"), "conversation": (0, "residual")}[variant]
    plan = converting.plan(dict.fromkeys(original, torch.float16), variant == "conversation")
    made: dict[str, tuple[int, ...]] = {}
    for target in plan.targets:
        sources = [torch.empty(original[name], device="meta") for name in target.sources]
        assert target.name not in made
        made[target.name] = tuple((target.make or (lambda value: value))(*sources).shape)
    assert made == converting.wanted(config)
    assert set(plan.dropped) == TRAINING
    used = [name for target in plan.targets for name in target.sources]
    assert len(used) == len(set(used)) and set(used) == set(original) - TRAINING
    plan.check(original, made, "ST-LLM")


def convert(folder: Path, weights: dict[str, Tensor], **options: Any) -> converting.Report:
    return converting.convert(write(folder / "from", weights), folder / "to", **PARTS, **options)


def original_again(folder: Path, names: Any) -> dict[str, Tensor]:
    """What was written, under the original's names, by a walk back that splits what was joined."""
    written, back = Checkpoint.of_folder(folder), {}
    for name in names:
        ours = converting.new_name(name)
        assert ours is not None
        value = written.read(ours)
        if name.endswith(("q_bias", "v_bias")):
            queries_, keys, values = value.chunk(3)
            assert not keys.any()
            value = queries_ if name.endswith("q_bias") else values
        back[name] = value
    return back


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_goes_there_and_back(tmp_path: Path, variant: str) -> None:
    weights = random_weights(variant)
    report = convert(tmp_path, weights)
    assert report.variant == variant and set(report.dropped) == set(training_only(tiny()))
    assert report.origins == {"the ViT": "the checkpoint", "the Q-Former": "the checkpoint"}
    kept = set(weights) - set(report.dropped)
    back = original_again(tmp_path / "to", kept)
    assert all(torch.equal(back[name], weights[name]) for name in kept)
    model, processor = load(tmp_path / "to", device="cpu", dtype="float32")
    assert model.config.model_type == "stllm" and model.config.text_config.vocab_size == tiny().words
    loaded = model.state_dict()
    assert set(loaded) == set(converting.wanted(model.config))
    assert torch.equal(loaded["model.query_tokens"], weights[PREFIX + "query_tokens"].float())
    assert model.generation_config.eos_token_id == 2 == model.generation_config.bos_token_id
    assert processor.video_token_id == model.config.video_token_id == 0
    assert processor.video_input == model.config.video_input
    assert len(processor.qformer_tokenizer) == tiny().query_words
    assert models.adapter_for(model).model_types == {"stllm"}


def test_a_chosen_type_and_variant(tmp_path: Path) -> None:
    """The residual's layers of a checkpoint are left out, and listed, where the variant does not use them."""
    weights = random_weights("qa") | random_weights("conversation")
    report = convert(tmp_path, weights, variant="qa", dtype="float32")
    assert {name for name in report.dropped if "_proj" in name} == {
        f"{PREFIX}{part}_proj.{kind}" for part in ("down", "up") for kind in ("weight", "bias")
    }
    written = Checkpoint.of_folder(tmp_path / "to")
    assert {stored.dtype for stored in written.entries.values()} == {torch.float32}


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_vit_and_the_qformer_may_come_from_other_files(tmp_path: Path, wrapped: bool) -> None:
    weights, sizes = random_weights("qa"), tiny()
    names = {"vit": [f"visual_encoder.{name}" for name in vision(sizes)], "qformer": list(queries(sizes))}
    files = {}
    for part, inside in names.items():
        start = len("visual_encoder.") if part == "vit" else 0
        tensors = {name[start:]: weights[PREFIX + name].clone() for name in inside}
        tensors |= {"norm.weight": torch.ones(2), "blocks.4.norm1.weight": torch.ones(32)} if part == "vit" else {}
        tensors |= {"llm_proj.weight": torch.ones(2)} if part == "qformer" else {}
        files[part] = tmp_path / f"{part}.pth"
        torch.save({"model": tensors} if wrapped else tensors, files[part])
    elsewhere = {PREFIX + name for inside in names.values() for name in inside}
    rest = {name: value for name, value in weights.items() if name not in elsewhere}
    report = convert(tmp_path, rest, **files)
    assert report.origins == {"the ViT": "vit.pth", "the Q-Former": "qformer.pth"}
    dropped = set(report.dropped) - set(training_only(sizes))
    assert dropped == {"vit.pth: norm.weight", "vit.pth: blocks.4.norm1.weight", "qformer.pth: llm_proj.weight"}
    back = original_again(tmp_path / "to", set(weights) - set(training_only(sizes)))
    assert all(torch.equal(value, weights[name]) for name, value in back.items())
    again = converting.convert(write(tmp_path / "whole", weights), tmp_path / "second", **PARTS, **files)
    assert again.origins["the ViT"] == "the checkpoint (vit.pth was not needed)"
    for option, part in (("vit", "the ViT"), ("qformer", "the Q-Former")):
        left = {name: file for name, file in files.items() if name != option}
        with pytest.raises(InputError, match=f"does not hold {part}.*--{option}"):
            converting.convert(tmp_path / "from", tmp_path / "third", **PARTS, **left)
    assert not (tmp_path / "third").exists()


BLOCK = f"{PREFIX}visual_encoder.blocks.1."
WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a missing weight": (lambda w: w.pop(BLOCK + "mlp.fc1.weight"), r"needs, and nothing.*layers\.1\.mlp\.fc1\.weight"),
    "a missing bias": (lambda w: w.pop(BLOCK + "attn.q_bias"), "lacks .*q_bias"),
    "another missing bias": (lambda w: w.pop(BLOCK + "attn.v_bias"), "lacks .*v_bias"),
    "a left-over layer": (lambda w: w.update({"model.layers.2.mlp.up_proj.weight": w["lm_head.weight"]}), "no place"),
    "an unknown name": (lambda w: w.update({PREFIX + "novelty.weight": w["lm_head.weight"]}), "nothing is known"),
    "an adapter": (lambda w: w.update({"model.layers.0.lora_A.weight": w["lm_head.weight"]}), "no place"),
    "another size": (lambda w: w.update({BLOCK + "attn.proj.weight": torch.ones(3, 3).half()}), "another size"),
    "no language model": (lambda w: w.pop("model.embed_tokens.weight"), "whole ST-LLM"),
    "a part of the branch": (
        lambda w: w.pop(PREFIX + "visual_encoder.BTAdapter_T.0.temporal_fc.bias"),
        r"temporal\.0\.projection\.bias",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    weights = random_weights("qa")
    WRONG[case][0](weights)
    with pytest.raises(InputError, match=WRONG[case][1]):
        convert(tmp_path, weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from"]


def test_other_refusals(tmp_path: Path) -> None:
    source, target = write(tmp_path / "from", random_weights("qa")), tmp_path / "to"

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            converting.convert(options.pop("source", source), target, **PARTS, **options)
        assert not target.exists()

    refused("variant is 'quiz'", variant="quiz")
    refused("dtype is 'int8'", dtype="int8")
    refused(r"no .*down_proj.*variant qa", variant="conversation")
    refused("no tokenizer in", bert=source / "nothing" if (source / "nothing").mkdir() is None else source)
    refused("--bert", bert=tmp_path / "nowhere")
    llama_tokenizer().save_pretrained(tmp_path / "llama")
    refused("bert-base-uncased", bert=tmp_path / "llama")
    refused(r"config\.json", source=tmp_path / "llama")
    other = llama_tokenizer()
    other.add_tokens(["more"])
    other.save_pretrained(source)
    refused("tokenizer's pad_token_id")


def test_a_pickle_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "from", random_weights("qa"))
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    with (source / "pytorch_model-00001-of-00002.bin").open("wb") as file:
        pickle.dump({"weight": Runs()}, file)
    with pytest.raises(InputError, match="run code"):
        converting.convert(source, tmp_path / "to", **PARTS)
    assert not ran.exists() and not (tmp_path / "to").exists()


def test_the_command(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    source = write(tmp_path / "from", random_weights("conversation"))
    made = converting.config_of
    monkeypatch.setattr(converting, "config_of", lambda *given: made(*given, **PARTS))
    bert_tokenizer().save_pretrained(tmp_path / "bert")
    arguments = ["convert", "stllm", str(source), str(tmp_path / "to")]
    assert run([*arguments, "--bert", str(tmp_path / "bert")]) == 0
    said = capsys.readouterr().out
    for part in ("conversation", "the ViT: the checkpoint", "Qformer.cls.predictions.bias", "in training only"):
        assert part in said
    assert run(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    load(tmp_path / "to", device="cpu")
