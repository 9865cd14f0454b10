# SPDX-License-Identifier: Apache-2.0
"""Accuracies, differences and intervals against plain loops, on answers that were made up."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from typing import Any

import pytest

from prunevid.bench.accuracy.entries import NO_VIDEO, UNPRUNED, Entry, as_json
from prunevid.bench.accuracy.kinds import GROUPS, kinds_of
from prunevid.bench.accuracy.plots import over_layers, series_of
from prunevid.bench.accuracy.reporting import RESULTS, TABLE, write_report
from prunevid.bench.accuracy.results import ALL, results
from prunevid.bench.accuracy.running import Run
from prunevid.bench.accuracy.tables import kinds_table, main_table, report
from prunevid.builtin.questions import KINDS
from prunevid.errors import InputError
from prunevid.evaluation.statistics import clustered_mcnemar
from prunevid.view import style

ENTRIES = [
    Entry(UNPRUNED, UNPRUNED),
    Entry(NO_VIDEO, NO_VIDEO),
    Entry("fastv", "method", "fastv", {"layer": 2}, 0.1, layer=1),
    Entry("lookm", "method", "lookm", {}, 0.1),
    Entry("random", "random", retention=0.1, layer=1),
    Entry("random", "random", retention=0.1, layer=1, draw=1),
    Entry("random", "random", retention=0.1),
    Entry("all dropped", "dropped", layer=1),
    Entry("random at the cost of fastv", "same cost", "fastv", {"layer": 2}, 0.1, beside=("fastv @1 0.1",)),
]
SKILL = {UNPRUNED: 0.9, "fastv": 0.8, "lookm": 0.9, "random": 0.6}
WORDS = ("red", "green", "blue")


def made_up(clips: int = 40, seed: int = 0) -> Run:
    """A run in which what was said is drawn by lot, some clips being harder for all."""
    lots = random.Random(seed)
    records = []
    for clip in range(clips):
        hard = lots.random() < 0.3
        questions = [
            {"kind": lots.choice(("when", "count")), "text": "?", "answer": lots.choice(WORDS), "choices": list(WORDS)}
            for _ in range(lots.randint(0 if clip == 3 else 1, 5))
        ]
        if clip == 3:
            questions = []
        entries: dict[str, Any] = {}
        for entry in ENTRIES:
            skill = SKILL.get(entry.name, 0.3) * (0.5 if hard else 1)
            right = [lots.random() < skill for _ in questions]
            said = [one["answer"] if ok else lots.choice(WORDS) for one, ok in zip(questions, right)]
            entries[entry.key] = {
                "said": said,
                "chosen": said,
                "sure": [0.5] * len(said),
                "kept": entry.retention or 1.0,
                "flops": (clip % 2) / 2,
                "same": 0,
            }
        entries[UNPRUNED]["same"] = len(questions)
        entries["lookm 0.1"] = {**entries[UNPRUNED], "kept": 0.1}
        records.append({"clip": clip, "questions": questions, "entries": entries if questions else {}})
    choice = {"split": "dev", "first": 0, "kinds": list(KINDS), "per_clip": 5}
    settings = {"plan": "main", "entries": [as_json(entry) for entry in ENTRIES], "choice": choice, "weights": "w"}
    return Run(json.loads(json.dumps(settings)), json.loads(json.dumps(records)))


@functools.cache
def told() -> dict[str, Any]:
    """The results of a run that was made up."""
    return results(made_up())


def asked(run: Run) -> list[tuple[int, dict, dict[str, str]]]:
    """(clip, question, what each entry said) of every question."""
    return [
        (record["clip"], question, {key: entry["said"][place] for key, entry in record["entries"].items()})
        for record in run.records
        for place, question in enumerate(record["questions"])
    ]


def point(found: dict, name: str, layer: int | None = None) -> dict:
    return next(one for one in found["points"] if (one["name"], one["layer"]) == (name, layer))


def test_accuracies_and_agreement_equal_plain_counts() -> None:
    run = made_up()
    found, every = told(), asked(run)
    assert found["clips"] == 39 and found["questions"][ALL] == len(every)
    for name, layer, key in (("fastv", 1, "fastv @1 0.1"), (UNPRUNED, None, UNPRUNED), ("random", None, "random 0.1")):
        one = point(found, name, layer)
        for kind in (ALL, "when", "count"):
            of_kind = [(q, said) for _, q, said in every if kind in (ALL, q["kind"])]
            right = sum(said[key] == q["answer"] for q, said in of_kind)
            assert one["open"][kind]["accuracy"] == pytest.approx(right / len(of_kind))
            assert one["open"][kind]["low"] <= right / len(of_kind) <= one["open"][kind]["high"]
            assert one["choice"][kind] == one["open"][kind]
        same = sum(said[key] == said[UNPRUNED] for _, _, said in every)
        assert one["open"]["agreement"] == pytest.approx(same / len(every))
        assert one["differs"] == pytest.approx(1 - same / len(every))
    flops = [record["clip"] % 2 / 2 for record in run.records if record["questions"]]
    assert point(found, "fastv", 1)["flops"] == pytest.approx(sum(flops) / len(flops))


def test_draws_count_with_their_mean() -> None:
    run = made_up()
    one = point(told(), "random", 1)
    keys = ("random @1 0.1", "random @1 0.1 #1")
    right = sum(said[key] == q["answer"] for _, q, said in asked(run) for key in keys)
    assert one["draws"] == 2
    assert one["open"][ALL]["accuracy"] == pytest.approx(right / 2 / len(asked(run)))


def test_differences_are_paired_and_resampled_by_clip() -> None:
    run = made_up()
    one, every = point(told(), "fastv", 1), asked(run)
    pairs = [(c, s["fastv @1 0.1"] == q["answer"], s[UNPRUNED] == q["answer"]) for c, q, s in every]
    found = one["against"][UNPRUNED]["open"]
    gained, lost = sum(a and not b for _, a, b in pairs), sum(b and not a for _, a, b in pairs)
    assert (found["gained"], found["lost"]) == (gained, lost)
    assert found["difference"] == pytest.approx((gained - lost) / len(pairs))
    tail = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert found["p_exact"] == pytest.approx(min(1.0, 2 * tail))
    by_clip = {c: [float(a) - float(b) for other, a, b in pairs if other == c] for c, _, _ in pairs}
    lots = random.Random(1)
    means = []
    for _ in range(4000):
        drawn = list(itertools.chain(*(by_clip[c] for c in lots.choices(list(by_clip), k=len(by_clip)))))
        means.append(sum(drawn) / len(drawn))
    means.sort()
    assert found["low"] == pytest.approx(means[100], abs=0.015)
    assert found["high"] == pytest.approx(means[3900], abs=0.015)


@pytest.mark.parametrize("sizes", [[1] * 12, [3, 1, 2, 6], [12]])
def test_the_clustered_test_equals_its_formula(sizes: list[int]) -> None:
    lots = random.Random(7)
    clusters = [number for number, size in enumerate(sizes) for _ in range(size)]
    values = [lots.choice((-1.0, 0.0, 1.0)) for _ in clusters]
    sums = [sum(v for v, c in zip(values, clusters) if c == number) for number in range(len(sizes))]
    z = abs(sum(sums)) / math.sqrt(sum(total**2 for total in sums))
    steps = 20_000  # the normal tail beyond z, twice, by rectangles
    width = (12 - z) / steps
    tail = sum(math.exp(-((z + (i + 0.5) * width) ** 2) / 2) for i in range(steps)) * width / math.sqrt(2 * math.pi)
    assert clustered_mcnemar(values, clusters) == pytest.approx(2 * tail, abs=1e-6)


def test_the_clustered_test_without_a_difference() -> None:
    assert clustered_mcnemar([], []) == 1.0
    assert clustered_mcnemar([1.0, -1.0, 0.0], ["a", "a", "b"]) == 1.0
    with pytest.raises(InputError, match="2 differences and 1 clusters"):
        clustered_mcnemar([1.0, 0.0], ["a"])


def test_what_a_point_is_compared_with() -> None:
    found = told()
    assert set(point(found, "fastv", 1)["against"]) == {UNPRUNED, "random", "random at the cost of fastv"}
    assert set(point(found, "lookm")["against"]) == {UNPRUNED, "random", "random at the cost of fastv"}
    assert set(point(found, "all dropped", 1)["against"]) == {UNPRUNED}
    assert point(found, UNPRUNED)["against"] == {}
    named = point(results(made_up(), "random"), "fastv", 1)["against"]
    assert named.keys() == {UNPRUNED, "random", "random at the cost of fastv"}
    assert "lookm" in point(results(made_up(), "lookm"), "random")["against"]
    with pytest.raises(InputError, match="no 'fastw' to compare with; choose one of unpruned, no video, fastv"):
        results(made_up(), "fastw")
    inside, before = (point(found, name, layer)["against"]["random"] for name, layer in (("fastv", 1), ("lookm", None)))
    assert inside["open"]["p_exact"] is None  # there are two draws of it
    assert before["open"]["p_exact"] is not None and set(before["kinds"]) == {"when", "count"}


def test_results_are_the_same_each_time_and_plain_json() -> None:
    one = results(made_up())
    assert one == told() and json.loads(json.dumps(one)) == one


def test_a_method_that_changes_nothing_is_reported_as_such() -> None:
    found = told()
    assert point(found, "lookm")["identical"] and point(found, "lookm")["differs"] == 0
    rows = main_table(found).splitlines()
    assert [("changes nothing" in row) for row in rows if "lookm" in row] == [True]
    assert not any("changes nothing" in row for row in rows if "lookm" not in row)


def test_tables_show_every_point_and_kind() -> None:
    found = told()
    text = report(found)
    assert text.count("random (mean of 2)") == 1
    by_kind = kinds_table(found, 0.1)
    assert "fastv, layer 1" in by_kind and "| when " in by_kind and "all dropped, layer 1" in by_kind
    shown = point(found, "fastv", 1)["open"]["when"]["accuracy"]
    assert f"{100 * shown:.1f}" in next(line for line in by_kind.splitlines() if line.startswith("| when"))
    assert {len(line.split("|")) for line in main_table(found).splitlines()} == {15}
    more = main_table(results(made_up(), "lookm")).splitlines()
    assert {len(line.split("|")) for line in more} == {17} and "to lookm" in more[0]


def test_groups_hold_every_kind_once() -> None:
    assert sorted(itertools.chain(*GROUPS.values())) == sorted(KINDS)
    assert kinds_of("when, order") == ("order_color", "order_shape", "after", "when")


def test_the_report_s_files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told()
    files = write_report(found, tmp_path, plot=False)
    assert json.loads((tmp_path / RESULTS).read_text()) == found
    assert (tmp_path / TABLE).read_text() == report(found) and len(files) == 2
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(style, "THEMES", {"dark": style.DARK})
    drawn = write_report(found, tmp_path)[2:]
    assert [file.name for file in drawn] == [
        f"{stem}-dark.{end}" for stem in ("accuracy", "kinds") for end in ("svg", "png")
    ]
    assert all(file.stat().st_size > 5000 for file in drawn)


def test_a_sweep_of_layers_has_a_series_for_each_name() -> None:
    found = told()
    assert {"fastv, inside", "random, inside", "random", "lookm"} <= set(series_of(found)) and not over_layers(found)
    points = [{**point(found, "fastv", 1), "layer": layer} for layer in range(4)]
    swept = {**found, "points": [*found["points"], *points]}
    assert over_layers(swept) and set(series_of(swept)) == {"fastv", "random", "all dropped"}
    assert sorted(one["layer"] for one in series_of(swept)["fastv"]) == [0, 1, 1, 2, 3]


def test_runs_that_say_nothing_are_refused() -> None:
    run = made_up()
    empty = Run(run.settings, [record for record in run.records if not record["questions"]])
    with pytest.raises(InputError, match="None of the clips"):
        results(empty)
    del run.records[0]["entries"]["lookm 0.1"]
    with pytest.raises(InputError, match=r"Clip 0 was not asked with 'lookm 0.1'"):
        results(run)
