# SPDX-License-Identifier: Apache-2.0
"""Tables of runs as Markdown for people, CSV for spreadsheets and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prunevid.errors import one_line
from prunevid.evaluation.published import SOURCE, Published, flat_options
from prunevid.evaluation.tables import Count, Row, Section

FORMATS = ("markdown", "csv", "json")
TITLES = {
    "mvbench": "MVBench",
    "videomme": "Video-MME",
    "egoschema": "EgoSchema",
    "vcgbench": "VideoChatGPT-Bench",
}
ASPECTS = ("CI", "DO", "CU", "TU", "CO")
_NAMED = ("tau", "cluster_ratio", "temporal_segment_ratio", "keep_ratio", "pruning_layer")
_BUDGET = ("retention_ratio", "retention_tokens")
_LEGEND = (
    "Shares in percent. Kept: visual tokens left, mean over the questions; FLOPs: of the language model's prefill, by "
    "formula. Micro: over all questions, with Wilson's 95 % interval; macro: mean of the tasks. Accuracy is by the "
    "protocol's own matcher, strict by the strict one. Difference: to the baseline in points, on the questions that "
    "both answered, with a 95 % bootstrap interval over videos; p: exact McNemar test, not corrected for the number of "
    "rows. Agreement: questions answered as the baseline did."
)


def render(sections: Sequence[Section], form: str, *, per_task: bool = False) -> str:
    """A table as text, with a line end.

    Args:
        form: one of `FORMATS`.
        per_task: with the accuracy of every task.
    """
    return {"markdown": markdown, "csv": as_csv, "json": as_json}[form](sections, per_task)


# ---- Markdown ------------------------------------------------------------------------------------------------------


def markdown(sections: Sequence[Section], per_task: bool = False) -> str:
    """A heading, the notes and a table for each benchmark; the loud notes first."""
    return "\n".join(_section(section, per_task) for section in sections)


def _section(section: Section, per_task: bool) -> str:
    lines = [f"## {TITLES[section.benchmark]}", ""]
    for note in section.notes:
        lines += [f"> **WARNING: {one_line(note.text)}**" if note.loud else f"> {one_line(note.text)}", ">"]
    if section.notes:
        lines[-1] = ""
    open_ended = section.benchmark == "vcgbench"
    columns = [*_FRONT, *(_JUDGED if open_ended else _CHOSEN), *_COMPARED[open_ended:]]
    varied = varied_options(section.rows)
    head = ["run", "method", "settings", *(name for name, _ in columns)]
    rows = [
        [row.name, row.settings.method, settings_text(row, varied), *(show(row) for _, show in columns)]
        for row in section.rows
    ]
    lines += [*_grid(head, rows, left=3), "", _LEGEND]
    published = any(row.published for row in section.rows)
    lines += [f"Published: {SOURCE}; not measured here."] if published else []
    if not open_ended:
        lines += ["", "Options chosen:", ""]
        letters = list(dict.fromkeys([*section.truth, *(name for row in section.rows for name in row.letters)]))
        letters.sort(key=lambda name: (len(name), name))
        shown = [("right answers", section.truth), *((row.name, row.letters) for row in section.rows)]
        lines += _grid(["run", *letters], [[name, *(str(counts.get(x, 0)) for x in letters)] for name, counts in shown])
    if per_task and section.tasks:
        lines += ["", "By task (right of questions):", ""]
        tasks = [[task, *(_by_task(row.tasks.get(task)) for row in section.rows)] for task in section.tasks]
        lines += _grid(["task", *(row.name for row in section.rows)], tasks)
    return "\n".join(lines) + "\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    marks = ["---" if index < left else "---:" for index in range(len(head))]
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, marks, *rows)]


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f}"


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _asked(row: Row) -> str:
    errors = f", {row.errors} failed" if row.errors else ""
    whole = str(row.answered) if row.answered == row.expected else f"{row.answered}/{row.expected}"
    return whole + errors


def _accuracy(row: Row) -> str:
    interval = row.accuracy.interval
    if interval is None:
        return ""
    return f"{_percent(row.accuracy.share)} [{_percent(interval[0])}, {_percent(interval[1])}]"


def _by_task(count: Count | None) -> str:
    return f"{_percent(count.share)} ({count.right}/{count.questions})" if count and count.questions else ""


def _published(row: Row) -> str:
    return ", ".join(_printed(entry) for entry in row.published)


def _printed(entry: Published) -> str:
    value = f"{entry.value:.2f}" if entry.benchmark == "vcgbench" else f"{entry.value:.1f}"
    return f"{value} ({entry.part})" if entry.part else value


def _difference(row: Row) -> str:
    found = row.difference
    if found is None or found.interval is None:
        return ""
    return f"{_points(found.points)} [{_points(found.interval[0])}, {_points(found.interval[1])}]"


def _p(row: Row) -> str:
    p = None if row.difference is None else row.difference.p
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _agreement(row: Row) -> str:
    return "" if row.difference is None else _percent(row.difference.agreement)


def _aspect(name: str) -> tuple[str, Callable[[Row], str]]:
    return name, lambda row: "" if row.judged is None else _score(row.judged.aspects.get(name))


_Column = tuple[str, Callable[[Row], str]]
_FRONT: list[_Column] = [
    ("kept", lambda row: _percent(row.kept)),
    ("FLOPs", lambda row: _percent(row.flops)),
    ("questions", _asked),
]
_CHOSEN: list[_Column] = [
    ("micro", _accuracy),
    ("macro", lambda row: _percent(row.macro)),
    ("strict", lambda row: _percent(row.strict.share)),
    ("published", _published),
]
_JUDGED: list[_Column] = [
    *map(_aspect, ASPECTS),
    ("mean of five", lambda row: "" if row.judged is None else _score(row.judged.macro)),
    ("mean of items", lambda row: "" if row.judged is None else _score(row.judged.micro)),
    ("judge", lambda row: "" if row.judged is None else row.judged.model),
    ("published mean of five", _published),
]
_COMPARED: list[_Column] = [("difference", _difference), ("p", _p), ("agreement", _agreement)]


# ---- settings ------------------------------------------------------------------------------------------------------


def varied_options(rows: Sequence[Row]) -> dict[str, set[str]]:
    """For each method the names of its options that are not the same in all of the rows."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row.settings.method, []).append(flat_options(row.settings))
    found = {}
    for method, options in by_method.items():
        names = {name for one in options for name in one}
        found[method] = {name for name in names if any(one.get(name) != options[0].get(name) for one in options)}
    return found


def settings_text(row: Row, varied: Mapping[str, set[str]]) -> str:
    """The budget, the settings of PruneVid's ablation, and whatever differs between runs of the same method."""
    options = flat_options(row.settings)
    names = [name for name in (*_BUDGET, *_NAMED) if options.get(name) is not None]
    names += sorted(name for name in varied.get(row.settings.method, ()) if name in options and name not in names)
    return ", ".join(f"{name} {_value(options[name])}" for name in names if name not in _BUDGET or options[name])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value), sort_keys=True, default=str)
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- CSV and JSON --------------------------------------------------------------------------------------------------


def as_csv(sections: Sequence[Section], per_task: bool = False) -> str:
    """A line for each run, shares as numbers in 0 ... 1; empty where there is nothing to say."""
    rows = [flat(row, per_task) for section in sections for row in section.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def flat(row: Row, per_task: bool = False) -> dict[str, Any]:
    """A row as one level of names and numbers."""
    settings, interval = row.settings, row.accuracy.interval or (None, None)
    found: dict[str, Any] = {
        "benchmark": settings.benchmark,
        "run": row.name,
        "protocol": settings.protocol,
        "model": settings.model,
        "family": settings.family,
        "method": settings.method,
        "options": json.dumps(flat_options(settings), sort_keys=True, default=str),
        "frames": settings.frames,
        "kept": row.kept,
        "flops": row.flops,
        "expected": row.expected,
        "answered": row.answered,
        "errors": row.errors,
        "right": row.accuracy.right,
        "scored": row.accuracy.questions,
        "micro": row.accuracy.share,
        "micro_low": interval[0],
        "micro_high": interval[1],
        "macro": row.macro,
        "strict_right": row.strict.right,
        "strict": row.strict.share,
    }
    for entry in row.published:
        found["published" + (f"_{entry.part}" if entry.part else "")] = entry.value
    found |= _flat_difference(row)
    found |= {f"chose_{letter}": count for letter, count in row.letters.items()}
    if row.judged is not None:
        found |= {f"judge_{name}": mean for name, mean in row.judged.aspects.items()}
        found |= {"judge_macro": row.judged.macro, "judge_micro": row.judged.micro, "judge": row.judged.model}
    if per_task:
        for task, count in row.tasks.items():
            found |= {f"task: {task}": count.share, f"questions: {task}": count.questions}
    return found


def _flat_difference(row: Row) -> dict[str, Any]:
    found = row.difference
    if found is None:
        return {}
    low, high = found.interval or (None, None)
    return {
        "baseline": found.baseline,
        "common": found.common,
        "common_scored": found.scored,
        "only_this_right": found.gained,
        "only_baseline_right": found.lost,
        "difference": found.points,
        "difference_low": low,
        "difference_high": high,
        "mcnemar_p": found.p,
        "same_answer": found.same,
        "same_text": found.same_text,
        "agreement": found.agreement,
    }


def as_json(sections: Sequence[Section], per_task: bool = False) -> str:
    """The rows of the CSV with the notes, the options' counts and, by task, the counts."""
    document = {
        "published_source": SOURCE,
        "sections": [
            {
                "benchmark": section.benchmark,
                "notes": [{"text": note.text, "loud": note.loud} for note in section.notes],
                "right_answers": dict(section.truth),
                "rows": [_document(row, per_task) for row in section.rows],
            }
            for section in sections
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _document(row: Row, per_task: bool) -> dict[str, Any]:
    found = {name: value for name, value in flat(row).items() if not name.startswith(("chose_", "published"))}
    found["options"] = json.loads(found["options"])
    found["folder"] = str(row.run.folder)
    found["versions"] = dict(row.settings.versions)
    found["letters"] = dict(row.letters)
    found["published"] = [
        {
            "value": entry.value,
            "part": entry.part,
            "kept": entry.kept,
            "flops": entry.flops,
            "remarks": list(entry.remarks),
        }
        for entry in row.published
    ]
    if per_task:
        found["tasks"] = {
            task: {"right": count.right, "questions": count.questions, "accuracy": count.share}
            for task, count in row.tasks.items()
        }
    return found
