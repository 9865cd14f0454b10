# SPDX-License-Identifier: Apache-2.0
"""Whether a method can act in a model: for every model of a family, and in this one."""

from __future__ import annotations

from typing import Any

from prunevid.errors import ConfigError, PruneVidError, UnsupportedError, UnsupportedModelError
from prunevid.methods.base import Method
from prunevid.models.base import Adapter


def refusal(method: Method, adapter: Adapter) -> PruneVidError | None:
    """The error with which `attach` refuses a method for every model of a family; None where it does not.

    Of a single model more may be amiss: its depth, its attention, its vision tower's layers.
    """
    family = type(adapter).__name__
    if method.merges and method.position_scheme == "renumber" and adapter.positions == "mrope":
        return ConfigError(
            "positions is 'renumber', but this model places its tokens by time, row and column, which can't be counted "
            "anew; choose 'keep' or 'auto'."
        )
    if method.prunes_images and adapter.image_function is None and not adapter.frames_as_images:
        return ConfigError(f"prune_images is True, but the adapter {family} describes no images; leave it out.")
    if method.tower is not None and not adapter.describes_tower:
        return UnsupportedError(
            f"The method {method.name!r} needs the vision tower's attention, but the adapter {family} does not say "
            "where the vision tower is; override its method tower, or take a method that does not ask for it."
        )
    return None


def check(method: Method, adapter: Adapter, language_model: Any, first: int) -> None:
    """Refuses a method that can't act in a model.

    Args:
        method: with its layers filled in (`Method.for_depth`).
        adapter: of the model's family.
        language_model: the model's decoder.
        first: the lowest layer that the family allows for a choice.

    Raises:
        ConfigError: a layer that the model lacks, positions that it can't be given, a budget that nothing meets.
        UnsupportedError: the family lacks what the method needs.
        UnsupportedModelError: the model attends in a window.
    """
    refused = refusal(method, adapter)
    if refused is not None:
        raise refused
    _check_layer(method, first, language_model.config)
    _check_positions(method, adapter, language_model)
    _check_budget(method)


def _check_layer(method: Method, first: int, config: Any) -> None:
    """Refuses a selection layer that the model does not have, and decoders that attend in a window."""
    layers, depth = method.selection_layers, config.num_hidden_layers
    for layer in layers:
        if not first <= layer < depth:
            name = "pruning_layer" if method.name == "prunevid" else f"the layer after which {method.name!r} chooses"
            raise ConfigError(f"{name} is {layer}, but this model's layers allow {first} to {depth - 1}.")
    revised = method.revision_layer
    if revised is not None and not 0 <= revised < depth:
        raise ConfigError(
            f"the layer after which {method.name!r} revises what is seen is {revised}, but this model's layers allow 0 "
            f"to {depth - 1}."
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or []) and method.acts:
        raise UnsupportedModelError(
            "This model attends in a sliding window, which pruning can't shorten; load it with "
            "use_sliding_window=False."
        )


def _check_positions(method: Method, adapter: Adapter, language_model: Any) -> None:
    """Refuses positions after the merge that the model can't be given."""
    kept = method.merges and method.position_scheme == "keep" and adapter.positions == "1d"
    if kept and not hasattr(language_model, "rotary_emb"):
        raise ConfigError(
            "positions is 'keep', but this model's decoder has no rotary_emb that could be given them; choose "
            "'renumber' or 'auto'."
        )


def _check_budget(method: Method) -> None:
    """Refuses a budget where nothing is pruned that could meet it."""
    given = {"retention_ratio": method.retention_ratio, "retention_tokens": method.retention_tokens}
    if method.merges or method.selection_layers or method.shrinks_cache:
        return
    for name, value in given.items():
        if value is not None and (name, value) != ("retention_ratio", 1):
            raise ConfigError(f"{name} is {value}, but the method {method.label!r} prunes nothing here; leave it out.")
