# SPDX-License-Identifier: Apache-2.0
"""What people look at: what became of a clip's tokens, drawn from the recorded token maps; plots in one style."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunevid.view.animation import Film, overlay
    from prunevid.view.attention import Watched, attention_sheet, watch
    from prunevid.view.beside import compare_sheet
    from prunevid.view.diagram import Stage, stages, stages_svg
    from prunevid.view.export import gif, mp4, png, save, save_gif, save_mp4, save_png
    from prunevid.view.notebook import as_html
    from prunevid.view.pictures import Canvas, Heat, boundaries, colour_bar, fit, heat_map, kept, merged, timeline
    from prunevid.view.reports import attention_report, compare_report, facts_of, report
    from prunevid.view.sheets import sheet
    from prunevid.view.subject import Part, Subject
    from prunevid.view.tokens import Cells, Scene, Step, frame_steps

# Imported when used: the plots of a table need neither torch nor pictures.
_PLACES = {
    "animation": ("Film", "overlay"),
    "attention": ("Watched", "attention_sheet", "watch"),
    "beside": ("compare_sheet",),
    "diagram": ("Stage", "stages", "stages_svg"),
    "export": ("gif", "mp4", "png", "save", "save_gif", "save_mp4", "save_png"),
    "notebook": ("as_html",),
    "pictures": ("Canvas", "Heat", "boundaries", "colour_bar", "fit", "heat_map", "kept", "merged", "timeline"),
    "reports": ("attention_report", "compare_report", "facts_of", "report"),
    "sheets": ("sheet",),
    "subject": ("Part", "Subject"),
    "tokens": ("Cells", "Scene", "Step", "frame_steps"),
}
_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Canvas",
    "Cells",
    "Film",
    "Heat",
    "Part",
    "Scene",
    "Stage",
    "Step",
    "Subject",
    "Watched",
    "as_html",
    "attention_report",
    "attention_sheet",
    "boundaries",
    "colour_bar",
    "compare_report",
    "compare_sheet",
    "facts_of",
    "fit",
    "frame_steps",
    "gif",
    "heat_map",
    "kept",
    "merged",
    "mp4",
    "overlay",
    "png",
    "report",
    "save",
    "save_gif",
    "save_mp4",
    "save_png",
    "sheet",
    "stages",
    "stages_svg",
    "timeline",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _OF:
        return getattr(importlib.import_module(f"prunevid.view.{_OF[name]}"), name)
    raise AttributeError(f"module 'prunevid.view' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
