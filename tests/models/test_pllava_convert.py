# SPDX-License-Identifier: Apache-2.0
"""From the hub's PLLaVA checkpoints to a folder: every name, every number, and how much memory it takes."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText, AutoProcessor

import prunevid
from models import hub_pllava as hub
from models.recorded import Case, Shared, close, show
from prunevid import models
from prunevid.cli import run
from prunevid.errors import ConfigError, InputError, PruneVidError
from prunevid.models.converting import Checkpoint, expected_shapes
from prunevid.models.pllava import PLLaVAForConditionalGeneration, PLLaVAProcessor, convert, published_config
from prunevid.qa import VideoQA

Tensors = dict[str, Tensor]
LANGUAGE = "language_model."


def merged(stored: Tensors, name: str, alpha: float) -> Tensor:
    """A projection with its adapters, one number after the other summed in float64."""
    at = f"{hub.PEFT}model.layers.{name}"
    weight = stored[f"{at}.base_layer.weight"].double().numpy()
    down = stored[f"{at}.lora_A.default.weight"].double().numpy()
    up = stored[f"{at}.lora_B.default.weight"].double().numpy()
    change = np.einsum("or,ri->oi", up, down)
    return torch.from_numpy(weight + alpha / hub.RANK * change)


def split(stored: Tensors) -> tuple[Tensors, Tensors]:
    """A checkpoint as what was trained (adapters and projector), and a LLaVA-NeXT base under it."""
    trained, base = {}, {}
    for name, tensor in stored.items():
        if "lora_" in name or name.startswith("multi_modal_projector"):
            trained[name.replace(hub.PEFT, LANGUAGE)] = tensor
        else:
            base[name.replace(hub.PEFT, LANGUAGE).replace(".base_layer", "")] = tensor
    base["image_newline"] = torch.ones(32)
    for name in [name for name in trained if name.startswith("multi_modal_projector")]:
        base[name] = trained[name] + 1.0
    return trained, base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("alpha", [14, 4, 32, 0])
def test_every_weight(tmp_path: Path, alpha: int, dtype: torch.dtype) -> None:
    stored = hub.tensors(dtype=dtype)
    report = convert(hub.write(tmp_path / "from", stored), tmp_path / "to", lora_alpha=alpha)
    found = load_file(tmp_path / "to" / "model.safetensors")
    assert report.weights == len(found) == len(stored) - 2 * report.adapters and report.adapters == 4
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        if adapted := re.fullmatch(r"model\.language_model\.layers\.(.*(?:q|v)_proj)\.weight", name):
            wanted = merged(stored, adapted[1], alpha)
            torch.testing.assert_close(
                tensor.double(), wanted.to(dtype).double(), atol=1e-5, rtol=2**-8 * (dtype != torch.float32)
            )
            if alpha == 0:
                assert torch.equal(tensor, stored[f"{hub.PEFT}model.layers.{adapted[1]}.base_layer.weight"])
    plain = {name: tensor for name, tensor in stored.items() if "_proj.base_layer" not in name and "lora_" not in name}
    assert torch.equal(found["lm_head.weight"], plain[f"{hub.PEFT}lm_head.weight"])
    assert sorted(float(tensor.float().sum()) for tensor in plain.values()) == sorted(
        float(tensor.float().sum())
        for name, tensor in found.items()
        if not re.search(r"language_model.*(q|v)_proj", name)
    )


def test_a_converted_folder_answers(tmp_path: Path) -> None:
    models.register_ports()
    stored = hub.tensors()
    convert(hub.write(tmp_path / "from", stored), tmp_path / "to", lora_alpha=4)
    config = json.loads((tmp_path / "to" / "config.json").read_text())
    assert config["model_type"] == "pllava" and config["pllava_lora_alpha"] == 4
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "to"), PLLaVAProcessor)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "to", output_loading_info=True)
    assert isinstance(loaded, PLLaVAForConditionalGeneration)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.generation_config.eos_token_id == 2 and loaded.generation_config.pad_token_id == hub.PAD
    qa = VideoQA.from_pretrained(tmp_path / "to", device="cpu")
    frames = list(np.random.default_rng(0).integers(0, 255, (16, 60, 80, 3), dtype=np.uint8))
    answer = qa.ask(frames, "what moves ?", max_new_tokens=3)
    assert answer.stats["stage1"]["original_tokens"] == 16 * 2 * 2
    batch = qa.ask_batch([(frames, "what moves ?"), (frames[::-1], "the circle ?")], max_new_tokens=3)
    assert batch[0].text == answer.text


def test_many_files_of_one_type(tmp_path: Path) -> None:
    """Types that the checkpoint's configuration names for its parts don't matter; those of the weights do."""
    stored = hub.tensors(dtype=torch.bfloat16)
    config = hub.hub_config({"torch_dtype": "float16"}, {"torch_dtype": "float32"}, torch_dtype="float16")
    source = hub.write(tmp_path / "from", stored, config)
    convert(source, tmp_path / "one", lora_alpha=4)
    convert(source, tmp_path / "many", lora_alpha=4, shard_bytes=20_000)
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    one, many = (
        PLLaVAForConditionalGeneration.from_pretrained(tmp_path / name, dtype="auto") for name in ("one", "many")
    )
    assert {weight.dtype for weight in many.parameters()} == {torch.bfloat16}
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), many.state_dict().values()))


def test_adapters_apart_serve_every_alpha(tmp_path: Path) -> None:
    models.register_ports()
    source = hub.write(tmp_path / "from", hub.tensors(dtype=torch.bfloat16))
    report = convert(source, tmp_path / "apart", keep_adapters=True)
    assert report.alpha is None and set(report.dropped.values()) == {"kept in adapters.safetensors"}
    for alpha in (4, 14):
        convert(source, tmp_path / str(alpha), lora_alpha=alpha)
        one = PLLaVAForConditionalGeneration.from_pretrained(tmp_path / str(alpha), dtype="auto")
        other = VideoQA.from_pretrained(tmp_path / "apart", lora_alpha=alpha, device="cpu").model
        assert one.dtype == other.dtype == torch.bfloat16
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
        assert other.config.pllava_lora_alpha == alpha and other.config.pllava_adapters is None
        other.save_pretrained(tmp_path / f"saved {alpha}")
        again = PLLaVAForConditionalGeneration.from_pretrained(tmp_path / f"saved {alpha}", lora_alpha=alpha)
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ConfigError, match="lora_alpha must be given"):
        VideoQA.from_pretrained(tmp_path / "apart", device="cpu")
    with pytest.raises(ConfigError, match=r"lora_alpha is 4, but the weights of .* were merged with 14"):
        VideoQA.from_pretrained(tmp_path / "14", lora_alpha=4, device="cpu")
    with pytest.raises(ConfigError, match="lora_alpha is -1"):
        VideoQA.from_pretrained(tmp_path / "apart", lora_alpha=-1, device="cpu")
    (tmp_path / "apart" / "adapters.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapters\.safetensors"):
        VideoQA.from_pretrained(tmp_path / "apart", lora_alpha=4, device="cpu")


def test_damaged_adapters_change_no_weight(tmp_path: Path) -> None:
    convert(hub.write(tmp_path / "from", hub.tensors()), tmp_path / "to", keep_adapters=True)
    file = tmp_path / "to" / "adapters.safetensors"
    held = load_file(file)
    name = "model.language_model.layers.1.self_attn.v_proj.weight.lora_B"
    for changed in ({name: held[name][:4].clone()}, {"model.language_model.layers.9.x.lora_A": held[name] + 1}):
        save_file({**held, **changed}, file)
        with pytest.raises(InputError, match="don't fit the model"):
            PLLaVAForConditionalGeneration.from_pretrained(tmp_path / "to", lora_alpha=4)


def test_trained_parts_over_their_base(tmp_path: Path) -> None:
    """The hub's other form: adapters and projector alone; the checkpoint's own projector wins over the base's."""
    stored = hub.tensors()
    trained, base = split(stored)
    convert(hub.write(tmp_path / "whole", stored), tmp_path / "one", lora_alpha=14)
    source = hub.write(tmp_path / "trained", trained, files=1)
    under = hub.write(tmp_path / "base", base)
    report = convert(source, tmp_path / "other", lora_alpha=14, base=under)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
    assert report.dropped["base:image_newline"].startswith("PLLaVA does not use")
    assert report.dropped["base:multi_modal_projector.linear_1.bias"] == "the checkpoint has its own"
    with pytest.raises(InputError, match=r"adapters without what they adapt .* with --base"):
        convert(source, tmp_path / "none", lora_alpha=14)
    with pytest.raises(InputError, match="nothing of the base is needed"):
        convert(tmp_path / "whole", tmp_path / "none", lora_alpha=14, base=under)
    with pytest.raises(InputError, match=r"base holds .* an adapter"):
        convert(source, tmp_path / "none", lora_alpha=14, base=tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(hidden_size=64), "wrong base: hidden_size is 64 in its text_config, but 32"),
        (dict(num_hidden_layers=3), "wrong base: num_hidden_layers is 3"),
        (dict(vocab_size=210), r"has the shape \(210, 32\).*base belongs to a model of another size"),
    ],
    ids=str,
)
def test_a_wrong_base(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    trained, _ = split(hub.tensors())
    _, base = split(hub.tensors(other))
    source = hub.write(tmp_path / "trained", trained)
    with pytest.raises(InputError, match=message):
        under = hub.write(tmp_path / "base", base, hub.hub_config(other))
        convert(source, tmp_path / "to", lora_alpha=14, base=under)
    assert not (tmp_path / "to").exists()


def test_a_whole_checkpoint_without_adapters(tmp_path: Path) -> None:
    """What somebody has merged already: alpha has nothing to act on."""
    trained, base = split(hub.tensors())
    base |= {name: tensor for name, tensor in trained.items() if name.startswith("multi_modal")}
    source = hub.write(tmp_path / "from", base)
    assert convert(source, tmp_path / "to").alpha is None
    for options in ({"lora_alpha": 4}, {"keep_adapters": True}):
        with pytest.raises(ConfigError, match="holds no adapters"):
            convert(source, tmp_path / "other", **options)
    (source / "config.json").write_text(json.dumps(hub.hub_config(pooling_shape=None, architectures=["Llava"])))
    plain = json.loads((source / "config.json").read_text())
    del plain["pooling_shape"]
    (source / "config.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="is no PLLaVA"):
        convert(source, tmp_path / "other")


# ---- what is refused -------------------------------------------------------------------------------------------------

Q = f"{hub.PEFT}model.layers.1.self_attn.q_proj."


def _drop(*names: str) -> Callable[[Tensors], Any]:
    return lambda stored: [stored.pop(name) for name in names]


def _add(name: str, *shape: int) -> Callable[[Tensors], Any]:
    return lambda stored: stored.update({name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop(f"{hub.PEFT}model.norm.weight"), r"needs, and nothing .* gives, model\.language_model\.norm\.weight"),
        (_drop("vision_tower.vision_model.pre_layrnorm.bias"), r"gives, model\.vision_tower\.pre_layrnorm\.bias"),
        (_drop("multi_modal_projector.linear_2.bias"), r"gives, model\.multi_modal_projector\.linear_2\.bias"),
        (_drop(f"{Q}base_layer.weight"), r"gives, model\.language_model\.layers\.1\.self_attn\.q_proj\.weight"),
        (
            _drop(f"{Q}lora_A.default.weight"),
            r"Of the adapter of .*q_proj\.weight the checkpoint holds \['lora_B'\] only",
        ),
        (_drop(f"{Q}lora_A.default.weight", f"{Q}lora_B.default.weight"), "lacks the adapters of .*layers.1.*q_proj"),
        (_add("something.else", 3), r"holds, and nothing takes, something\.else"),
        (_add(f"{hub.PEFT}model.layers.7.mlp.up_proj.weight", 48, 32), r"has no place for .*layers\.7\.mlp\.up_proj"),
        (_add("language_model.lm_head.weight", 200, 32), r"are both lm_head\.weight"),
        (_add("vision_tower.extra", 3), r"has no place for model\.vision_tower\.extra"),
        (_add(f"{Q}lora_A.default.weight", 4, 32), "belong to a model of another size"),
        (_add(f"{hub.PEFT}model.norm.weight", 31), r"has the shape \(31,\).*another size"),
        (
            lambda s: s.update(
                {f"{Q}lora_A.default.weight": torch.ones(4, 32), f"{Q}lora_B.default.weight": torch.ones(32, 4)}
            ),
            r"the ranks \[4, 8\]",
        ),
    ],
)
def test_a_checkpoint_that_lacks_or_holds_too_much(
    tmp_path: Path, change: Callable[[Tensors], Any], message: str
) -> None:
    stored = hub.tensors()
    change(stored)
    source = hub.write(tmp_path / "from", stored)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "to", lora_alpha=14)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_buffers_are_left_out_by_name(tmp_path: Path) -> None:
    stored = hub.tensors()
    ids = "vision_tower.vision_model.embeddings.position_ids"
    stored[ids], stored["image_newline"] = torch.arange(17), torch.ones(32)
    report = convert(hub.write(tmp_path / "from", stored), tmp_path / "to", lora_alpha=14)
    assert set(report.dropped) == {ids, "image_newline"} and report.weights == 64


@pytest.mark.parametrize(
    ("config", "tokens", "options", "message"),
    [
        ({}, {}, {}, "whose scale must be given with --lora-alpha"),
        ({}, {}, {"lora_alpha": 4, "keep_adapters": True}, "get their alpha at loading"),
        ({}, {}, {"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({}, {"image": 100}, {"lora_alpha": 4}, "has the id 100 in the tokenizer, but 198"),
        ({"text_config": None}, {}, {"lora_alpha": 4}, "has no text_config"),
        ({"frame_shape": [24, 24]}, {}, {"lora_alpha": 4}, r"vision tower makes 4 x 4"),
        ({"pooling_shape": [16, 12]}, {}, {"lora_alpha": 4}, r"pooling_shape is \[16, 12\]"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, config: dict[str, Any], tokens: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    source = hub.write(tmp_path / "from", hub.tensors(), hub.hub_config() | config)
    hub.tokenizer(**tokens).save_pretrained(source)
    with pytest.raises(PruneVidError, match=message):
        convert(source, tmp_path / "to", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_pickled_weights(tmp_path: Path) -> None:
    stored = hub.tensors()
    convert(hub.write(tmp_path / "safe", stored), tmp_path / "one", lora_alpha=14)
    source = hub.write(tmp_path / "pickled", {"unused": torch.ones(1)}, files=1)
    for file in source.glob("model*"):
        file.unlink()
    torch.save(stored, source / "pytorch_model.bin")
    convert(source, tmp_path / "other", lora_alpha=14)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
    torch.save({"weights": {**stored, "step": 3}, "args": {"lr": 1e-3}}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match="must hold tensors by name"):
        convert(source, tmp_path / "third", lora_alpha=14)


# ---- sizes -----------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "7b": dict(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ),
    "13b": dict(
        vocab_size=32064, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
    "34b": dict(
        vocab_size=64064, hidden_size=7168, intermediate_size=20480, num_hidden_layers=60, num_attention_heads=56,
        num_key_value_heads=8,
    ),
}  # fmt: skip
TOWER = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336)


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_model_s_names_are_the_converter_s_targets(size: str) -> None:
    """On the meta device, from a list of the hub's names that was written down by itself."""
    from prunevid.models.pllava.conversion import _Sources

    shapes = hub.hub_shapes(PUBLISHED[size], TOWER, 128)
    stored = Checkpoint([])
    for name, shape in shapes.items():
        stored.entries[name] = type("Stored", (), {"shape": shape, "dtype": torch.bfloat16})()
    wanted = expected_shapes(lambda: PLLaVAForConditionalGeneration(published_config(size)))
    sources = _Sources(stored, None)
    sources.check(wanted)
    plan = sources.plan(14, False)
    plan.check(shapes, wanted, "PLLaVA")
    sources.check_shapes(wanted)
    assert sorted(target.name for target in plan.targets) == sorted(wanted) and not plan.dropped
    assert len(sources.adapters) == 2 * PUBLISHED[size]["num_hidden_layers"]
    config = published_config(size)
    assert config.pooled_shape(16) == (16, 12, 12) and 16 * 12 * 12 == 2304


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.alive and tensor.device.type == "cpu":
            place = storage.data_ptr()
            self.alive[place] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, place, None)
            self.most = max(self.most, sum(self.alive.values()))
        return tensor

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.keep(out)
        return out


@pytest.mark.parametrize("layers", [2, 8])
def test_one_weight_is_in_memory_at_a_time(tmp_path: Path, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers there are, and in however few files, the bytes held are those of the largest step."""
    text = dict(num_hidden_layers=layers, hidden_size=64, vocab_size=hub.VOCABULARY)
    stored = hub.tensors(text, torch.bfloat16)
    source = hub.write(tmp_path / "from", stored, hub.hub_config(text), files=1)
    shard = (source / "model-00001-of-00001.safetensors").stat().st_size
    held, read = Held(), Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: held.keep(read(self, name).clone()))
    with held:
        convert(source, tmp_path / "to", lora_alpha=14)
    largest = max(tensor.numel() * tensor.element_size() for tensor in stored.values())
    square = 64 * 64 * 4  # of a projection in float32
    assert largest <= held.most <= max(2 * largest, 4 * square), (held.most, largest, square)
    assert held.most < shard / layers
    kept: list[Tensor] = []
    monkeypatch.setattr(
        Checkpoint, "read", lambda self, name: kept.append(held.keep(read(self, name).clone())) or kept[-1]
    )
    with held:
        convert(source, tmp_path / "other", lora_alpha=14)
    assert held.most > 0.9 * shard, "the count sees what is kept"


# ---- the recorded checkpoint -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_folder(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded checkpoint in the hub's names, with the files that the hub has besides."""
    stored = load_file(shared("golden", "model-00001-of-00001.safetensors"))
    meta = json.loads(shared("golden", "meta.json").read_text())
    config = {name: meta[name] for name in ("text_config", "vision_config", "image_token_index", "pad_token_id")}
    config |= {"model_type": "llava", "pooling_shape": [16, 12, 12], "num_frames": 16}
    return hub.write(tmp_path_factory.mktemp("recorded") / "from", stored, config, files=3)


def _logits(folder: Path, case: Case, **options: Any) -> Tensor:
    model = PLLaVAForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", **options).eval()
    prompt = {**case.ids, "pixel_values_videos": show(model, case["image_features"][0])}
    with prunevid.attach(model, case.config), torch.no_grad():
        found: Tensor = model(**prompt).logits
    return found


@pytest.mark.parametrize("alpha", [14, 4, 0])
def test_recorded_logits_at_every_alpha(recorded_folder: Path, shared: Shared, tmp_path: Path, alpha: int) -> None:
    case = Case(shared, "mha_default")
    recorded = {
        a: torch.from_numpy(np.load(shared("golden", "lora_logits.npz"))[f"logits_alpha{a}"]) for a in (14, 4, 0)
    }
    convert(recorded_folder, tmp_path / "merged", lora_alpha=alpha)
    convert(recorded_folder, tmp_path / "apart", keep_adapters=True)
    for found in (_logits(tmp_path / "merged", case), _logits(tmp_path / "apart", case, lora_alpha=alpha)):
        close(found, recorded[alpha])
        for other in {14, 4, 0} - {alpha}:
            assert (found - recorded[other]).abs().max() > 1e-2


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = hub.write(tmp_path / "from", hub.tensors()), tmp_path / "to"
    assert run(["convert", "pllava", str(source), str(target)]) == 2
    assert "--lora-alpha" in capsys.readouterr().err
    assert run(["convert", "pllava", str(source), str(target), "--lora-alpha", "14"]) == 0
    assert "64 weights, 4 adapters merged, alpha 14." in capsys.readouterr().out
    assert run(["convert", "pllava", str(source), str(target), "--lora-alpha", "14"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["convert", "pllava", str(source), str(tmp_path / "apart"), "--keep-adapters"]) == 0
    assert "(8): kept in adapters.safetensors" in capsys.readouterr().out
    trained, base = split(hub.tensors())
    arguments = [str(hub.write(tmp_path / "trained", trained)), str(tmp_path / "third"), "--lora-alpha", "4"]
    assert run(["convert", "pllava", *arguments]) == 2
    assert run(["convert", "pllava", *arguments, "--base", str(hub.write(tmp_path / "base", base))]) == 0
