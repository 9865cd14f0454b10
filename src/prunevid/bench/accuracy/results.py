# SPDX-License-Identifier: Apache-2.0
"""From every answer to accuracies, differences and their intervals; nothing here asks a model.

Questions of one clip are not independent: intervals come from resampling whole clips, differences are taken question by
question. A control by lot counts with the mean over its draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid.bench.accuracy.entries import UNPRUNED, Entry
from prunevid.bench.accuracy.running import Run
from prunevid.builtin.questions import KINDS
from prunevid.errors import InputError
from prunevid.evaluation.statistics import clustered_bootstrap, clustered_mcnemar, mcnemar

ALL = "all"
FORMS = {"open": "said", "choice": "chosen"}
"""How answers are given, and where they stand in a record: in one word, and the likeliest of the choices."""
DRAWS, KIND_DRAWS = 10_000, 2_000

Point = tuple[str, int | None, float | None]


@dataclass(frozen=True)
class Answers:
    """All answers of a run, question by question.

    Attributes:
        clips, kinds: of every question.
        words: by the key of an entry and a form, what was answered to every question.
        right: the right answers.
        sure: by key, the share of the right answer in the likelihood of the choices.
        facts: by key, the means over clips of kept and flops, and the questions with the unpruned model's very logits.
    """

    clips: list[int]
    kinds: list[str]
    words: Mapping[tuple[str, str], list[str]]
    right: list[str]
    sure: Mapping[str, list[float]]
    facts: Mapping[str, Mapping[str, float]]

    def scores(self, keys: Sequence[str], form: str) -> list[float]:
        """1 for right and 0 for wrong, the mean over entries that are draws of one."""
        each = [
            [float(word == right) for word, right in zip(self.words[key, form], self.right, strict=True)]
            for key in keys
        ]
        return [sum(column) / len(keys) for column in zip(*each)]

    def agreement(self, keys: Sequence[str], form: str) -> float:
        """Share of the answers that are the unpruned model's, right or wrong."""
        plain = self.words[UNPRUNED, form]
        same = sum(word == other for key in keys for word, other in zip(self.words[key, form], plain, strict=True))
        return same / (len(keys) * len(plain))


def collect(run: Run) -> Answers:
    """The answers of a run.

    Raises:
        InputError: no clip has a question, or a clip lacks an entry.
    """
    records = [record for record in run.records if record["questions"]]
    if not records:
        raise InputError("None of the clips has a question of these kinds; take more clips, or other kinds.")
    keys = list(dict.fromkeys([UNPRUNED, *(entry.key for entry in entries_of_run(run))]))
    words: dict[tuple[str, str], list[str]] = {(key, form): [] for key in keys for form in FORMS}
    sure: dict[str, list[float]] = {key: [] for key in keys}
    facts = {key: {"kept": 0.0, "flops": 0.0, "same": 0.0} for key in keys}
    for record in records:
        for key in keys:
            if key not in record["entries"]:
                raise InputError(f"Clip {record['clip']} was not asked with {key!r}; take another folder.")
            found = record["entries"][key]
            for form, name in FORMS.items():
                words[key, form] += found[name]
            sure[key] += found["sure"]
            for name in ("kept", "flops"):
                facts[key][name] += found[name] / len(records)
            facts[key]["same"] += found["same"]
    questions = [(int(record["clip"]), one) for record in records for one in record["questions"]]
    return Answers(
        [clip for clip, _ in questions],
        [one["kind"] for _, one in questions],
        words,
        [one["answer"] for _, one in questions],
        sure,
        facts,
    )


def entries_of_run(run: Run) -> list[Entry]:
    """The entries that a run's settings name."""
    return [Entry(**{**entry, "beside": tuple(entry["beside"])}) for entry in run.settings["entries"]]


def results(run: Run, against: str | None = None) -> dict[str, Any]:
    """All that tables and plots show, as JSON types.

    Args:
        against: name of an entry that the others are compared with, too, each at its own layer and share.

    Returns:
        "plan", "split", "weights", "seeds", "against", "clips", "questions" (of each kind and "all") and "points". Of
        every method or control at a layer and share: name, control, method, options, place, layer, retention, draws,
        kept, flops; "open" and "choice": accuracy, low, high of "all" and every kind, and "agreement" with the unpruned
        model; "differs": share of open answers that are not the unpruned model's; "identical": whether every logit is;
        "sure": mean share of the right answer among the choices; "against": by the name of a reference, for each form
        gained, lost, difference, low, high, p_exact (None for several draws), p_clustered, and for the unpruned model,
        random and `against` also "kinds": difference, low, high of open answers.

    Raises:
        InputError: there are no answers, or no entry named `against`.
    """
    answers = collect(run)
    points = _points(entries_of_run(run))
    kinds = [kind for kind in KINDS if kind in answers.kinds]
    if against is not None and against not in {name for name, _, _ in points}:
        raise InputError(f"There is no {against!r} to compare with; choose one of {', '.join(_names(points))}.")
    found = [_point(entries, answers, points, kinds, against) for entries in points.values()]
    counts = {ALL: len(answers.right), **{kind: answers.kinds.count(kind) for kind in kinds}}
    choice = run.settings["choice"]
    clips = sorted(set(answers.clips))
    return {
        "plan": run.settings["plan"],
        "split": choice["split"],
        "against": against,
        "weights": run.settings["weights"],
        "seeds": [clips[0], clips[-1]],
        "clips": len(clips),
        "questions": counts,
        "points": found,
    }


def _points(entries: Sequence[Entry]) -> dict[Point, list[Entry]]:
    """Entries by what draws share, the unpruned model first."""
    found: dict[Point, list[Entry]] = {(UNPRUNED, None, None): [Entry(UNPRUNED, UNPRUNED)]}
    for entry in entries:
        if entry.control != UNPRUNED:
            found.setdefault(entry.point, []).append(entry)
    return found


def _names(points: Mapping[Point, Sequence[Entry]]) -> list[str]:
    return list(dict.fromkeys(name for name, _, _ in points))


def _point(
    entries: Sequence[Entry],
    answers: Answers,
    points: Mapping[Point, Sequence[Entry]],
    kinds: Sequence[str],
    against: str | None,
) -> dict[str, Any]:
    first, keys = entries[0], [entry.key for entry in entries]
    facts = [answers.facts[key] for key in keys]
    agreement = answers.agreement(keys, "open")
    by_kind = (UNPRUNED, "random", against)
    return {
        "name": first.name,
        "control": first.control,
        "method": first.method,
        "options": dict(first.options),
        "place": first.place,
        "layer": first.layer,
        "retention": first.retention,
        "draws": len(entries),
        "kept": sum(fact["kept"] for fact in facts) / len(facts),
        "flops": sum(fact["flops"] for fact in facts) / len(facts),
        **{form: _accuracies(answers, keys, form, kinds) for form in FORMS},
        "sure": sum(sum(answers.sure[key]) for key in keys) / (len(keys) * len(answers.right)),
        "differs": 1 - agreement,
        "identical": all(fact["same"] == len(answers.right) for fact in facts),
        "against": {
            name: _against(answers, keys, [entry.key for entry in reference], kinds if name in by_kind else ())
            for name, reference in _references(first, points, against).items()
        },
    }


def _accuracies(answers: Answers, keys: Sequence[str], form: str, kinds: Sequence[str]) -> dict[str, Any]:
    scores = answers.scores(keys, form)
    found: dict[str, Any] = {"agreement": answers.agreement(keys, form)}
    for kind in (ALL, *kinds):
        own, clips = _of_kind(answers, scores, kind)
        low, high = clustered_bootstrap(own, clips, draws=DRAWS if kind == ALL else KIND_DRAWS)
        found[kind] = {"accuracy": sum(own) / len(own), "low": low, "high": high}
    return found


def _references(
    entry: Entry, points: Mapping[Point, Sequence[Entry]], against: str | None
) -> dict[str, Sequence[Entry]]:
    """What a point is compared with, by name: the unpruned model, and at its layer and share the controls and
    `against`."""
    if entry.control == UNPRUNED:
        return {}
    found: dict[str, Sequence[Entry]] = {UNPRUNED: points[UNPRUNED, None, None]}
    for other in points.values():
        one = other[0]
        alike = one.layer == entry.layer and one.retention == entry.retention and entry.retention is not None
        wanted = one.control not in ("method", UNPRUNED) or one.name == against
        if (alike and wanted) or entry.key in one.beside:
            found[one.name] = other
    found.pop(entry.name, None)
    return found


def _against(answers: Answers, keys: Sequence[str], reference: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    """Differences of a point to a reference, question by question, and those of some kinds by themselves."""
    found: dict[str, Any] = {}
    for form in FORMS:
        mine, theirs = answers.scores(keys, form), answers.scores(reference, form)
        differences = [one - other for one, other in zip(mine, theirs)]
        single = len(keys) == len(reference) == 1
        gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        found[form] = {
            **_difference(differences, answers.clips, DRAWS),
            "gained": gained,
            "lost": lost,
            "p_exact": mcnemar(gained, lost) if single else None,
            "p_clustered": clustered_mcnemar(differences, answers.clips),
        }
        if form == "open" and kinds:
            found["kinds"] = {kind: _difference(*_of_kind(answers, differences, kind), KIND_DRAWS) for kind in kinds}
    return found


def _difference(differences: Sequence[float], clips: Sequence[int], draws: int) -> dict[str, float]:
    low, high = clustered_bootstrap(differences, clips, draws=draws)
    return {"difference": sum(differences) / len(differences), "low": low, "high": high}


def _of_kind(answers: Answers, values: Sequence[float], kind: str) -> tuple[list[float], list[int]]:
    """The values of one kind of question, and their clips."""
    if kind == ALL:
        return list(values), answers.clips
    places = [place for place, own in enumerate(answers.kinds) if own == kind]
    return [values[place] for place in places], [answers.clips[place] for place in places]
