# SPDX-License-Identifier: Apache-2.0
"""`prunevid eval prepare`: from the hub's tables and the authors' files to the JSON of the published runs."""

from __future__ import annotations

import builtins
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation import fixtures
from prunevid.cli import run
from prunevid.errors import InputError, MissingDependencyError, PruneVidError
from prunevid.evaluation.benchmarks import load_items
from prunevid.evaluation.items import LETTERS
from prunevid.evaluation.prepare import prepare
from prunevid.evaluation.prepared import NOTE

Rows = list[dict[str, Any]]


def table(path: Path, rows: Rows) -> Path:
    """A parquet file as the hub has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty folder for benchmarks."""
    (tmp_path / "datas").mkdir()
    return tmp_path / "datas"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder of downloads."""
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Benchmarks to make tables of."""
    return fixtures.write_data(tmp_path_factory.mktemp("made"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def videomme_rows(made: Path) -> Rows:
    """The table of lmms-lab/Video-MME that belongs to the made-up files."""
    rows = []
    for duration in ("short", "medium", "long"):
        for row in read(made / "Video-MME/json" / f"{duration}.json"):
            name = row["video"].removesuffix(".mp4")
            letter = LETTERS[row["candidates"].index(row["answer"])]
            rows.append(
                {
                    **{fact: row[fact] for fact in ("video_id", "domain", "sub_category", "question_id", "task_type")},
                    "duration": duration,
                    "url": f"https://example.org/{name}",
                    "videoID": name,
                    "question": row["question"],
                    "options": fixtures.lettered(row["candidates"]),
                    "answer": letter,
                }
            )
    return rows


def egoschema_rows(made: Path, answered: bool) -> Rows:
    """The table MC or Subset of lmms-lab/egoschema that belongs to the made-up files."""
    answers = read(made / "ego_schema/json/subset_answers.json")
    rows = []
    for number, row in enumerate(read(made / "ego_schema/json/egoschema_fullset.json")):
        uid = row["video"].removesuffix(".mp4")
        if answered and uid not in answers:
            continue
        rows.append(
            {
                "question_idx": str(number),
                "question": row["question"],
                "video_idx": uid,
                "option": fixtures.lettered(row["candidates"]),
                "answer": str(answers[uid]) if answered else None,
            }
        )
    return rows


def kaggle_rows(made: Path) -> Rows:
    """questions.json of EgoSchema's authors."""
    return [
        {
            "q_uid": row["video"].removesuffix(".mp4"),
            "google_drive_id": "x",
            "question": row["question"],
            **{f"option {place}": text for place, text in enumerate(row["candidates"])},
        }
        for row in read(made / "ego_schema/json/egoschema_fullset.json")
    ]


def vcg_rows(made: Path, part: str) -> Rows:
    """A table of lmms-lab/VideoChatGPT: two rows for each consistency question."""
    rows = []
    for row in read(made / "VCGBench/Zero_Shot_QA/Benchmarking_QA" / f"{part}_qa.json"):
        base = {"video_name": row["video_name"], "answer": row["A"]}
        if part == "consistency":
            rows.append({**base, "question_1": row["Q1"], "question_2": "None"})
            rows.append({**base, "question_1": "None", "question_2": row["Q2"]})
        else:
            rows.append({**base, "question": row["Q"]})
    return rows


def make_videomme(made: Path, hub: Path) -> None:
    table(hub / "videomme/test-00000-of-00001.parquet", videomme_rows(made))


def make_egoschema(made: Path, hub: Path) -> None:
    table(hub / "MC/test-0.parquet", egoschema_rows(made, False))
    table(hub / "Subset/test-0.parquet", egoschema_rows(made, True))
    table(hub / "GENERATION/test/0000.parquet", [{"question": "not to be read"}])
    table(hub / "MC_PPL/test-0.parquet", [{"question": "not to be read"}])


def make_questions(made: Path, hub: Path) -> None:
    fixtures.write_json(hub / "questions.json", kaggle_rows(made))
    shutil.copy(made / "ego_schema/json/subset_answers.json", hub)


def make_vcgbench(made: Path, hub: Path) -> None:
    for part in ("generic", "temporal", "consistency"):
        name = "test/0000.parquet" if part == "temporal" else "test-00000-of-00001.parquet"
        table(hub / part.capitalize() / name, vcg_rows(made, part))


def copy_vcgbench(made: Path, hub: Path) -> None:
    shutil.copytree(made / "VCGBench/Zero_Shot_QA", hub / "Zero_Shot_QA")


def copy_mvbench(made: Path, hub: Path) -> None:
    shutil.copytree(made / "MVBench/json", hub / "deep" / "json")


@pytest.mark.parametrize(
    ("benchmark", "make", "folder"),
    [
        ("videomme", make_videomme, "Video-MME/json"),
        ("egoschema", make_egoschema, "ego_schema/json"),
        ("egoschema", make_questions, "ego_schema/json"),
        ("vcgbench", make_vcgbench, "VCGBench/Zero_Shot_QA/Benchmarking_QA"),
        ("vcgbench", copy_vcgbench, "VCGBench/Zero_Shot_QA/Benchmarking_QA"),
        ("mvbench", copy_mvbench, "MVBench/json"),
    ],
)
def test_the_files_of_the_published_runs_come_out(
    made: Path, hub: Path, data: Path, benchmark: str, make: Callable[[Path, Path], None], folder: str
) -> None:
    make(made, hub)
    done = prepare(benchmark, hub, data)
    assert done.folder == data / folder and done.absent == ()
    wanted = {path.name: read(path) for path in (made / folder).iterdir()}
    assert {name: read(data / folder / name) for name in done.rows} == wanted
    assert done.rows == {name: len(content) for name, content in wanted.items()}
    assert [item.key for item in load_items(benchmark, data)] == [item.key for item in load_items(benchmark, made)]
    note = read(data / folder / NOTE)
    assert note["benchmark"] == benchmark and set(note["files"]) == set(wanted)
    assert note.get("strip_letters") == (True if benchmark in ("videomme", "egoschema") else None)


@pytest.mark.parametrize(("benchmark", "make"), [("videomme", make_videomme), ("egoschema", make_egoschema)])
def test_letters_are_kept_when_told_so_and_then_asked_with(
    made: Path, hub: Path, data: Path, benchmark: str, make: Callable[[Path, Path], None]
) -> None:
    make(made, hub)
    prepare(benchmark, hub, data, strip_letters=False)
    plain = {item.key: item for item in load_items(benchmark, made)}
    for item in load_items(benchmark, data):
        assert list(item.candidates) == fixtures.lettered(plain[item.key].candidates)
        assert item.right == plain[item.key].right
    assert [item.candidates for item in load_items(benchmark, data, strip_letters=True)] == [
        item.candidates for item in plain.values()
    ]
    prepare(benchmark, hub, data, force=True)
    assert [item.candidates for item in load_items(benchmark, data)] == [item.candidates for item in plain.values()]


def test_a_single_table_may_be_given(made: Path, hub: Path, data: Path) -> None:
    subset = table(hub / "any.parquet", egoschema_rows(made, True))
    done = prepare("egoschema", subset, data)
    assert done.rows == {"egoschema_fullset.json": 2, "subset_answers.json": 2}
    (data / "ego_schema/json/subset_answers.json").unlink()
    done = prepare("egoschema", table(hub / "all.parquet", egoschema_rows(made, False)), data, force=True)
    assert done.rows == {"egoschema_fullset.json": 3} and done.absent == ("subset_answers.json",)
    one = table(hub / "generic-test.parquet", vcg_rows(made, "generic"))
    assert prepare("vcgbench", one, data).absent == ("temporal_qa.json", "consistency_qa.json")
    done = prepare("mvbench", made / "MVBench/json/state_change.json", data)
    assert done.rows == {"state_change.json": 2} and len(done.absent) == 19
    prepare("mvbench", made / "MVBench/json/action_count.json", data)
    assert set(read(data / "MVBench/json" / NOTE)["files"]) == {"state_change.json", "action_count.json"}


def test_consistency_rows_are_paired_by_video_and_answer(hub: Path, data: Path) -> None:
    def row(video: str, answer: str, first: str = "None", second: str = "None") -> dict[str, Any]:
        return {"video_name": video, "answer": answer, "question_1": first, "question_2": second}

    rows = [row("v", "x", "v1"), row("w", "x", "w1"), row("w", "x", second="w2"), row("v", "y", "u1", "u2")]
    rows += [row("v", "x", second="v2"), row("z", "x", second="z2"), row("z", "x", "z1")]
    prepare("vcgbench", table(hub / "consistency.parquet", rows), data)
    found = read(data / "VCGBench/Zero_Shot_QA/Benchmarking_QA/consistency_qa.json")
    assert [(r["video_name"], r["Q1"], r["Q2"], r["A"]) for r in found] == [
        ("v", "v1", "v2", "x"),
        ("w", "w1", "w2", "x"),
        ("v", "u1", "u2", "y"),
        ("z", "z1", "z2", "x"),
    ]
    for broken in (rows[:1], rows[2:3], [rows[0], rows[2]], [rows[0], rows[0]]):
        with pytest.raises(InputError, match="row 1: there is no other question"):
            prepare("vcgbench", table(hub / "consistency.parquet", broken), data, force=True)
    with pytest.raises(InputError, match="both"):
        prepare("vcgbench", table(hub / "consistency.parquet", [row("v", "x")]), data, force=True)


BAD_VIDEOMME: list[tuple[dict[str, Any], str]] = [
    ({"answer": "F"}, "'answer' is 'F', but must be a letter from A to D"),
    ({"answer": ""}, "'answer'"),
    ({"duration": "tiny"}, "'duration' is 'tiny'"),
    ({"options": None}, "'options'"),
    ({"options": ["A. one"]}, "'options'"),
    ({"videoID": "../x"}, "'videoID'"),
    ({"question_id": "001-1"}, "question_id '001-1' came already in "),
]


@pytest.mark.parametrize(("fields", "said"), BAD_VIDEOMME)
def test_a_malformed_row_of_a_table_is_named(
    made: Path, hub: Path, data: Path, fields: dict[str, Any], said: str
) -> None:
    rows = videomme_rows(made)
    rows[3] |= fields
    path = table(hub / "t.parquet", rows)
    with pytest.raises(InputError) as caught:
        prepare("videomme", path, data)
    assert str(caught.value).startswith(f"{path}, row 4: ") and said in str(caught.value)
    assert list(data.iterdir()) == []


def test_a_table_without_a_column_is_named(made: Path, hub: Path, data: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "options"} for row in videomme_rows(made)]
    with pytest.raises(InputError, match="row 1: the field 'options' is missing"):
        prepare("videomme", table(hub / "t.parquet", rows), data)


BAD_EGOSCHEMA: list[tuple[str, dict[str, Any], str]] = [
    ("Subset", {"answer": "5"}, "'answer' is '5'"),
    ("Subset", {"answer": "-1"}, "'answer' is '-1'"),
    ("Subset", {"video_idx": "other"}, "not those of the full set"),
    ("Subset", {"option": fixtures.lettered("vwxyz")}, "not those of the full set"),
    ("MC", {"option": fixtures.lettered("abcd")}, "4 options"),
    ("MC", {"question": ""}, "'question'"),
]


@pytest.mark.parametrize(("part", "fields", "said"), BAD_EGOSCHEMA)
def test_egoschemas_tables_must_fit_together(
    made: Path, hub: Path, data: Path, part: str, fields: dict[str, Any], said: str
) -> None:
    make_egoschema(made, hub)
    rows = egoschema_rows(made, part == "Subset")
    rows[1] |= fields
    path = table(hub / part / "test-0.parquet", rows)
    with pytest.raises(InputError) as caught:
        prepare("egoschema", hub, data)
    assert str(caught.value).startswith(f"{path}, row 2: ") and said in str(caught.value)


def test_egoschemas_sources_must_not_contradict_each_other(made: Path, hub: Path, data: Path) -> None:
    make_egoschema(made, hub)
    answers = read(made / "ego_schema/json/subset_answers.json")
    first = next(iter(answers))
    fixtures.write_json(hub / "subset_answers.json", {first: (answers[first] + 1) % 5})
    with pytest.raises(InputError, match=f"subset_answers.json says that {first}"):
        prepare("egoschema", hub, data)
    (hub / "subset_answers.json").unlink()
    table(hub / "again/MC/test-0.parquet", egoschema_rows(made, False))
    with pytest.raises(InputError, match="asks 6 questions about 3 videos"):
        prepare("egoschema", hub, data)
    fixtures.write_json(hub / "questions.json", kaggle_rows(made))
    with pytest.raises(InputError, match="both a table and"):
        prepare("egoschema", hub, data)


@pytest.mark.parametrize("benchmark", ["mvbench", "videomme", "egoschema", "vcgbench"])
@pytest.mark.parametrize("what", ["nothing", "empty folder", "other file", "broken table", "empty table"])
def test_a_source_that_does_not_fit_is_named(hub: Path, data: Path, benchmark: str, what: str) -> None:
    source = hub / "generic.parquet"
    if what == "empty folder":
        source = hub
    elif what == "other file":
        source = hub / "readme.md"
        source.write_text("hello")
    elif what == "broken table":
        source.write_bytes(b"PAR1" + b"\0" * 40)
    elif what == "empty table":
        pq.write_table(pa.table({"question_id": pa.array([], pa.string())}), source)
    with pytest.raises(InputError) as caught:
        prepare(benchmark, source, data)
    assert str(source) in str(caught.value) and list(data.iterdir()) == []


def test_copies_of_a_file_must_agree(made: Path, hub: Path, data: Path) -> None:
    copy_mvbench(made, hub)
    shutil.copytree(made / "MVBench/json", hub / "twin")
    assert len(prepare("mvbench", hub, data).rows) == 20
    rows = read(hub / "twin/state_change.json")
    fixtures.write_json(hub / "twin/state_change.json", rows[:1])
    with pytest.raises(InputError, match=r"state_change\.json lies at .* and, different, at "):
        prepare("mvbench", hub, data, force=True)
    rows[1]["candidates"] = 5
    fixtures.write_json(hub / "twin/state_change.json", rows)
    with pytest.raises(InputError, match=r"twin/state_change\.json, row 2: 'candidates'"):
        prepare("mvbench", hub, data, force=True)


def test_nothing_is_replaced_without_force(made: Path, hub: Path, data: Path) -> None:
    make_videomme(made, hub)
    mine = data / "Video-MME/json/long.json"
    fixtures.write_json(mine, ["mine"])
    before = snapshot(data)
    with pytest.raises(InputError, match=r"long\.json is there already; --force"):
        prepare("videomme", hub, data)
    assert snapshot(data) == before
    prepare("videomme", hub, data, force=True)
    assert len(read(mine)) == 2


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_disk_that_fills_up_leaves_everything_as_it_was(
    made: Path, hub: Path, data: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    make_videomme(made, hub)
    fixtures.write_json(data / "Video-MME/json/short.json", ["mine"])
    before, left = snapshot(data), [fails]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PruneVidError, match=r"can't be written \(No space left on device\)"):
        prepare("videomme", hub, data, force=True)
    assert snapshot(data) == before


def test_tables_need_pyarrow(made: Path, hub: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_videomme(made, hub)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"prunevid\[eval\]"):
        prepare("videomme", hub, data)


def test_the_folder_of_benchmarks_must_be_there(made: Path, hub: Path, tmp_path: Path) -> None:
    make_videomme(made, hub)
    with pytest.raises(InputError, match=r"no folder .*none"):
        prepare("videomme", hub, tmp_path / "none")
    with pytest.raises(InputError, match="no benchmark 'x'"):
        prepare("x", hub, tmp_path)


def test_the_command(made: Path, hub: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_videomme(made, hub)
    command = ["eval", "prepare", "videomme", "--from", str(hub), "--data", str(data)]
    assert run(command) == 0
    folder = data / "Video-MME/json"
    assert capsys.readouterr().out == "".join(f"{folder / name}.json: 2 rows\n" for name in ("short", "medium", "long"))
    assert run(command) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*command, "--force", "--keep-letters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {"short.json": 2, "medium.json": 2, "long.json": 2}
    assert (
        read(folder / NOTE)["strip_letters"] is False and read(folder / "short.json")[0]["candidates"][0][:3] == "A. "
    )
