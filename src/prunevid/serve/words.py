# SPDX-License-Identifier: Apache-2.0
"""What a reply cost, in words and as a table; HTML in which everything that people or models said is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from prunevid.serve.engine import Reply

_STAGES = {
    "decode_video": "reading the clip",
    "vision": "vision tower",
    "merge": "merging",
    "prefill": "prompt",
    "decode": "answer",
}


def figures(reply: Reply) -> str:
    """The frames, the tokens, the cost and the time of a reply, as numbers with what they mean."""
    stats, frames = reply.answer.stats, len(reply.clip)
    pruned = reply.method != "none"
    number = f"{reply.visual_tokens_kept} of {reply.visual_tokens}" if pruned else str(reply.visual_tokens)
    kept = f"({share(reply)}) kept by {reply.method}" if pruned else "and nothing pruned"
    shown = [(number, f"visual tokens {kept}, of {frames} frame{'s' * (frames != 1)}")]
    if pruned and "total" in stats:
        shown.append((_percent(stats["total"]["flops_ratio"]), "of the unpruned prompt's FLOPs, by formula"))
    if stats.get("stage3", {}).get("original_bytes"):
        before, after = stats["stage3"]["original_bytes"], stats["stage3"]["compressed_bytes"]
        shown.append((_bytes(after), "of KV cache" + (f" instead of {_bytes(before)}" if after != before else "")))
    times = {_STAGES[name]: value for name, value in stats.get("milliseconds", {}).items() if name in _STAGES}
    if times:
        parts = ", ".join(f"{name} {value:.0f}" for name, value in times.items() if value >= 0.5)
        shown.append((f"{sum(times.values()):.0f} ms", parts))
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in shown)
    return f"<div class=pv-figures>{cells}</div>"


def _bytes(number: float) -> str:
    size = number / 1024
    return f"{size:.0f} KiB" if size < 1024 else f"{size / 1024:.1f} MiB"


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
    head = "<tr><th>Method</th><th>Answer</th><th>Visual tokens kept</th><th>FLOPs</th><th>Time</th></tr>"
    note = "FLOPs: of reading the prompt, by formula, beside the unpruned model. Time: merging, prompt and answer."
    return f"<div class=pv-scroll><table class=pv-table>{head}{''.join(rows)}</table></div><p class=pv-hint>{note}</p>"


def talk(exchanges: Sequence[tuple[str, str]]) -> str:
    """Questions and answers under each other."""
    return "".join(
        f"<div class=pv-question>{escape(question)}</div><div class=pv-answer>{escape(answer) or '&hellip;'}</div>"
        for question, answer in exchanges
    )


def picture(pngs: Mapping[str, bytes], description: str) -> str:
    """A picture inside the page itself, so that no file of it lies anywhere; one for each theme ("light", "dark")."""
    images = [
        f'<img class="pv-picture pv-{theme}" alt="{escape(description)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
        for theme, png in pngs.items()
    ]
    return f"<div class=pv-frame>{''.join(images)}</div>"


def note(text: str, kind: str = "note") -> str:
    """One line; `kind` is "note", "busy" or "error"."""
    return f'<div class="pv-{kind}" role="status">{escape(text)}</div>' if text else ""
