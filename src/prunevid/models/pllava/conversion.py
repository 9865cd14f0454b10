# SPDX-License-Identifier: Apache-2.0
"""From the published PLLaVA checkpoints, whose adapters are not merged, to a folder that transformers loads.

Names are those of the hub's files: the language model behind PEFT's prefixes, the vision tower and the projector as in
transformers 4.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.errors import ConfigError, InputError, one_line
from prunevid.models.converting import (
    SHARD_BYTES,
    Checkpoint,
    Joined,
    Plan,
    Target,
    expected_shapes,
    new_folder,
    write_weights,
)
from prunevid.models.pllava.configuration import PLLaVAConfig
from prunevid.models.pllava.lora import ADAPTER_FILE, DOWN, UP, check_alpha, fits, merged
from prunevid.models.pllava.modeling import PLLaVAForConditionalGeneration
from prunevid.models.pllava.processing import PLLaVAProcessor
from prunevid.models.pllava.prompts import IMAGE_TOKEN, chat_template

_RENAMED = (
    (re.compile(r"(?:model\.)?language_model\.(?:base_model\.model\.)?lm_head\.(.+)"), r"lm_head.\1"),
    (re.compile(r"language_model\.(?:base_model\.model\.)?model\.(.+)"), r"model.language_model.\1"),
    (re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?(.+)"), r"model.vision_tower.\1"),
    (re.compile(r"(?:model\.)?multi_modal_projector\.(.+)"), r"model.multi_modal_projector.\1"),
    (re.compile(r"(lm_head\..+|model\.language_model\..+)"), r"\1"),
)
_PART = re.compile(r"(?P<module>.+)\.(?P<part>base_layer|lora_A|lora_B)(?:\.default)?\.weight")
_DROPPED = (
    (re.compile(r"(?:model\.)?image_newline"), "PLLaVA does not use LLaVA-NeXT's newline"),
    (re.compile(r".*\.position_ids"), "a buffer that transformers makes itself"),
    (re.compile(r".*\.rotary_emb\.inv_freq"), "a buffer that transformers makes itself"),
)
_BASE = "base:"  # before the names of the base's tensors
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_KEPT = (
    *("text_config", "vision_config", "image_token_index", "pad_token_id", "projector_hidden_act"),
    *("frame_shape", "pooling_shape", "num_frames", "vision_feature_layer", "vision_feature_select_strategy"),
)


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    folder: the new folder; weights: tensors written; adapters: pairs of adapters that were merged or kept; alpha: with
    which they were merged, or None; dropped: why a tensor of the checkpoint is not among the weights, by name (of the
    base with "base:" before it).
    """

    folder: Path
    weights: int
    adapters: int
    alpha: float | None
    dropped: dict[str, str]


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    lora_alpha: float | None = None,
    base: str | os.PathLike[str] | None = None,
    keep_adapters: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Converts a downloaded checkpoint.

    Args:
        source: its folder: config.json, the weights, the tokenizer.
        destination: a new folder.
        lora_alpha: the adapters are merged with lora_alpha / rank (published: 14, 4; 32 in training; 0 gives the base).
        base: the folder of the LLaVA-NeXT checkpoint under the adapters, for a source that holds only adapters and the
            projector.
        keep_adapters: leave the adapters in a file of their own; the alpha is then given at loading.
        shard_bytes: of a weight file at most.
        progress: called with the bytes written and those of all weights.

    Raises:
        ConfigError: the alpha is missing, or given where there is nothing to merge.
        InputError: a tensor is missing or left over on either side, the base is missing, not needed or of another
            size, a file is damaged or a pickle of anything but tensors, the tokenizer or the configuration does not
            fit, the destination exists. Nothing is left at the destination then.
    """
    source = Path(source)
    config = _config(source)
    sources = _Sources(Checkpoint.of_folder(source), None if base is None else _base(Path(base), config))
    if not sources.adapters and _is_plain(source):
        raise InputError(f"{str(source)!r} is no PLLaVA: no adapters, and no pooling_shape in config.json.")
    _check_alpha(bool(sources.adapters), lora_alpha, keep_adapters)
    config.pllava_lora_alpha = lora_alpha
    config.pllava_adapters = ADAPTER_FILE if keep_adapters else None
    shapes = expected_shapes(lambda: PLLaVAForConditionalGeneration(config))
    sources.check(shapes)
    plan = sources.plan(lora_alpha, keep_adapters)
    plan.check(sources.checkpoint.entries, shapes, "PLLaVA")
    sources.check_shapes(shapes)
    processor = _processor(source, config)
    config.architectures = [PLLaVAForConditionalGeneration.__name__]
    config.dtype = _common_type(plan)
    with new_folder(Path(destination)) as folder:
        config.save_pretrained(folder)
        _generation_config(source, config).save_pretrained(folder)
        processor.save_pretrained(folder)
        write_weights(folder, sources.checkpoint, plan.targets, shapes, shard_bytes, progress)
        if keep_adapters:
            sources.write_adapters(folder)
    return Report(Path(destination), len(plan.targets), len(sources.adapters), lora_alpha, plan.dropped)


class _Sources:
    """The tensors of a checkpoint, and of the base under it, by the names that they get.

    Args:
        own: the checkpoint.
        under: the base, or None.

    Attributes:
        checkpoint: both, as one.
        weights: name in the checkpoint by new name.
        adapters: names (down, up) in the checkpoint by the weight's new name.
        dropped: why a tensor is left out, by name in the checkpoint.

    Raises:
        InputError: two tensors get one name, half of a pair of adapters is missing, or the base holds adapters.
    """

    def __init__(self, own: Checkpoint, under: Checkpoint | None):
        self.checkpoint: Checkpoint = own if under is None else Joined({"": own, _BASE: under})
        self.has_base = under is not None
        self.weights: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.wrapped: set[str] = set()  # new names of weights that stand as the base of an adapter
        halves: dict[str, dict[str, str]] = {}
        for name in own.entries:
            new, part = self._place(name)
            if new is not None and part.startswith("lora_"):
                halves.setdefault(new, {})[part] = name
            elif new is not None:
                self._take(new, name)
                self.wrapped |= {new} if part == "base_layer" else set()
        for name in under.entries if under is not None else ():
            self._place_base(name)
        self.adapters = {new: _pair(new, parts) for new, parts in halves.items()}

    def _place(self, name: str, prefix: str = "") -> tuple[str | None, str]:
        """The new name of a tensor and which part of it this is; None where it has none, or is dropped."""
        for pattern, why in _DROPPED:
            if pattern.fullmatch(name):
                self.dropped[prefix + name] = why
                return None, ""
        split = _PART.fullmatch(name)
        whole, part = (f"{split['module']}.weight", split["part"]) if split else (name, "")
        for pattern, new in _RENAMED:
            if found := pattern.fullmatch(whole):
                return found.expand(new), part
        return None, ""

    def _take(self, new: str, name: str) -> None:
        if new in self.weights:
            raise InputError(f"{self.weights[new]} and {name} are both {new}; the checkpoint is not one of PLLaVA.")
        self.weights[new] = name

    def _place_base(self, name: str) -> None:
        new, part = self._place(name, _BASE)
        if part:
            raise InputError(f"The base holds {name}, an adapter; give the LLaVA-NeXT checkpoint that it is made for.")
        if new in self.weights and not self.weights[new].startswith(_BASE):
            self.dropped[_BASE + name] = "the checkpoint has its own"
        elif new is not None:
            self._take(new, _BASE + name)

    # ---- what is refused ---------------------------------------------------------------------------------------------

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Compares the adapters with the model.

        Args:
            shapes: of the model's weights.

        Raises:
            InputError: the base is missing or not needed, adapters are missing or too many, or belong to a model of
                another size.
        """
        lacking = [new for new in self.adapters if new not in self.weights]
        if lacking and len(lacking) == len(self.adapters) and not self.has_base:
            raise InputError(
                f"The checkpoint holds adapters without what they adapt ({lacking[0]} and {len(lacking) - 1} more); "
                "give the folder of its LLaVA-NeXT checkpoint (llava-v1.6-...-hf) with --base."
            )
        if self.has_base and not any(name.startswith(_BASE) for name in self.weights.values()):
            raise InputError("The checkpoint is whole, so nothing of the base is needed; leave out --base.")
        if not self.adapters:
            if self.wrapped:
                raise InputError(f"The checkpoint lacks the adapters of {sorted(self.wrapped)[0]}; download all files.")
            return
        adapted = {name for name in shapes if re.search(r"language_model\..+\.(q|v)_proj\.weight", name)}
        wrong = sorted(adapted ^ set(self.adapters))
        if wrong:
            what = "lacks the adapters of" if wrong[0] in adapted else "holds adapters, which nothing takes, of"
            raise InputError(
                f"The checkpoint {what} {wrong[0]}; it must have those of q_proj and v_proj in every layer."
            )
        self._check_sizes(shapes)

    def _check_sizes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        stored = self.checkpoint.shapes()
        for new, pair in self.adapters.items():
            down, up = (stored[name] for name in pair)
            if not fits(shapes[new], down, up):
                raise InputError(
                    f"The adapters of {new} are {down} and {up}, but the weight is {shapes[new]}; they belong to a "
                    "model of another size."
                )
        ranks = {stored[down][0] for down, _ in self.adapters.values()}
        if len(ranks) > 1:
            raise InputError(f"The adapters have the ranks {sorted(ranks)}, but must all have the same.")

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Compares every weight with the model's.

        Raises:
            InputError: one has another shape.
        """
        for new, name in self.weights.items():
            found = self.checkpoint.entries[name].shape
            if found != shapes[new]:
                raise InputError(
                    f"{name} has the shape {found}, but {new} of the configured model has {shapes[new]}; the "
                    f"{'base' if name.startswith(_BASE) else 'checkpoint'} belongs to a model of another size."
                )

    # ---- what is made ------------------------------------------------------------------------------------------------

    def plan(self, alpha: float | None, keep: bool) -> Plan:
        """What becomes of every tensor; alpha: with which adapters are merged."""
        plan = Plan(dropped=dict(self.dropped))
        for new, name in self.weights.items():
            dtype = self.checkpoint.entries[name].dtype
            if alpha is None or new not in self.adapters:
                plan.targets.append(Target(new, (name,), dtype))
            else:
                make = functools.partial(merged, alpha=alpha)
                plan.targets.append(Target(new, (name, *self.adapters[new]), dtype, make))
        if keep:
            plan.dropped |= {name: f"kept in {ADAPTER_FILE}" for pair in self.adapters.values() for name in pair}
        return plan

    def write_adapters(self, folder: Path) -> None:
        """Writes the adapters to a file of their own."""
        names = {new + part: name for new, pair in self.adapters.items() for part, name in zip((DOWN, UP), pair)}
        entries = self.checkpoint.entries
        targets = [Target(new, (name,), entries[name].dtype) for new, name in names.items()]
        shapes = {new: entries[name].shape for new, name in names.items()}
        stem = ADAPTER_FILE.removesuffix(".safetensors")
        write_weights(folder, self.checkpoint, targets, shapes, sys.maxsize, stem=stem)


def _pair(new: str, parts: dict[str, str]) -> tuple[str, str]:
    """(down, up) names of an adapter.

    Raises:
        InputError: one of them is missing.
    """
    if set(parts) != {"lora_A", "lora_B"}:
        raise InputError(f"Of the adapter of {new} the checkpoint holds {sorted(parts)} only; download all files.")
    return parts["lora_A"], parts["lora_B"]


def _check_alpha(adapters: bool, alpha: float | None, keep: bool) -> None:
    """Raises `ConfigError` where the alpha is missing, wrong, or has nothing to scale."""
    if alpha is not None:
        check_alpha(alpha)
    if not adapters and (keep or alpha is not None):
        raise ConfigError("The checkpoint holds no adapters; leave out --lora-alpha and --keep-adapters.")
    if adapters and keep and alpha is not None:
        raise ConfigError("Adapters that are kept apart get their alpha at loading; leave out --lora-alpha.")
    if adapters and not keep and alpha is None:
        raise ConfigError(
            "The checkpoint holds adapters, whose scale must be given with --lora-alpha (published: 14 for MVBench, "
            "Video-MME and EgoSchema, 4 for VideoChatGPT-Bench; 32 in training), or keep them with --keep-adapters."
        )


# ---- the files besides the weights -----------------------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json of a LLaVA checkpoint.

    Raises:
        InputError: there is none, or it is of another family.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{str(folder)!r} holds no config.json; give the folder of the downloaded checkpoint.")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no JSON; download it again.") from error
    if not isinstance(values, dict) or not isinstance(values.get("text_config"), dict):
        raise InputError(f"{str(path)!r} has no text_config, so it is no configuration of a LLaVA model.")
    return values


def _config(folder: Path) -> PLLaVAConfig:
    """The configuration of a checkpoint as ours: what PLLaVA reads of it, and nothing else."""
    values = _read_config(folder)
    if values.get("pad_token_id") is None:
        values["pad_token_id"] = values["text_config"].get("pad_token_id")
    kept = {name: values[name] for name in _KEPT if values.get(name) is not None}
    try:
        return PLLaVAConfig(**kept)
    except (TypeError, ValueError, KeyError) as error:
        line = one_line(error)[:200]
        raise InputError(f"The configuration in {str(folder)!r} can't be used: {line}") from error


def _is_plain(folder: Path) -> bool:
    """Whether nothing in the configuration says PLLaVA."""
    values = _read_config(folder)
    named = [values.get("model_type"), *(values.get("architectures") or [])]
    return "pooling_shape" not in values and not any("pllava" in str(name).lower() for name in named)


def _base(folder: Path, config: PLLaVAConfig) -> Checkpoint:
    """The weights of a base.

    Raises:
        InputError: its configuration says another size than the checkpoint's.
    """
    other = _config(folder) if "vision_config" in _read_config(folder) else None
    for part in ("text_config", "vision_config") if other is not None else ():
        for name in _SIZES:
            wanted, found = (getattr(getattr(whole, part), name, None) for whole in (config, other))
            if wanted != found:
                raise InputError(
                    f"{str(folder)!r} is the wrong base: {name} is {found} in its {part}, but {wanted} in the "
                    "checkpoint's; give the LLaVA-NeXT checkpoint that the adapters were made for."
                )
    return Checkpoint.of_folder(folder)


def _processor(folder: Path, config: PLLaVAConfig) -> PLLaVAProcessor:
    """The processor with the checkpoint's tokenizer.

    Raises:
        InputError: the tokenizer can't be read, or `<image>` has another id than the configuration says.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        line = one_line(error)[:200]
        raise InputError(f"The tokenizer in {str(folder)!r} can't be read: {line}") from error
    if tokenizer.pad_token is None and config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    style = "chatml" if _knows(tokenizer, "<|im_start|>") else "vicuna"
    made = PLLaVAProcessor(
        tokenizer,
        chat_template=chat_template(style),
        num_frames=config.num_frames,
        pooling_shape=config.pooling_shape,
        crop_size=config.vision_config.image_size,
    )
    if made.image_token_id != config.image_token_index:
        raise InputError(
            f"{IMAGE_TOKEN!r} has the id {made.image_token_id} in the tokenizer, but {config.image_token_index} in "
            "config.json; download both again from the same place."
        )
    return made


def _knows(tokenizer: Any, token: str) -> bool:
    return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)


def _generation_config(folder: Path, config: PLLaVAConfig) -> Any:
    """The token ids of generation; how to decode is the caller's choice."""
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    known = {name: stored.get(name, getattr(config.text_config, name, None)) for name in names}
    if config.pad_token_id is not None:
        known["pad_token_id"] = config.pad_token_id
    return GenerationConfig(**known)


def _common_type(plan: Plan) -> Any:
    """The type of most of the weights."""
    counts = collections.Counter(target.dtype for target in plan.targets)
    return counts.most_common(1)[0][0]
