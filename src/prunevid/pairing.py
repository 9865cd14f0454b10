# SPDX-License-Identifier: Apache-2.0
"""Whether a processor belongs to a model: what is only wrong numbers otherwise, or an index error deep inside."""

from __future__ import annotations

from typing import Any

from prunevid.errors import InputError
from prunevid.models import Adapter, adapter_for

# The processor's or its video processor's name of a size, and the vision config's.
_SIZES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}


def check_pair(model: Any, processor: Any) -> None:
    """Refuses a processor that was made for another model; whatever can't be compared passes.

    Args:
        model: of a supported family.
        processor: a transformers processor, or one that acts like it.

    Raises:
        InputError: its class belongs to another family, or its placeholder tokens or patch sizes are not the model's.
        UnsupportedModelError: the model's family has no adapter.
    """
    adapter = adapter_for(model)
    _check_class(model, processor, adapter)
    _check_tokens(model, processor, adapter)
    _check_sizes(model, processor)


def _check_class(model: Any, processor: Any, adapter: Adapter) -> None:
    """By transformers' own list of which model type has which processor; classes that it does not list pass."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    names = {kind.__name__ for kind in type(processor).__mro__}
    owners = {family for family, name in PROCESSOR_MAPPING_NAMES.items() if name in names}
    if owners and not owners & adapter.model_types:
        right = PROCESSOR_MAPPING_NAMES.get(model.config.model_type, "the one that comes with it")
        raise InputError(
            f"A {type(processor).__name__} is the processor of a model of type {' or '.join(sorted(owners))}, but this "
            f"model is of type {model.config.model_type!r}; load its own processor ({right}) from where the model is."
        )


def _check_tokens(model: Any, processor: Any, adapter: Adapter) -> None:
    config = model.config
    expected = {"image": adapter.image_token_id(config), "video": adapter.video_token_id(config)}
    if adapter.frames_as_images:  # a video's placeholder is in the prompt's text alone
        expected = {"image": adapter.video_token_id(config)}
    for kind, known in expected.items():
        found = _token_id(processor, kind)
        if None not in (found, known) and found != known:
            raise InputError(
                f"The processor's {kind} token {getattr(processor, f'{kind}_token', None)!r} has the id {found}, but "
                f"the model expects {known} there; load processor and model from the same place."
            )


def _token_id(processor: Any, kind: str) -> int | None:
    """The id that a placeholder has in the processor's output, or None where it doesn't say.

    The tokenizer goes first, for it makes the ids; a processor's own attribute may be a default.
    """
    token: Any = getattr(processor, f"{kind}_token", None)
    tokenizer: Any = getattr(processor, "tokenizer", None)
    if isinstance(token, str) and hasattr(tokenizer, "convert_tokens_to_ids"):
        found = tokenizer.convert_tokens_to_ids(token)
    else:
        found = getattr(processor, f"{kind}_token_id", None)
    return found if isinstance(found, int) else None


def _check_sizes(model: Any, processor: Any) -> None:
    vision = getattr(model.config, "vision_config", None)
    for name, configured in _SIZES.items():
        known = getattr(vision, configured, None)
        for part in (processor, getattr(processor, "video_processor", None)):
            found = getattr(part, name, None)
            if isinstance(found, int) and isinstance(known, int) and found != known:
                raise InputError(
                    f"{name} is {found} in the {type(part).__name__} but {known} in the model's vision tower, so it "
                    "was made for another model; load processor and model from the same place."
                )
