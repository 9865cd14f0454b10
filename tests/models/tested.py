# SPDX-License-Identifier: Apache-2.0
"""What the tests run of every family, read off the tests themselves, as the table that `docs/models.md` holds."""

from __future__ import annotations

from app.test_families_qa import PROCESSORS
from engine.families import FAMILIES
from engine.test_placement import COMPILED, SPREAD
from engine.tiny import KERNELS
from prunevid import models


def table() -> str:
    """A row for each supported model type, in Markdown."""
    lines = [
        "| model type | test matrix | images | own processor, from a clip file | CPU and disk | compiled decoding |",
        "|---|---|---|---|---|---|",
    ]
    for family in models.supported():
        kind = FAMILIES.get(family)
        images = kind is not None and bool(kind.images or kind.attach)
        ran = [images, family in PROCESSORS, family in SPREAD, family in COMPILED]
        cells = [" and ".join(KERNELS) if kind else "-", *("yes" if one else "-" for one in ran)]
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join(lines)
