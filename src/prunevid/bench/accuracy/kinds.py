# SPDX-License-Identifier: Apache-2.0
"""Which kinds of questions are in the benchmark, and what they need of a model."""

from __future__ import annotations

from collections.abc import Mapping

from prunevid.builtin.questions import KINDS
from prunevid.errors import ConfigError

GROUPS: Mapping[str, tuple[str, ...]] = {
    "what": ("color_of", "shape_of", "small_color", "small_shape", "joint_color", "joint_shape"),
    "brief": ("brief_color", "brief_shape", "flash_color", "flash_shape"),
    "moving": ("moving_color", "moving_shape", "direction"),
    "where": ("where", "brief_where"),
    "when": ("when",),
    "order": ("order_color", "order_shape", "after"),
    "change": ("change", "change_to"),
    "how many": ("count", "count_flashes", "scenes"),
    "exist": ("exist",),
}
"""Kinds by what they need."""


def kinds_of(names: str) -> tuple[str, ...]:
    """Kinds from their names and those of groups, with commas between; in the order of `KINDS`.

    Raises:
        ConfigError: one is neither.
    """
    wanted: set[str] = set()
    for name in (part.strip() for part in names.split(",")):
        if name not in GROUPS and name not in KINDS:
            raise ConfigError(
                f"{name!r} is no kind of question; choose some of {', '.join(GROUPS)} (groups) or {', '.join(KINDS)}."
            )
        wanted |= set(GROUPS.get(name, (name,)))
    return tuple(kind for kind in KINDS if kind in wanted)
