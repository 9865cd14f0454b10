# SPDX-License-Identifier: Apache-2.0
"""The files that a run's results are told in; all of them can be made anew from its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunevid.bench.accuracy.tables import report
from prunevid.files import write_files

RESULTS, TABLE = "results.json", "table.md"


def write_report(results: Mapping[str, Any], folder: Path, *, plot: bool = True) -> list[Path]:
    """Writes results.json and table.md, and the plots: accuracy-light.svg, ..., kinds-dark.png.

    Returns:
        The files.

    Raises:
        PruneVidError: they can't be written.
        MissingDependencyError: matplotlib is not installed; the other files are there then.
    """
    texts = {folder / RESULTS: json.dumps(results, indent=1) + "\n", folder / TABLE: report(results)}
    write_files({path: text.encode() for path, text in texts.items()})
    if not plot:
        return list(texts)
    from prunevid.bench.accuracy.plots import save_plots

    return [*texts, *save_plots(results, folder)]
