# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: what each scored, and how it differs from the unpruned one on the questions that both answered.

`table_text` writes a table as Markdown, CSV or JSON, `table_plots` draws it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid.errors import InputError
from prunevid.evaluation.items import BENCHMARKS, LETTERS
from prunevid.evaluation.published import Published, beside
from prunevid.evaluation.runs import RESULTS, SETTINGS, Record, Run, Settings, read_run
from prunevid.evaluation.statistics import clustered_bootstrap, mcnemar, wilson
from prunevid.evaluation.table_notes import Note, notes_of

NONE = "none"
"""Stands for the letter of an answer in which the strict matcher read none."""


@dataclass(frozen=True)
class Count:
    """Questions answered rightly, of those whose right answer is known here."""

    right: int
    questions: int

    @property
    def share(self) -> float | None:
        """In 0 ... 1; None where no right answer is known."""
        return self.right / self.questions if self.questions else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of `share`."""
        return wilson(self.right, self.questions) if self.questions else None


@dataclass(frozen=True)
class Difference:
    """A run against its baseline, on the questions that both of them answered.

    Attributes:
        baseline: the other run's name.
        common: questions that both answered.
        scored: those of them whose right answer is known here.
        gained: only this run was right. lost: only the baseline was.
        points: accuracy of this run less the baseline's on those, as a share; None without any.
        interval: 95 % of `points`, from a bootstrap of the videos.
        p: of McNemar's exact test.
        same: common questions that both answered alike: the same option, or the same text where no option was read.
        same_text: those in which the model said the very same.
    """

    baseline: str
    common: int
    scored: int
    gained: int
    lost: int
    points: float | None
    interval: tuple[float, float] | None
    p: float | None
    same: int
    same_text: int

    @property
    def agreement(self) -> float | None:
        """Share of the common questions that were answered alike."""
        return self.same / self.common if self.common else None


@dataclass(frozen=True)
class Judged:
    """What a judge made of a run's open answers: a part of results.json.

    Attributes:
        model: the judge's, as it reported itself where it did.
        aspects: mean score of each of the five aspects, 0 ... 5; None where nothing is judged yet.
        macro: mean of the five, which the papers print. micro: mean over all judged items.
        pending: items that are not judged yet.
        consistency: which of the two questions the judge saw first: "prunevid" (crossed) or "fixed".
    """

    model: str
    aspects: Mapping[str, float | None]
    macro: float | None
    micro: float | None
    pending: int
    consistency: str


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: the folder's name, with its parent's where two runs share it.
        run: its settings and answers.
        kept, flops: share of the visual tokens that were kept and of the prefill's FLOPs by formula, means over the
            questions; None where nothing was recorded.
        answered: questions answered. errors: questions that could not be asked. expected: questions that the run has to
            answer, as it noted, and at least those that any run with the same choice of questions has a line for.
        accuracy: by the protocol's own matcher, over all questions (micro). strict: by the strict matcher.
        macro: mean of the tasks' accuracies.
        tasks: accuracy by task.
        letters: how often each option was chosen.
        judged: of open answers.
        published: printed numbers of the same setting.
        difference: None for a baseline, and where there is none.
    """

    name: str
    run: Run
    kept: float | None
    flops: float | None
    answered: int
    errors: int
    expected: int
    accuracy: Count
    strict: Count
    macro: float | None
    tasks: Mapping[str, Count]
    letters: Mapping[str, int]
    judged: Judged | None
    published: Sequence[Published]
    difference: Difference | None

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.run.settings


@dataclass(frozen=True)
class Section:
    """The runs of one benchmark.

    Attributes:
        truth: how often each option is the right one, over all questions of the runs.
    """

    benchmark: str
    rows: Sequence[Row]
    notes: Sequence[Note]
    truth: Mapping[str, int] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """All tasks of the rows, in the order in which they were met."""
        return list(dict.fromkeys(task for row in self.rows for task in row.tasks))


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """The runs in some folders, each once; a folder that is no run stands for the runs right inside it.

    Raises:
        InputError: a folder is missing or holds no run, or a run is damaged.
    """
    found: dict[Path, Run] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"There is no folder {str(folder)!r}; give the folder of a run, or of several.")
        inside = (
            [folder]
            if (folder / SETTINGS).is_file()
            else sorted(path.parent for path in folder.glob("*/settings.json"))
        )
        if not inside:
            raise InputError(f"{folder} holds no run: there is no {SETTINGS} in it or in a folder of it.")
        for one in inside:
            if one.resolve() not in found:
                found[one.resolve()] = read_run(one)
    return list(found.values())


def make_table(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> list[Section]:
    """A section for each benchmark, in the benchmarks' order.

    Args:
        runs: as `find_runs` gives them.
        baselines: what to compare with; without one of a benchmark, its runs of the method "none": for each run the one
            of the same model that differs least in its settings.

    Raises:
        InputError: there are no runs, or no run of a baseline's benchmark.
    """
    if not runs and not baselines:
        raise InputError("There are no runs to make a table of; give the folder of one.")
    known = {run.folder.resolve(): run for run in (*baselines, *runs)}
    names = _names(list(known.values()))
    sections = []
    for benchmark in BENCHMARKS:
        own = [run for run in known.values() if run.settings.benchmark == benchmark]
        named = [run for run in baselines if run.settings.benchmark == benchmark]
        if own:
            sections.append(_section(benchmark, own, [known[run.folder.resolve()] for run in named], names))
    return sections


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """A name for each folder: as short as tells them apart."""
    paths = [run.folder.resolve() for run in runs]
    shared = Counter(path.name for path in paths)
    return {
        path: path.name
        if shared[path.name] == 1
        else f"{path.parent.name}/{path.name}"
        if Counter((p.parent.name, p.name) for p in paths)[path.parent.name, path.name] == 1
        else str(path)
        for path in paths
    }


def _section(benchmark: str, runs: Sequence[Run], named: Sequence[Run], names: Mapping[Path, str]) -> Section:
    asked: dict[str, set[str]] = {}
    for run in runs:
        asked.setdefault(_choice_of_questions(run), set()).update(run.records)
    rows, pairs = [], []
    for run in runs:
        baseline = _baseline_of(run, runs, named)
        row = _row(run, baseline, names, _expected(run, len(asked[_choice_of_questions(run)])))
        rows.append(row)
        pairs.append((row, baseline))
    by_folder = {id(row.run): row for row in rows}
    notes = notes_of([(row, by_folder[id(other)] if other is not None else None) for row, other in pairs])
    questions = {key: record for run in runs for key, record in run.records.items()}
    truth = _letters(record.right for record in questions.values() if record.candidates and record.right is not None)
    return Section(benchmark, _ordered(rows), notes, truth)


def _choice_of_questions(run: Run) -> str:
    """What says which questions a run asks; runs that agree in it have the same ones to answer."""
    chosen = {name: run.settings.options_of_benchmark.get(name) for name in ("tasks", "limit", "annotations")}
    return json.dumps(chosen, sort_keys=True, default=str)


def _expected(run: Run, asked: int) -> int:
    """How many questions a run has: as it noted, and at least those that any such run has a line for."""
    noted = run.settings.options_of_benchmark.get("questions")
    return max(asked, noted) if isinstance(noted, int) else asked


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """Baselines before what is compared with them; otherwise as given."""
    return sorted(rows, key=lambda row: row.difference is not None)


def _baseline_of(run: Run, runs: Sequence[Run], named: Sequence[Run]) -> Run | None:
    """What a run is compared with; None for a baseline."""
    candidates = list(named) or [other for other in runs if other.settings.method == "none"]
    if any(run is other for other in candidates):
        return None
    if not named:
        candidates = [other for other in candidates if other.settings.model == run.settings.model]
    return min(candidates, key=lambda other: len(differing(run.settings, other.settings)), default=None)


def differing(first: Settings, second: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings other than the method in which two runs differ, by name: (of the first, of the second)."""
    names = ("protocol", "model", "family", "frames", "max_new_tokens", "dtype", "attention")
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    one, two = first.options_of_benchmark, second.options_of_benchmark
    pairs |= {name: (one.get(name), two.get(name)) for name in sorted({*one, *two})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _row(run: Run, baseline: Run | None, names: Mapping[Path, str], expected: int) -> Row:
    answered = [record for record in run.records.values() if record.error is None]
    tasks: dict[str, list[Record]] = {}
    for record in answered:
        tasks.setdefault(record.task, []).append(record)
    counts = {task: _count(record.correct for record in records) for task, records in tasks.items()}
    shares = [count.share for count in counts.values() if count.share is not None]
    kept, judged = _mean(answered, "retained_ratio"), judged_of(run)
    return Row(
        name=names[run.folder.resolve()],
        run=run,
        kept=kept,
        flops=_mean(answered, "flops_ratio"),
        answered=len(answered),
        errors=len(run.records) - len(answered),
        expected=expected,
        accuracy=_count(record.correct for record in answered),
        strict=_count(record.strict for record in answered),
        macro=sum(shares) / len(shares) if shares else None,
        tasks=counts,
        letters=_letters(record.choice for record in answered if record.candidates),
        judged=judged,
        published=beside(
            run.settings, kept, judge=judged.model if judged and judged.consistency == "prunevid" else None
        ),
        difference=None if baseline is None else compare(run, baseline, names[baseline.folder.resolve()]),
    )


def _count(verdicts: Iterable[bool | None]) -> Count:
    known = [verdict for verdict in verdicts if verdict is not None]
    return Count(sum(known), len(known))


def _mean(records: Sequence[Record], name: str) -> float | None:
    values = [float(record.stats[name]) for record in records if record.stats.get(name) is not None]
    return sum(values) / len(values) if values else None


def _letters(choices: Iterable[int | None]) -> dict[str, int]:
    """Options by letter, and how often none was read, where that happened."""
    counts = Counter(NONE if choice is None else LETTERS[choice] for choice in choices)
    return dict(sorted(counts.items(), key=lambda entry: (entry[0] == NONE, entry[0])))


def compare(run: Run, baseline: Run, name: str) -> Difference:
    """A run against another one, on the questions that both answered.

    Args:
        name: the baseline's.
    """
    common = [
        (record, baseline.records[key])
        for key, record in run.records.items()
        if key in baseline.records and record.error is None and baseline.records[key].error is None
    ]
    scored = [(own, other) for own, other in common if own.correct is not None and other.correct is not None]
    gained = sum(bool(own.correct and not other.correct) for own, other in scored)
    lost = sum(bool(other.correct and not own.correct) for own, other in scored)
    differences = [int(bool(own.correct)) - int(bool(other.correct)) for own, other in scored]
    return Difference(
        baseline=name,
        common=len(common),
        scored=len(scored),
        gained=gained,
        lost=lost,
        points=(gained - lost) / len(scored) if scored else None,
        interval=clustered_bootstrap(differences, [own.video for own, _ in scored]) if scored else None,
        p=mcnemar(gained, lost) if scored else None,
        same=sum(_prediction(own) == _prediction(other) for own, other in common),
        same_text=sum((own.text, own.pred) == (other.text, other.pred) for own, other in common),
    )


def _prediction(record: Record) -> tuple[int | None, str]:
    """What counts as the answer: the option that was read, otherwise the text but for case, a full stop and space."""
    if record.choice is not None:
        return record.choice, ""
    return None, record.pred.strip().rstrip(".").casefold()


def judged_of(run: Run) -> Judged | None:
    """The judge's scores in a run's results.json; None where it has none. A stub's scores are never read.

    Raises:
        InputError: the file can't be read.
    """
    part = results_of(run).get("judge")
    if not isinstance(part, Mapping) or not isinstance(part.get("aspects"), Mapping) or part.get("stub"):
        return None
    who = part.get("judge")
    who = who if isinstance(who, Mapping) else {}
    return Judged(
        model=str(who.get("reported_model") or who.get("model") or "unknown"),
        aspects={str(name): aspect.get("mean") for name, aspect in part["aspects"].items()},
        macro=part.get("macro_mean"),
        micro=part.get("micro_mean"),
        pending=int(part.get("pending") or 0),
        consistency=str(part.get("consistency", "")),
    )


def results_of(run: Run) -> Mapping[str, Any]:
    """What results.json holds; nothing where it is missing.

    Raises:
        InputError: it can't be read.
    """
    path = run.folder / RESULTS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}); remove it and score the run again.") from error
    return found if isinstance(found, Mapping) else {}
