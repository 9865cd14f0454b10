# SPDX-License-Identifier: Apache-2.0
"""The HTML report: whole in itself, escaped, and with the numbers of the answer; and `prunevid view`."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid.builtin.model import WEIGHTS
from prunevid.errors import ConfigError, InputError
from prunevid.view import Cells, attention_report, compare_report, facts_of, report, stages, watch
from shipped import STEPS
from view.drawn import NAMES, answer_of, chosen_map, clip, clip_file, embedded, white

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")

HOSTILE = "<script>alert(1)</script> \"><img src=x onerror=alert(2)> {{ 7 * 7 }} &amp; 'q'"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: tags, references and words; complains about tags that don't close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def pictures(self) -> list[tuple[int, int]]:
        """Sizes of the pictures, each decoded."""
        found = []
        for attrs in self.all("img"):
            head, data = str(attrs["src"]).split(",", 1)
            assert head == "data:image/png;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert picture.format == "PNG"
            picture.load()
            assert (str(picture.width), str(picture.height)) == (attrs["width"], attrs["height"])
            assert attrs["alt"]
            found.append(picture.size)
        return found


def whole(text: str) -> Page:
    """A page that refers to nothing outside and runs nothing."""
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert str(value).startswith("data:")
    assert "url(" not in text and "@import" not in text
    assert re.search(r'Content-Security-Policy" content="default-src &#39;none|default-src \'none\'', text)
    return page


@pytest.mark.parametrize("name", NAMES)
def test_every_method_gives_a_whole_page_with_its_numbers(name: str) -> None:
    answer = answer_of(name)
    text = report(answer, unpruned=answer_of("none"), facts=facts_of(embedded(), "the model"), width=40)
    page, cells = whole(text), Cells.of(answer.maps[0])
    for stage in stages(answer.stats, answer.maps):
        assert stage.name in page.text
        assert f"{stage.tokens} tokens ({100 * stage.share:.1f}%)" in page.text
    assert f"{cells.counts[-1]} of {cells.counts[0]} tokens in the end" in page.text
    assert f"{answer.stats['total']['flops_ratio']:.1%} of the prompt's FLOPs" in page.text
    assert all(note in page.text for note in cells.notes)
    scored = [step for step in cells.steps if step.scores is not None]
    merges = (cells.sizes > 1).any() or cells.counts[1] < cells.counts[0]
    rows = 2 + bool(merges) + len(scored)
    sizes = page.pictures()
    assert sizes.count((40, 40)) == rows * cells.shape[0]
    assert len(sizes) == rows * cells.shape[0] + len(scored)  # and a colour bar for every choice by scores
    assert all(f"Score after layer {step.layer}" in page.text for step in scored)
    assert ("The method cut the clip into" in page.text) == (len(cells.scenes) > 1)


def test_equal_answers_give_equal_pages_and_dates_only_when_given() -> None:
    answer = answer_of("prunevid")
    first, again = report(answer, width=20), report(answer, width=20)
    assert first == again
    assert "2001-02-03" in report(answer, width=20, date="2001-02-03") and "<dt>Date" not in first


def test_words_of_strangers_stay_words() -> None:
    answer = dataclasses.replace(answer_of("prunevid"), question=HOSTILE, text=HOSTILE)
    facts = {HOSTILE: HOSTILE}
    for text in (
        report(answer, unpruned=answer, facts=facts, width=20, date=HOSTILE),
        compare_report([answer], [HOSTILE], failures={HOSTILE: HOSTILE}, facts=facts, width=20),
        report(chosen_map_list(), title=HOSTILE, width=20),
    ):
        page = whole(text)
        assert "<script" not in text
        assert " ".join(HOSTILE.split()) in page.text


def chosen_map_list() -> list[Any]:
    return [chosen_map(), chosen_map()]


def test_token_maps_of_several_videos_with_and_without_frames() -> None:
    page = whole(report(chosen_map_list(), frames=[white(8), None], width=48))
    assert "Video 1 of 2" in page.text and "Video 2 of 2" in page.text
    assert "The frames are not at hand" in page.text
    assert "joins its 8 frames to 4 steps" in page.text
    rows = 5  # frames, merged, two choices, kept
    assert len([size for size in page.pictures() if size[0] == 48]) == 2 * rows * 4


def test_a_page_of_the_clip_names_its_scenes_and_their_tokens() -> None:
    answer = answer_of("prunevid")
    page, scenes = Page(report(answer, width=20)), Cells.of(answer.maps[0]).scenes
    assert len(scenes) > 1
    assert [attrs["style"] for attrs in page.all("li") if "style" in attrs] == [
        f"flex-grow: {scene.stop - scene.start}" for scene in scenes
    ]
    assert str(clip_file()) not in page.text and clip_file().name in page.text


def test_side_by_side() -> None:
    names = ("fastv", "visionzip", "lookm")
    answers = [answer_of(name) for name in names]
    text = compare_report(
        answers, list(names), unpruned=answer_of("none"), failures={"dtd": "it can't."}, width=30, columns=STEPS
    )
    page = whole(text)
    assert page.pictures() == [(30, 30)] * (4 * STEPS)
    for answer in answers:
        assert f"{100 * answer.stats['total']['retained_ratio']:.1f}%" in page.text
    assert "dtd has no answer: it can't." in page.text
    with pytest.raises(InputError, match="3 answers and 2 labels"):
        compare_report(answers, names[:2])
    with pytest.raises(InputError, match="different frames or questions"):
        compare_report([answers[0], dataclasses.replace(answers[1], question="another?")], names[:2])


def test_attention_over_layers() -> None:
    watched = watch(embedded(), clip_file(), clip().questions[0].text)
    page = whole(attention_report(watched, layers=[1, 3], width=20, columns=STEPS))
    assert "Attention after layer 1" in page.text and "Attention after layer 2" not in page.text
    assert page.pictures().count((20, 20)) == 3 * STEPS
    with pytest.raises(ConfigError, match="Layer 77 was not recorded"):
        attention_report(watched, layers=[77])


@pytest.mark.parametrize("options", [{"width": 0}, {"columns": 0}, {"scale": "sqrt"}])
def test_sizes_and_scales_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        report(answer_of("prunevid"), **options)


@pytest.fixture
def cli(cli: Any) -> Any:
    """Runs `prunevid view ...`: (exit status, stdout, stderr)."""
    return partial(cli, "view")


def test_command_writes_what_is_asked_for(cli: Any, tmp_path: Path) -> None:
    question = clip().questions[0].text
    files = [tmp_path / f"new/a.{ending}" for ending in ("html", "png", "gif", "mp4")]
    places = zip(("--out", "--png", "--gif", "--mp4"), files)
    status, out, err = cli(
        "--method", "fastv", clip_file(), question, "--setting", "layer=3", "--json", "--width", 64,
        *(word for place in places for word in place),
    )  # fmt: skip
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["method"] == "fastv" and document["options"]["layer"] == 3
    assert document["files"] == [str(files[0]), str(files[1]), str(files[3]), str(files[2])]
    assert document["unpruned"]["stats"]["total"]["retained_ratio"] == 1
    page = whole(files[0].read_text(encoding="utf-8"))
    kept = document["stats"]["stage2"]["compressed_tokens"]
    assert question in page.text and f"{kept} of " in page.text and "layer = 3" in page.text
    assert [file.read_bytes()[:3] for file in files[1:3]] == [b"\x89PN", b"GIF"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.gif", "a.html", "a.mp4", "a.png"]


def test_sub_commands_and_a_clip_of_the_same_name(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip_file(), "compare")
    question = clip().questions[0].text
    common = [question, "--width", 20, "--json", "--out"]
    status, out, err = cli("./compare", *common, "one.html", "--no-unpruned")
    assert (status, err) == (0, "") and json.loads(out)["unpruned"] is None
    assert "Not pruned" not in Path("one.html").read_text(encoding="utf-8")
    status, out, err = cli(
        "compare", "compare", *common, "two.html", "--methods", "fastv,random", "--retention", "0.2,0.1"
    )
    assert (status, err) == (0, "")
    labels = [side["label"] for side in json.loads(out)["sides"]]
    assert labels == ["fastv at 20%", "random at 20%", "fastv at 10%", "random at 10%"]
    page = whole(Path("two.html").read_text(encoding="utf-8"))
    assert all(label in page.text for label in labels)
    status, out, err = cli("attention", "compare", *common, "three.html", "--layers", "1,4")
    assert (status, err) == (0, "") and json.loads(out)["layers"] == [1, 4]
    whole(Path("three.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["CLIP", "q"], "nothing to write"),
        (["CLIP", "q", "--out", "."], "is the folder"),
        (["CLIP", "q", "--out", "report.txt"], "must end in .html"),
        (["CLIP", "q", "--mp4", "CLIP"], "is the clip"),
        (["CLIP", "q", "--out", "file/report.html"], "is no folder"),
        (["CLIP", "q", "--out", "a.html", "--setting", "keep_ratio"], "must be NAME=VALUE"),
        (["CLIP", "q", "--out", "a.html", "--setting", "a=1", "--setting", "a=2"], "twice"),
        (["compare", "CLIP", "q", "--out", "a.html", "--methods", "nosuch"], "nosuch"),
        (["compare", "CLIP", "q", "--out", "a.html", "--retention", "x"], "no list of numbers"),
        (["attention", "CLIP", "q", "--out", "a.html", "--layers", "one"], "must be numbers"),
        (["attention", "CLIP", "q", "--out", "a.html", "--scale", "sqrt"], "linear"),
        (["CLIP", "q", "--bogus"], "see `prunevid view --help`"),
        (["CLIP"], "see `prunevid view --help`"),
    ],
)
def test_wrong_use_is_one_sentence_before_a_model_is_loaded(
    words: list[str], said: str, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("prunevid.cli.common.load", refuse)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("a file", encoding="utf-8")
    status, out, err = cli(*(str(clip_file()) if word == "CLIP" else word for word in words))
    assert (status, out) == (2, "") and said in err
    assert err.startswith("prunevid: ") and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_help_of_each_command_goes_by_its_name(cli: Any) -> None:
    for words, usage in (((), "view [OPTIONS]"), (("compare",), "view compare"), (("attention",), "view attention")):
        status, out, _ = cli(*words, "--help")
        assert status == 0 and f"prunevid {usage}" in " ".join(out.split())
    assert "view compare" in " ".join(cli("--help")[1].split())
