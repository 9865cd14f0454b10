# SPDX-License-Identifier: Apache-2.0
"""Tables of made-up runs against numbers counted by hand, and the notes that they must carry."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.made_runs import RIGHT, VERSIONS, change_settings, write_run
from prunevid.cli import run as command_line
from prunevid.errors import InputError
from prunevid.evaluation.statistics import wilson
from prunevid.evaluation.table_plots import series_of
from prunevid.evaluation.table_text import render
from prunevid.evaluation.tables import Row, Section, find_runs, make_table

PRUNED = {"method": "prunevid", "kept": 0.2, "flops": 0.25, "options": {"config": {"tau": 0.8}}}
#        RIGHT = "ABCDABCDAB"; Action Count is the first six
PLAIN_SAID = "ABCDAAAAAA"  # right: 0-4, 8: six, five of them of Action Count
OTHER_SAID = "ABCCABCAAB"  # right: 0-2, 4-6, 8, 9: eight, five of Action Count; gains 5, 6, 9 and loses 3


def only(sections: list[Section]) -> Section:
    (section,) = sections
    return section


def table(*folders: Path, baseline: list[Path] | None = None) -> Section:
    return only(make_table(find_runs(folders), find_runs(baseline or [])))


def named(section: Section, name: str) -> Row:
    return next(row for row in section.rows if row.name == name)


def notes(section: Section, *, loud: bool = True) -> str:
    return "\n".join(note.text for note in section.notes if note.loud is loud)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_run(tmp_path / "plain", PLAIN_SAID),
        write_run(tmp_path / "pruned", OTHER_SAID, **PRUNED),
    )


def test_numbers_counted_by_hand(pair: tuple[Path, Path]) -> None:
    section = table(*reversed(pair))
    plain, pruned = section.rows  # the baseline stands first, however the folders were given
    assert (plain.name, pruned.name) == ("plain", "pruned")
    assert (plain.accuracy.right, plain.accuracy.questions, plain.answered, plain.expected) == (6, 10, 10, 10)
    assert plain.accuracy.share == 0.6 and plain.accuracy.interval == wilson(6, 10)
    assert plain.macro == pytest.approx((5 / 6 + 1 / 4) / 2)
    assert pruned.macro == pytest.approx((5 / 6 + 3 / 4) / 2)
    assert {task: (count.right, count.questions) for task, count in pruned.tasks.items()} == {
        "Action Count": (5, 6),
        "Moving Count": (3, 4),
    }
    assert plain.letters == {"A": 7, "B": 1, "C": 1, "D": 1}
    assert section.truth == {"A": 3, "B": 3, "C": 2, "D": 2}
    assert (pruned.kept, pruned.flops) == pytest.approx((0.2, 0.25))
    found = pruned.difference
    assert plain.difference is None and found is not None
    assert (found.baseline, found.common, found.scored, found.gained, found.lost) == ("plain", 10, 10, 3, 1)
    assert found.points == pytest.approx(0.2)
    assert found.p == pytest.approx(2 * (1 + 4) / 16)
    assert found.interval is not None and found.interval[0] < 0.2 < found.interval[1]
    assert found.same == found.same_text == 6  # 0, 1, 2, 4, 8, and 7, where both say A wrongly
    assert notes(section) == ""


def test_the_bootstrap_goes_by_video(pair: tuple[Path, Path]) -> None:
    from prunevid.evaluation.statistics import clustered_bootstrap

    found = named(table(*pair), "pruned").difference
    assert found is not None
    assert found.interval == clustered_bootstrap(
        [0, 0, 0, -1, 0, 1, 1, 0, 0, 1], [f"video/{v}.mp4" for v in "aabbbccddd"]
    )


def test_a_pruned_run_that_changes_nothing_is_named_loudly(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", PLAIN_SAID)
    silent = write_run(tmp_path / "silent", PLAIN_SAID, **{**PRUNED, "kept": 1.0})
    reworded = write_run(tmp_path / "reworded", PLAIN_SAID, words="I think", **PRUNED)
    section = table(plain, silent, reworded)
    assert "silent says exactly the same as plain to all 10 questions" in notes(section)
    assert "silent kept 100.0% of the visual tokens: it prunes nothing." in notes(section)
    assert "reworded chooses the same answers as plain in all 10 questions" in notes(section)
    assert "reworded says exactly" not in notes(section) and "plain says" not in notes(section)
    text = render([section], "markdown")
    assert text.index("WARNING: silent says exactly") < text.index("| run |")


def test_one_other_answer_is_a_difference(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", PLAIN_SAID)
    other = write_run(tmp_path / "other", PLAIN_SAID[:-1] + "C", **PRUNED)
    assert notes(table(plain, other)) == ""


def test_partial_runs_and_broken_videos(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", "ABCDAA!!AA")  # 0-4, 8 of eight right
    pruned = write_run(tmp_path / "pruned", "ABCD!ABC", finished=False, **PRUNED)
    section = table(plain, pruned)
    row = named(section, "pruned")
    assert (row.answered, row.errors, row.expected, row.accuracy.right, row.accuracy.questions) == (7, 1, 10, 4, 7)
    assert row.difference is not None
    assert (row.difference.common, row.difference.gained, row.difference.lost, row.difference.same) == (5, 0, 0, 5)
    said = notes(section)
    assert "pruned is not complete: 8 of 10 questions so far." in said
    assert "plain could not ask 2 of 10 questions (Moving Count 2)" in said and "made/6 (video/c.mp4)" in said
    assert "pruned could not ask 1 of 8 questions (Action Count 1)" in said
    assert "different sets of questions (7 and 8)" in said and "over the 5 that both answered" in said
    assert "| 7/10, 1 failed |" in render([section], "markdown")


def test_a_run_says_how_many_questions_it_has(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", "ABCD", options_of_benchmark={"questions": 10, "annotations": "c0ffee"})
    section = table(plain)
    assert section.rows[0].expected == 10 and "plain is not complete: 4 of 10 questions so far." in notes(section)
    changed = write_run(
        tmp_path / "b", "ABCD", options_of_benchmark={"questions": 4, "annotations": "decade"}, **PRUNED
    )
    section = table(plain, changed)
    assert "b and plain differ in annotations: decade and c0ffee" in notes(section)
    assert named(section, "b").expected == 4


def test_a_run_that_is_going_on(tmp_path: Path) -> None:
    running = write_run(tmp_path / "running", PLAIN_SAID, finished=False)
    assert "running has no results.json" in notes(table(running))
    several = write_run(tmp_path / "several", PLAIN_SAID, **PRUNED)
    (several / "answers.jsonl").rename(several / "answers-00001-of-00002.jsonl")
    section = table(running, several)
    assert "several is not complete: the answers of its processes are not merged yet." in notes(section)
    assert named(section, "several").answered == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "lmms"}, "differ in protocol: lmms and paper"),
        ({"frames": 32}, "differ in frames: 32 and 16"),
        ({"max_new_tokens": 16}, "differ in max_new_tokens: 16 and 100"),
        ({"dtype": "bfloat16"}, "differ in dtype: bfloat16 and auto"),
        ({"attention": "eager"}, "differ in attention: eager and nothing"),
        ({"options_of_benchmark": {"limit": 5}}, "differ in limit: 5 and nothing"),
        ({"versions": {**VERSIONS, "torch": "2.14.1"}}, "different versions: torch 2.14.1 and 2.15.0"),
    ],
)
def test_settings_that_differ_are_named(pair: tuple[Path, Path], changes: dict[str, Any], words: str) -> None:
    change_settings(pair[1], **changes)
    section = table(*pair)
    assert f"pruned and plain {'ran on ' if 'versions' in changes else ''}{words}" in notes(section)
    assert named(section, "pruned").difference is not None


def test_another_model_is_no_baseline_unless_named(pair: tuple[Path, Path]) -> None:
    change_settings(pair[1], model="models/other")
    section = table(*pair)
    assert named(section, "pruned").difference is None
    assert "pruned is compared with nothing" in notes(section, loud=False) and "models/other" in notes(
        section, loud=False
    )
    section = table(pair[1], baseline=[pair[0]])
    assert named(section, "pruned").difference is not None
    assert "differ in model: models/other and models/tiny" in notes(section)


def test_the_nearest_of_several_baselines(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write_run(tmp_path / "plain32", RIGHT, frames=32)
    change_settings(pair[1], frames=32)
    section = table(pair[0], tmp_path / "plain32", pair[1])
    found = named(section, "pruned").difference
    assert found is not None and found.baseline == "plain32"
    assert "several unpruned runs of models/tiny: plain32, plain;" in notes(section, loud=False)
    assert named(section, "plain").difference is None


def test_annotations_that_changed(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "answers.jsonl"
    path.write_text(path.read_text().replace("Question 3?", "Question three?"))
    assert "other questions under the same key, 1 times (the first is made/3)" in notes(table(*pair))


def test_unknown_answers_leave_agreement(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", PLAIN_SAID, benchmark="egoschema", right="?" * 10)
    half = write_run(tmp_path / "pruned", OTHER_SAID, benchmark="egoschema", right="?" * 10, **PRUNED)
    section = table(plain, half)
    row = named(section, "pruned")
    assert row.accuracy.share is None and row.accuracy.interval is None and row.macro is None
    assert row.difference is not None and row.difference.p is None and row.difference.agreement == 0.6
    assert "pruned has no accuracy: the right answers are not known here." in notes(section, loud=False)
    assert "|" in render([section], "markdown")


def test_answers_known_in_part(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", PLAIN_SAID, benchmark="egoschema", right="AB????????")
    section = table(plain)
    assert (section.rows[0].accuracy.right, section.rows[0].accuracy.questions) == (2, 2)
    assert "known here for 2 of 10 questions" in notes(section, loud=False)


def test_answers_without_a_letter_agree_by_their_words(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", "AB--", words="A dog.")
    pruned = write_run(tmp_path / "pruned", "AB--", words="a DOG", **PRUNED)
    section = table(plain, pruned)
    found = named(section, "pruned").difference
    assert found is not None and (found.same, found.same_text) == (4, 0)
    assert named(section, "plain").letters == {"A": 1, "B": 1, "none": 2}


def test_csv_reads_back(pair: tuple[Path, Path]) -> None:
    rows = list(csv.DictReader(io.StringIO(render([table(*pair)], "csv", per_task=True))))
    plain, pruned = rows
    assert [row["run"] for row in rows] == ["plain", "pruned"]
    assert (pruned["right"], pruned["scored"], pruned["only_this_right"], pruned["only_baseline_right"]) == (
        "8",
        "10",
        "3",
        "1",
    )
    assert float(pruned["micro"]) == 0.8 and float(pruned["mcnemar_p"]) == 0.625
    assert float(pruned["task: Moving Count"]) == 0.75 and pruned["questions: Moving Count"] == "4"
    assert plain["difference"] == "" and plain["chose_A"] == "7"
    assert json.loads(pruned["options"]) == {"tau": 0.8}


def test_json_has_the_notes_and_the_same_numbers(pair: tuple[Path, Path]) -> None:
    change_settings(pair[1], frames=8)
    (section,) = json.loads(render([table(*pair)], "json", per_task=True))["sections"]
    assert section["benchmark"] == "mvbench" and section["right_answers"] == {"A": 3, "B": 3, "C": 2, "D": 2}
    assert any(note["loud"] and "frames: 8 and 16" in note["text"] for note in section["notes"])
    row = section["rows"][1]
    assert (row["micro"], row["mcnemar_p"], row["agreement"]) == (0.8, 0.625, 0.6)
    assert row["tasks"]["Action Count"] == {"right": 5, "questions": 6, "accuracy": pytest.approx(5 / 6)}
    assert row["letters"] == {"A": 4, "B": 3, "C": 3}


def test_markdown_holds_its_columns(pair: tuple[Path, Path]) -> None:
    change_settings(pair[1], method="tome|fastv", options={"retention_ratio": 0.2, "layer": 2})
    text = render([table(*pair)], "markdown", per_task=True)
    lines = text.splitlines()
    pruned = next(line for line in lines if line.startswith("| pruned |"))
    assert pruned == (
        "| pruned | tome\\|fastv | retention_ratio 0.2 | 20.0 | 25.0 | 10 | 80.0 [49.0, 94.3] | 79.2 | 80.0 |  | "
        + pruned.split(" | ")[10]
        + " | 0.625 | 60.0 |"
    )
    assert pruned.split(" | ")[10].startswith("+20.0 [")
    assert "| Moving Count | 25.0 (1/4) | 75.0 (3/4) |" in lines
    assert "| right answers | 3 | 3 | 2 | 2 |" in lines and "| pruned | 4 | 3 | 3 | 0 |" in lines
    for line in lines:
        if line.startswith("| "):
            assert line.endswith(" |")


def test_settings_that_vary_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PLAIN_SAID, method="fastv", options={"layer": 2, "keep": 0.5})
    write_run(tmp_path / "b", OTHER_SAID, method="fastv", options={"layer": 3, "keep": 0.5})
    text = render([table(tmp_path)], "markdown")
    assert "| a | fastv | layer 2 |" in text and "| b | fastv | layer 3 |" in text


def test_published_numbers_stand_beside(tmp_path: Path) -> None:
    paper = {"family": "pllava", "model": "models/pllava-7b-mvbench"}
    write_run(tmp_path / "plain", PLAIN_SAID, **paper)
    write_run(tmp_path / "fastv", OTHER_SAID, method="fastv", kept=0.3, **paper)
    section = table(tmp_path)
    text = render([section], "markdown")
    assert "| 46.6 |" in text and "| 46.1 |" in text and "not measured here" in text
    said = notes(section, loud=False)
    assert "Published numbers beside fastv, plain: they are of LoRA alpha 14." in said
    assert "Published numbers beside fastv: the settings of other methods are not printed" in said


def test_points_of_the_plot(tmp_path: Path) -> None:
    paper = {"family": "pllava", "model": "models/pllava-7b-mvbench"}
    write_run(tmp_path / "plain", PLAIN_SAID, **paper)
    for kept in (0.3, 0.1):
        said = {"method": "fastv", "kept": kept, "flops": kept + 0.1, "options": {"retention_ratio": kept}}
        write_run(tmp_path / f"fastv{kept}", OTHER_SAID, **said, **paper)
    write_run(tmp_path / "unknown", "!!", method="tome", **paper)
    series = series_of(table(tmp_path))
    assert list(series) == ["not pruned", "fastv"]
    (plain,) = series["not pruned"]
    assert (plain.kept, plain.flops, plain.value, plain.budgeted) == (100, 100, 60, False)
    assert (plain.low, plain.high) == pytest.approx([100 * bound for bound in wilson(6, 10)])
    assert [point.kept for point in series["fastv"]] == pytest.approx([10, 30])
    assert all(point.budgeted for point in series["fastv"])
    assert [[entry.value for entry in point.published] for point in series["fastv"]] == [[], [46.1]]
    other = write_run(tmp_path / "other", OTHER_SAID, model="models/other-7b")
    assert list(series_of(table(tmp_path / "plain", other))) == [
        "not pruned, pllava-7b-mvbench",
        "not pruned, other-7b",
    ]


VCG = {
    "judge": {
        "aspects": {name: {"mean": mean} for name, mean in zip(("CI", "DO", "CU", "TU", "CO"), (2.5, 3, 3, 2.0, 3.5))},
        "macro_mean": 2.8,
        "micro_mean": 2.75,
        "pending": 0,
        "consistency": "prunevid",
        "stub": False,
        "judge": {"model": "judge-latest", "reported_model": "gpt-3.5-turbo-0125"},
    }
}


def test_scores_of_a_judge(tmp_path: Path) -> None:
    paper = {"benchmark": "vcgbench", "family": "pllava", "model": "pllava-7b", "right": "?" * 10}
    write_run(tmp_path / "plain", PLAIN_SAID, results=VCG, **paper)
    later = json.loads(json.dumps(VCG))
    later["judge"] |= {"pending": 3, "consistency": "fixed", "judge": {"model": "other"}}
    write_run(tmp_path / "pruned", OTHER_SAID, results=later, **paper, **PRUNED)
    stub = {"judge": {**VCG["judge"], "stub": True}}
    write_run(tmp_path / "stub", OTHER_SAID, results=stub, **paper, **PRUNED)
    section = table(tmp_path)
    plain = named(section, "plain")
    assert plain.judged is not None and plain.judged.macro == 2.8 and plain.judged.aspects["CO"] == 3.5
    assert [entry.value for entry in plain.published] == [2.99]
    assert named(section, "pruned").published == [] and named(section, "stub").judged is None
    text = render([section], "markdown")
    assert "| 2.50 | 3.00 | 3.00 | 2.00 | 3.50 | 2.80 | 2.75 | gpt-3.5-turbo-0125 | 2.99 |" in text
    said = notes(section)
    assert "3 answers are not judged yet" in said and "different judges (gpt-3.5-turbo-0125, other)" in said
    assert "consistency questions crossed in some" in said
    assert next(csv.DictReader(io.StringIO(render([section], "csv"))))["judge_TU"] == "2.0"


def test_a_section_for_each_benchmark(tmp_path: Path) -> None:
    write_run(tmp_path / "b" / "run", PLAIN_SAID, benchmark="videomme")
    write_run(tmp_path / "a" / "run", PLAIN_SAID)
    sections = make_table(find_runs([tmp_path / "b", tmp_path / "a", tmp_path / "a" / "run"]))
    assert [(s.benchmark, [row.name for row in s.rows]) for s in sections] == [
        ("mvbench", ["a/run"]),
        ("videomme", ["b/run"]),
    ]
    assert render(sections, "markdown").startswith("## MVBench\n")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "There is no folder"),
        (lambda folder: folder.mkdir(), "holds no run"),
        (lambda folder: (folder.mkdir(), (folder / "settings.json").write_text("{")), "settings of a run"),
        (lambda folder: (write_run(folder, "AB") / "results.json").write_text("{"), "can't be read"),
        (
            lambda folder: (write_run(folder, "AB") / "answers.jsonl").write_text("{}\n{}\n"),
            "line 1, is damaged",
        ),
    ],
)
def test_folders_that_hold_no_run(tmp_path: Path, make: Any, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "x")
    with pytest.raises(InputError, match=words):
        make_table(find_runs([tmp_path / "x"]))
    assert command_line(["eval", "table", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("prunevid: ") and err.count("\n") == 1


def test_nothing_to_show() -> None:
    with pytest.raises(InputError, match="no runs"):
        make_table([])


def test_the_command(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "deep"
    arguments = ["eval", "table", *map(str, pair), "--out", str(out), "--per-task"]
    assert command_line(arguments) == 0
    said = capsys.readouterr()
    assert said.out == (out / "table.md").read_text() and said.out.startswith("## MVBench")
    files = {path.name for path in out.iterdir()}
    assert files == {"table.md", "table.csv", "table.json"} | {
        f"mvbench-{theme}.{ending}" for theme in ("light", "dark") for ending in ("svg", "png")
    }
    assert (out / "mvbench-light.png").read_bytes().startswith(b"\x89PNG")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert command_line(arguments) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    capsys.readouterr()
    assert command_line([*arguments[:4], "--format", "json", "--baseline", str(pair[0])]) == 0
    assert json.loads(capsys.readouterr().out)["sections"][0]["rows"][1]["mcnemar_p"] == 0.625
    change_settings(pair[1], frames=8)
    assert command_line([*arguments[:4], "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("benchmark,run,") and "WARNING: pruned and plain differ in frames" in said.err
    assert command_line([*arguments[:4], "--format", "tex"]) == 2
    assert "markdown, csv, json" in capsys.readouterr().err


def test_without_matplotlib_the_text_is_written(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["eval", "table", *map(str, pair), "--out", str(tmp_path / "out")]
    assert command_line(arguments) == 1
    assert "prunevid[plot]" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.md", "table.csv", "table.json"}
    assert command_line([*arguments, "--no-plot"]) == 0
