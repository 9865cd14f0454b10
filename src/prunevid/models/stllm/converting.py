# SPDX-License-Identifier: Apache-2.0
"""From a downloaded ST-LLM checkpoint to a folder that transformers loads: every name accounted for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunevid.errors import InputError, MissingDependencyError, one_line
from prunevid.models.converting import Checkpoint, Plan, Target, expected_shapes, new_folder, write_weights
from prunevid.models.stllm.configuration import STLLMConfig

VARIANTS = ("qa", "conversation")
PART = "model.stllm_model."
_VIT, _BRANCH = PART + "visual_encoder.", PART + "visual_encoder.BTAdapter_"
_VIT_GROUP, _QFORMER_GROUP = "the ViT", "the Q-Former"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What only training or other code needs, and why it is left out.
_DROPPED = {
    r"model\.stllm_model\.Qformer\.cls\..*": "predicts words in training only",
    r".*\.position_ids": "is counted, not learnt",
    r".*\.inv_freq": "is computed",
    r"model\.stllm_model\.mvm_decoder\..*": "is for training only",
    r"model\.stllm_model\.mask(_token)?(\..*)?": "is for training only",
    r"model\.stllm_model\.embed_tokens\..*": "is another name of model.embed_tokens",
}
_QFORMER_LAYER = r"model\.stllm_model\.Qformer\.bert\.encoder\.layer\.(\d+)\."
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEMPORAL = {"norm1": "layer_norm", "attn.qkv": "self_attn.qkv", "attn.proj": "self_attn.projection"}
_TEMPORAL |= {"temporal_fc": "projection"}
_WHOLE = {
    _VIT + "cls_token": "model.vision_model.embeddings.class_embedding",
    _VIT + "pos_embed": "model.vision_model.embeddings.position_embedding",
    _BRANCH + "cls": "model.vision_model.bt_adapter.class_embedding",
    _BRANCH + "position.weight": "model.vision_model.bt_adapter.position_embedding.weight",
    PART + "query_tokens": "model.query_tokens",
    "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "model.norm.weight": "model.language_model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_STARTS = {
    _VIT + "patch_embed.proj.": "model.vision_model.embeddings.patch_embedding.",
    PART + "ln_vision.": "model.vision_model.post_layernorm.",
    PART + "Qformer.bert.embeddings.LayerNorm.": "model.qformer.embeddings.layernorm.",
    PART + "Qformer.bert.embeddings.": "model.qformer.embeddings.",
    PART + "llama_proj.": "model.language_projection.",
    PART + "down_proj.": "model.residual.down.",
    PART + "up_proj.": "model.residual.up.",
    "model.layers.": "model.language_model.layers.",
}
_ROWS = (  # where blocks stand, where ours do, and the names inside
    (re.compile(re.escape(_VIT) + r"blocks\.(\d+)\.(.+)"), "model.vision_model.encoder.layers.{}.", _BLOCK),
    (re.compile(re.escape(_BRANCH) + r"S\.(\d+)\.(.+)"), "model.vision_model.bt_adapter.spatial.{}.", _BLOCK),
    (re.compile(re.escape(_BRANCH) + r"T\.(\d+)\.(.+)"), "model.vision_model.bt_adapter.temporal.{}.", _TEMPORAL),
)


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    variant: "qa" or "conversation"; folder: where the result is; tensors: how many were written; dropped: why a tensor
    was left out, by its name; origins: where the ViT and the Q-Former came from.
    """

    variant: str
    folder: Path
    tensors: int
    dropped: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def new_name(name: str) -> str | None:
    """The name that one of the original's tensors has here; None for one that is not known.

    The biases of a ViT block's queries and values have none of their own: both are in `...self_attn.qkv.bias`.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    for pattern, ours, inside in _ROWS:
        found = pattern.fullmatch(name)
        if found:
            part, _, kind = found[2].rpartition(".")
            if part == "attn" and kind in ("q_bias", "v_bias"):
                part, kind = "attn.qkv", "bias"
            return f"{ours.format(found[1])}{inside[part]}.{kind}" if part in inside else None
    layer = re.match(_QFORMER_LAYER, name)
    if layer:
        rest = re.sub(r"^((?:cross)?attention)\.self\.", r"\1.attention.", name[layer.end() :])
        return f"model.qformer.encoder.layer.{layer[1]}.{rest}"
    start = next((start for start in _STARTS if name.startswith(start)), None)
    return None if start is None else _STARTS[start] + name[len(start) :]


def plan(dtypes: Mapping[str, torch.dtype], residual: bool, dtype: torch.dtype | None = None) -> Plan:
    """What becomes of the tensors of a checkpoint.

    Args:
        dtypes: type of every tensor by its original name.
        residual: whether the model has the residual's layers; else those of the checkpoint are dropped.
        dtype: of what is written; None: as it was.

    Raises:
        InputError: a tensor that nothing is known of, or a query bias without its value bias.
    """
    made = Plan()
    for name, stored in dtypes.items():
        reason = _no_need(name)
        if reason is None and not residual and name.startswith((PART + "down_proj.", PART + "up_proj.")):
            reason = "belongs to the residual input, which this variant does not use"
        if reason is not None:
            made.dropped[name] = reason
            continue
        ours = new_name(name)
        if ours is None:
            raise InputError(
                f"This is no checkpoint of ST-LLM: nothing is known of its tensor {name!r}; nothing was written."
            )
        if name.endswith(".attn.v_bias"):
            if name.replace("v_bias", "q_bias") not in dtypes:
                raise InputError(f"The checkpoint lacks {name.replace('v_bias', 'q_bias')}; nothing was written.")
            continue
        if name.endswith(".attn.q_bias"):
            sources: tuple[str, ...] = (name, name.replace("q_bias", "v_bias"))
            made.targets.append(Target(ours, sources, dtype or stored, _joined_bias))
        else:
            made.targets.append(Target(ours, (name,), dtype or stored))
    return made


def _no_need(name: str) -> str | None:
    """Why a tensor is left out of every model, or None."""
    return next((why for pattern, why in _DROPPED.items() if re.fullmatch(pattern, name)), None)


def _joined_bias(queries: Tensor, values: Tensor) -> Tensor:
    """Queries and values have a bias, keys have none."""
    return torch.cat((queries, torch.zeros_like(queries), values))


# ---- the parts that may come from elsewhere --------------------------------------------------------------------------


class Renamed:
    """A checkpoint under the original's names, the ViT or the Q-Former of other files put in where it lacks them.

    Args:
        main: of the ST-LLM folder.
        others: file by group ("the ViT", "the Q-Former").

    Attributes:
        entries: as in `Checkpoint`.
        origins: where each group came from.
        dropped: tensors of other files that are not used, and why.

    Raises:
        InputError: a group is nowhere.
    """

    def __init__(self, main: Checkpoint, others: Mapping[str, Path | None], blocks: int) -> None:
        self._places = {name: (main, name) for name in main.entries}
        self.origins: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.files = list(main.files)
        for group, option in ((_VIT_GROUP, "--vit"), (_QFORMER_GROUP, "--qformer")):
            file = others.get(group)
            if any(_group(name) == group and _no_need(name) is None for name in main.entries):
                self.origins[group] = "the checkpoint" + ("" if file is None else f" ({file.name} was not needed)")
            elif file is None:
                raise InputError(
                    f"The checkpoint does not hold {group}; give the file that it was trained from with {option}."
                )
            else:
                self._take(group, Checkpoint([file]), blocks)
                self.origins[group] = file.name
        self.entries = {name: owner.entries[old] for name, (owner, old) in self._places.items()}

    def _take(self, group: str, other: Checkpoint, blocks: int) -> None:
        """Takes a group from another file."""
        self.files += other.files
        for old in other.entries:
            name = (_VIT if group == _VIT_GROUP else PART) + old
            beyond = re.match(re.escape(_VIT) + r"blocks\.(\d+)\.", name)
            if _group(name) != group or new_name(name) is None:
                self.dropped[f"{other.files[0].name}: {old}"] = f"is no part of {group}"
            elif beyond and int(beyond[1]) >= blocks:
                self.dropped[f"{other.files[0].name}: {old}"] = f"is a block after the {blocks} that are used"
            else:
                self._places[name] = (other, old)

    def read(self, name: str) -> Tensor:
        """One tensor, as it is stored."""
        owner, old = self._places[name]
        return owner.read(old)


def _group(name: str) -> str | None:
    """Which part that might come from elsewhere a tensor of the original belongs to."""
    if name.startswith(_VIT) and not name.startswith(_BRANCH):
        return _VIT_GROUP
    return _QFORMER_GROUP if name.startswith((PART + "Qformer.", PART + "query_tokens", PART + "ln_vision.")) else None


# ---- the folder ------------------------------------------------------------------------------------------------------


def config_of(
    names: Mapping[str, tuple[int, ...]], text: Mapping[str, Any], variant: str, **parts: Mapping[str, Any]
) -> STLLMConfig:
    """The configuration of a checkpoint.

    Args:
        names: shape of every tensor by its original name.
        text: fields of the original's config.json, which are those of a Llama.
        variant: "qa" or "conversation".
        parts: fields of `vision_config` and `qformer_config` that are not the published model's.

    Raises:
        InputError: there is no language model, or the residual's layers that the variant needs are not there.
    """
    from transformers import LlamaConfig

    embeddings, down = names.get("model.embed_tokens.weight"), names.get(PART + "down_proj.weight")
    if embeddings is None:
        raise InputError("The checkpoint has no model.embed_tokens.weight; give the folder of a whole ST-LLM.")
    if variant == "conversation" and down is None:
        raise InputError(
            f"The checkpoint has no {PART}down_proj.weight, which the conversation variant needs; take variant qa."
        )
    known = set(LlamaConfig().to_dict()) | {"rope_theta"}
    known -= {"architectures", "model_type", "transformers_version", "dtype", "auto_map", "torch_dtype"}
    fields = {name: value for name, value in text.items() if name in known}
    fields |= {"vocab_size": embeddings[0], "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": embeddings[0] - 1}
    blocks = {found[1] for name in names if (found := re.match(re.escape(_BRANCH) + r"S\.(\d+)\.", name))}
    positions = names.get(_BRANCH + "position.weight")
    return STLLMConfig(
        vision_config=dict(parts.get("vision_config", {})),
        qformer_config={"vocab_size": 30523, **parts.get("qformer_config", {})},
        text_config=fields,
        bt_adapter_depth=len(blocks),
        bt_adapter_frames=positions[0] if positions else 64,
        video_input="residual" if variant == "conversation" else "all",
        residual_size=down[0] if down else 1024,
    )


def convert(
    source: Path,
    destination: Path,
    *,
    variant: str | None = None,
    vit: Path | None = None,
    qformer: Path | None = None,
    bert: Path | None = None,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **parts: Mapping[str, Any],
) -> Report:
    """Converts a downloaded checkpoint.

    Args:
        source: the folder with config.json, pytorch_model*.bin and tokenizer.model.
        destination: a new folder.
        variant: "qa" or "conversation"; None: qa where the checkpoint has a BT-Adapter.
        vit, qformer: files of the ViT and of the Q-Former, used where the checkpoint lacks them.
        bert: a folder with the tokenizer of bert-base-uncased; None: `source`/qformer_tokenizer.
        dtype: "float32", "float16" or "bfloat16"; None: as it was.
        progress: see `write_weights`.
        parts: see `config_of`.

    Raises:
        InputError: something is missing, left over, of another size or unreadable; then nothing is written.
        MissingDependencyError: the tokenizer can't be read without another package.
    """
    if variant not in (None, *VARIANTS):
        raise InputError(f"variant is {variant!r}, but must be one of {', '.join(VARIANTS)}.")
    if dtype not in (None, *_DTYPES):
        raise InputError(f"dtype is {dtype!r}, but must be one of {', '.join(_DTYPES)}.")
    fields = _read_config(source)
    main = Checkpoint.of_folder(source)
    branch = any(name.startswith(_BRANCH) for name in main.entries)
    variant = variant or ("qa" if branch else "conversation")
    config = config_of(main.shapes(), fields, variant, **parts)
    joined = Renamed(main, {_VIT_GROUP: vit, _QFORMER_GROUP: qformer}, config.vision_config.num_hidden_layers)
    stored = {name: entry.dtype for name, entry in joined.entries.items()}
    chosen = plan(stored, variant == "conversation", None if dtype is None else _DTYPES[dtype])
    shapes = wanted(config)
    chosen.check(stored, shapes, "ST-LLM")
    config.dtype = dtype or str(stored["model.embed_tokens.weight"]).removeprefix("torch.")
    processor = make_processor(config, source, bert)
    with new_folder(destination) as folder:
        write_weights(folder, joined, chosen.targets, shapes, progress=progress)  # type: ignore[arg-type]
        save_settings(config, processor, folder)
    return Report(variant, destination, len(chosen.targets), {**chosen.dropped, **joined.dropped}, joined.origins)


def wanted(config: STLLMConfig) -> dict[str, tuple[int, ...]]:
    """Shape by name of every weight of a model, without memory for it."""
    from prunevid.models.stllm.modeling import STLLMForConditionalGeneration

    return expected_shapes(lambda: STLLMForConditionalGeneration(config))


def make_processor(config: STLLMConfig, source: Path, bert: Path | None) -> Any:
    """The processor of a checkpoint.

    Raises:
        InputError: a tokenizer is not there, or is not the model's.
        MissingDependencyError: see `convert`.
    """
    from prunevid.models.stllm.processing import STLLMProcessor, STLLMVideoProcessor

    folder = bert if bert is not None else source / "qformer_tokenizer"
    if not folder.is_dir():
        raise InputError(
            "The Q-Former reads with the tokenizer of bert-base-uncased, which the checkpoint does not hold; download "
            "its tokenizer files and give their folder with --bert."
        )
    questions = _tokenizer(folder)
    if "[DEC]" not in questions.get_vocab():
        questions.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer = _tokenizer(source)
    tokenizer.bos_token = tokenizer.eos_token = "</s>"
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    _check_ids(config, tokenizer, questions)
    size = config.vision_config.image_size
    return STLLMProcessor(
        video_processor=STLLMVideoProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer=tokenizer,
        qformer_tokenizer=questions,
        num_query_tokens=config.num_query_tokens,
        video_input=config.video_input,
        residual_frames=config.residual_frames,
        video_token=tokenizer.convert_ids_to_tokens(config.video_token_id),
    )


def save_settings(config: STLLMConfig, processor: Any, folder: Path) -> None:
    """Writes all but the weights."""
    from transformers import GenerationConfig

    config.architectures = ["STLLMForConditionalGeneration"]
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    text = config.text_config
    ids = {name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)


def _check_ids(config: STLLMConfig, tokenizer: Any, questions: Any) -> None:
    text = config.text_config
    for name, known in (("bos_token_id", text.bos_token_id), ("pad_token_id", text.pad_token_id)):
        found = getattr(tokenizer, name)
        if found != known:
            raise InputError(f"The tokenizer's {name} is {found}, but ST-LLM's is {known}; it is another model's.")
    most = config.qformer_config.vocab_size
    if len(questions) != most:
        raise InputError(
            f"The Q-Former's tokenizer has {len(questions)} tokens, but the model's vocabulary has {most}; give that "
            "of bert-base-uncased."
        )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise MissingDependencyError(
            f"The tokenizer in {str(folder)!r} needs another package: pip install sentencepiece protobuf."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = one_line(error)[:200]
        raise InputError(f"There is no tokenizer in {str(folder)!r} that can be read ({first}).") from error


def _read_config(source: Path) -> dict[str, Any]:
    try:
        fields = json.loads((source / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(source)!r} holds no config.json that can be read; give the folder of the downloaded checkpoint."
        ) from error
    if not isinstance(fields, dict):
        raise InputError(f"config.json in {str(source)!r} holds no fields; download it again.")
    return fields


def names_of(targets: Iterable[Target]) -> dict[str, tuple[str, ...]]:
    """The original names of each new tensor."""
    return {target.name: target.sources for target in targets}
