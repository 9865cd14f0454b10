# SPDX-License-Identifier: Apache-2.0
"""What makes a method impossible for every model of a family."""

from __future__ import annotations

from prunevid.errors import ConfigError, PruneVidError, UnsupportedError
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
