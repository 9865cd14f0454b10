# SPDX-License-Identifier: Apache-2.0
"""What a reply cost, in words and as a table; HTML in which everything that people or models said is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from prunevid.serve.engine import Reply

_STAGES = {
    "decode_video": "reading the clip",
    "vision": "vision tower",
    "merge": "merging",
    "prefill": "reading the prompt",
    "decode": "answering",
}


def in_words(reply: Reply) -> str:
    """Sentences about the frames, the tokens, the cost and the time of a reply."""
    frames = len(reply.clip)
    said = [f"The model looked at {frames} frame{'s' * (frames != 1)}, which are {reply.visual_tokens} visual tokens."]
    if reply.method == "none":
        said.append("Nothing was pruned.")
    else:
        said.append(f"{reply.method} kept {reply.visual_tokens_kept} of them ({share(reply)}).")
    stats = reply.answer.stats
    if "total" in stats and reply.method != "none":
        said.append(f"Reading the prompt took {_percent(stats['total']['flops_ratio'])} of the arithmetic it would.")
    if stats.get("stage3", {}).get("original_bytes"):
        before, after = stats["stage3"]["original_bytes"], stats["stage3"]["compressed_bytes"]
        beside = f" instead of {before / 1024:.0f} KiB" if after != before else ""
        said.append(f"The cache held {after / 1024:.0f} KiB{beside}.")
    times = [
        f"{_STAGES[name]} {value:.0f} ms"
        for name, value in stats.get("milliseconds", {}).items()
        if name in _STAGES and value >= 0.5
    ]
    return " ".join(said) + (f" Time: {', '.join(times)}." if times else "")


def share(reply: Reply) -> str:
    """The share of the visual tokens that was kept."""
    return _percent(reply.visual_tokens_kept / reply.visual_tokens) if reply.visual_tokens else "100%"


def _percent(part: float) -> str:
    return f"{100 * part:.0f}%" if part >= 0.1 else f"{100 * part:.1f}%"


def table(sides: Sequence[tuple[str, Reply | str]]) -> str:
    """A row for each side of a comparison: its reply, or why there is none."""
    rows = []
    for name, reply in sides:
        if isinstance(reply, str):
            rows.append(f"<tr><th>{escape(name)}</th><td colspan=4 class=pv-error>{escape(reply)}</td></tr>")
            continue
        times = reply.answer.stats.get("milliseconds", {})
        spent = sum(times.get(stage, 0.0) for stage in ("merge", "prefill", "decode"))
        flops = reply.answer.stats.get("total", {}).get("flops_ratio", 1.0)
        cells = [reply.text, f"{reply.visual_tokens_kept} of {reply.visual_tokens} ({share(reply)})"]
        cells += [_percent(flops), f"{spent:.0f} ms"]
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head = "<tr><th>Method</th><th>Answer</th><th>Tokens kept</th><th>Arithmetic</th><th>Time</th></tr>"
    note = "Arithmetic: of reading the prompt, beside the unpruned model. Time: merging, reading the prompt, answering."
    return f"<table class=pv-table>{head}{''.join(rows)}</table><p class=pv-note>{note}</p>"


def talk(exchanges: Sequence[tuple[str, str]]) -> str:
    """Questions and answers under each other."""
    return "".join(
        f"<div class=pv-question>{escape(question)}</div><div class=pv-answer>{escape(answer) or '&hellip;'}</div>"
        for question, answer in exchanges
    )


def picture(png: bytes, description: str) -> str:
    """A picture inside the page itself, so that no file of it lies anywhere."""
    encoded = base64.b64encode(png).decode("ascii")
    return f'<img class=pv-picture alt="{escape(description, quote=True)}" src="data:image/png;base64,{encoded}">'


def note(text: str, kind: str = "note") -> str:
    """One line; `kind` is "note" or "error"."""
    return f'<div class="pv-{kind}" role="status">{escape(text)}</div>' if text else ""
