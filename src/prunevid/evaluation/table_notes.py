# SPDX-License-Identifier: Apache-2.0
"""What a reader of a table must know before trusting it: runs that are not comparable, not complete, or not pruned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunevid.evaluation.runs import RESULTS

if TYPE_CHECKING:
    from prunevid.evaluation.tables import Row

UNPRUNED = 0.9995
"""A run that keeps more than this share of the visual tokens prints as 100.0 %."""


@dataclass(frozen=True)
class Note:
    """A sentence about a section of a table; `loud` where numbers must not be used as they stand."""

    text: str
    loud: bool = False


def notes_of(pairs: Sequence[tuple[Row, Row | None]]) -> list[Note]:
    """What there is to say about rows and what each is compared with (None: it is a baseline, or there is none)."""
    found = list(_baselines(pairs))
    for row, _ in pairs:
        found += _about(row)
    for row, baseline in pairs:
        if baseline is not None:
            found += [*_silent(row), *_questions(row, baseline), *_settings(row, baseline)]
    found += _remarks([row for row, _ in pairs])
    return sorted(dict.fromkeys(found), key=lambda note: not note.loud)


def _baselines(pairs: Sequence[tuple[Row, Row | None]]) -> Iterator[Note]:
    """Rows that are compared with nothing, and a choice between several baselines."""
    used = {baseline.name for _, baseline in pairs if baseline is not None}
    idle = [row for row, baseline in pairs if baseline is None and row.settings.method == "none"]
    for row, baseline in pairs:
        if baseline is None and row.settings.method != "none" and row.name not in used:
            yield Note(
                f"{row.name} is compared with nothing: there is no run of method none of its model "
                f"({row.settings.model}); make one, or name a run with --baseline."
            )
    for row in idle:
        rivals = [other.name for other in idle if other is not row and other.settings.model == row.settings.model]
        if rivals and row.name in used:
            yield Note(
                f"There are several unpruned runs of {row.settings.model}: {row.name}, {', '.join(rivals)}; each run "
                "is compared with the one whose settings are nearest, the first of equals. --baseline names one."
            )


def _about(row: Row) -> Iterator[Note]:
    """One run by itself: complete, all asked, answers known, pruned at all."""
    folder, records = row.run.folder, row.run.records
    missing = row.expected - len(records)
    if missing > 0:
        yield Note(f"{row.name} is not complete: {len(records)} of {row.expected} questions so far.", loud=True)
    elif any(folder.glob("answers-*-of-*.jsonl")):
        yield Note(f"{row.name} is not complete: the answers of its processes are not merged yet.", loud=True)
    elif not (folder / RESULTS).is_file():
        yield Note(f"{row.name} has no {RESULTS}: it is still running, or was stopped before its end.", loud=True)
    failed = [record for record in records.values() if record.error is not None]
    if failed:
        first = failed[0]
        by_task: dict[str, int] = {}
        for record in failed:
            by_task[record.task] = by_task.get(record.task, 0) + 1
        tasks = ", ".join(f"{task} {count}" for task, count in by_task.items())
        yield Note(
            f"{row.name} could not ask {len(failed)} of {len(records)} questions ({tasks}), which count neither as "
            f"right nor as wrong; the first is {first.key} ({first.video}): {first.error}",
            loud=True,
        )
    if row.answered and not row.accuracy.questions and row.letters:
        yield Note(f"{row.name} has no accuracy: the right answers are not known here.")
    elif row.letters and row.accuracy.questions < row.answered:
        yield Note(
            f"{row.name}: the right answer is known here for {row.accuracy.questions} of {row.answered} questions."
        )
    if row.settings.method != "none" and row.kept is not None and row.kept > UNPRUNED:
        yield Note(f"{row.name} kept {row.kept:.1%} of the visual tokens: it prunes nothing.", loud=True)
    if row.judged is not None and row.judged.pending:
        yield Note(f"{row.name}: {row.judged.pending} answers are not judged yet.", loud=True)


def _silent(row: Row) -> Iterator[Note]:
    """A pruned run that answers as if nothing had been pruned."""
    difference = row.difference
    if difference is None or row.settings.method == "none" or not difference.common:
        return
    if difference.same_text == difference.common:
        yield Note(
            f"{row.name} says exactly the same as {difference.baseline} to all {difference.common} questions that both "
            "answered: the predictions do not differ in anything. Check that the pruning acts at all.",
            loud=True,
        )
    elif difference.same == difference.common:
        yield Note(
            f"{row.name} chooses the same answers as {difference.baseline} in all {difference.common} questions; only "
            "the wording differs.",
            loud=True,
        )


def _questions(row: Row, baseline: Row) -> Iterator[Note]:
    """Runs that answered different questions, or other questions under the same key."""
    own = {key for key, record in row.run.records.items() if record.error is None}
    other = {key for key, record in baseline.run.records.items() if record.error is None}
    if own != other:
        yield Note(
            f"{row.name} and {baseline.name} answered different sets of questions ({len(own)} and {len(other)}): "
            f"difference, test and agreement are over the {len(own & other)} that both answered.",
            loud=True,
        )
    changed = [key for key in sorted(own & other) if _asked(row, key) != _asked(baseline, key)]
    if changed:
        yield Note(
            f"{row.name} and {baseline.name} were asked other questions under the same key, {len(changed)} times (the "
            f"first is {changed[0]}): their annotations differ, and they can't be compared.",
            loud=True,
        )


def _asked(row: Row, key: str) -> tuple[Any, ...]:
    record = row.run.records[key]
    return record.question, record.candidates, record.right, record.video


def _settings(row: Row, baseline: Row) -> Iterator[Note]:
    """Settings and versions in which a run differs from its baseline, the method aside."""
    from prunevid.evaluation.tables import differing

    for name, (own, other) in differing(row.settings, baseline.settings).items():
        yield Note(
            f"{row.name} and {baseline.name} differ in {name}: {_shown(own)} and {_shown(other)}; what is shown "
            "is not the effect of the method alone.",
            loud=True,
        )
    own, other = row.settings.versions, baseline.settings.versions
    names = [name for name in sorted({*own, *other}) if own.get(name) != other.get(name)]
    if names:
        changed = ", ".join(f"{name} {own.get(name, 'unknown')} and {other.get(name, 'unknown')}" for name in names)
        yield Note(f"{row.name} and {baseline.name} ran on different versions: {changed}.", loud=True)


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" or value == [] else str(value)


def _remarks(rows: Sequence[Row]) -> Iterator[Note]:
    """What the paper's table leaves open about the numbers that are shown, and judges that differ."""
    remarked: dict[str, list[str]] = {}
    for row in rows:
        for entry in row.published:
            for remark in entry.remarks:
                if row.name not in remarked.setdefault(remark, []):
                    remarked[remark].append(row.name)
    for remark, names in remarked.items():
        yield Note(f"Published numbers beside {', '.join(names)}: {remark}.")
    judges = {row.judged.model for row in rows if row.judged is not None}
    if len(judges) > 1:
        yield Note(
            f"The runs were scored by different judges ({', '.join(sorted(judges))}), whose scores can't be compared.",
            loud=True,
        )
    orders = {row.judged.consistency for row in rows if row.judged is not None}
    if len(orders) > 1:
        yield Note("The judge saw the consistency questions crossed in some runs and in order in others.", loud=True)
