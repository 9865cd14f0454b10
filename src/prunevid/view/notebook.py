# SPDX-License-Identifier: Apache-2.0
"""How an answer looks in a notebook."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from prunevid.errors import PruneVidError
from prunevid.view.export import png
from prunevid.view.sheets import sheet

if TYPE_CHECKING:
    from prunevid.answers import Answer


def as_html(answer: Answer) -> str:
    """The answer's picture as one `<img>` without references; its words where nothing can be drawn."""
    words = f"{answer.question} {answer.text}"
    try:
        picture = png(sheet(answer, width=900))
    except PruneVidError as error:
        return f"<p><b>{escape(answer.question)}</b><br>{escape(answer.text)}</p><p>{escape(str(error))}</p>"
    data = base64.b64encode(picture).decode("ascii")
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'
