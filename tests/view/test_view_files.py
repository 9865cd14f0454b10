# SPDX-License-Identifier: Apache-2.0
"""Sheets, films and drawings as files that can be read back; refusals that say what to do."""

from __future__ import annotations

import builtins
import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid import view
from prunevid.builtin.model import WEIGHTS
from prunevid.engine import TokenMap
from prunevid.errors import ConfigError, InputError, MissingDependencyError, PruneVidError
from prunevid.models.base import VideoLayout
from prunevid.view import Film, compare_sheet, gif, mp4, overlay, save, sheet, stages, stages_svg
from prunevid.view import export as exporting
from prunevid.view.lettering import font, readable, width_of, wrapped
from shipped import FRAMES, SIDE, SIZE, STEPS, VISUAL
from view.drawn import NAMES, answer_of, chosen_map, merged_map, white

needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the embedded model's weights are not there")
LADDER = np.repeat(np.array([30, 120, 210], dtype=np.uint8), 33 * 47 * 3).reshape(3, 33, 47, 3)


def read_video(path: Path) -> tuple[np.ndarray, float, str]:
    """Frames, frames a second and codec of a file."""
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        return frames, float(stream.average_rate), stream.codec_context.name


@pytest.mark.parametrize("codec", ["usual", "mpeg4"])
def test_an_mp4_is_read_back(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd sizes are made even at the edge; where H.264 is missing, MPEG-4 part 2 does."""
    import av

    expected = "h264" if {"libx264", "libopenh264"} & set(av.codecs_available) else "mpeg4"
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
        expected = "mpeg4"
    (tmp_path / "a.mp4").write_bytes(mp4(Film(LADDER, 2.5)))
    frames, rate, name = read_video(tmp_path / "a.mp4")
    assert (frames.shape, rate, name) == ((3, 34, 48, 3), 2.5, expected)
    assert np.abs(frames[:, :33, :47].astype(int) - LADDER).max() <= 8


def test_a_gif_is_read_back(tmp_path: Path) -> None:
    from PIL import Image, ImageSequence

    (tmp_path / "a.gif").write_bytes(gif(Film(LADDER, 4.0)))
    with Image.open(tmp_path / "a.gif") as file:
        shown = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(file)]
        assert file.info["loop"] == 0
    assert [duration for _, duration in shown] == [250] * 3
    assert np.abs(np.stack([frame for frame, _ in shown]).astype(int) - LADDER).max() <= 3


@needs_weights
@pytest.mark.parametrize("name", ["prunevid", "fastv"])
def test_a_film_shows_every_frame_with_its_overlays(name: str) -> None:
    answer = answer_of(name)
    frames = white(FRAMES, SIZE, SIZE)
    panels = ("frame", "score", "kept")
    film = overlay(answer, frames, width=SIZE, panels=panels, fps=3)
    assert film.fps == 3 and len(film.pictures) == FRAMES
    whole = film.pictures[:, 38 : 38 + SIZE]  # below the margin and a line of letters
    for number, panel in enumerate((0, 2)):
        part = whole[:, :, 18 + panel * (SIZE + 6) :][:, :, :SIZE]
        clear = (part == 255).all(-1)
        left = np.kron(
            answer.maps[0].destination.view(STEPS, SIDE, SIDE).numpy() >= 0, np.ones((1, 16, 16), dtype=bool)
        )
        assert (clear == (True if number == 0 else left.repeat(2, axis=0))).all()
    usual = overlay(answer, frames, width=SIZE)
    assert (usual.pictures.shape[2] - 2 * 18 + 6) // (SIZE + 6) == (3 if name == "prunevid" else 2)


@needs_weights
@pytest.mark.parametrize("ending", [".png", ".mp4", ".gif", ".PNG"])
def test_files_are_there_whole_or_not_at_all(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / f"picture{ending}"
    assert answer_of("fastv").show(path, width=300) == path
    content = path.read_bytes()
    assert list(path.parent.iterdir()) == [path]

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PruneVidError, match="No space left"):
        save(answer_of("fastv"), path, width=300)
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]


def test_what_can_not_be_written(tmp_path: Path) -> None:
    for name in ("picture.webm", "picture", ".png"):
        with pytest.raises(ConfigError, match=r"must end in \.png, \.mp4, \.gif"):
            save([merged_map()], tmp_path / name)
    (tmp_path / "file").write_text("taken")
    for path in (tmp_path / "file" / "picture.png", tmp_path / "folder.png"):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(PruneVidError, match="can't be written"):
            save([merged_map()], path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_an_mp4_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError("No module named 'av'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install av.*\.gif"):
        exporting.mp4(Film(LADDER, 2.0))


@needs_weights
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_method_has_a_sheet_and_a_diagram(name: str, theme: str) -> None:
    answer = answer_of(name)
    picture = sheet(answer, white(FRAMES), width=500, theme=theme)
    assert picture.mode == "RGB" and picture.width == 500 and picture.height > 150
    found = stages(answer.stats, answer.maps)
    first, last = found[0], found[-1]
    assert first.tokens == VISUAL and first.share == 1
    assert last.tokens == round(answer.stats["total"]["retained_ratio"] * VISUAL)
    tokens = [stage.tokens for stage in found]
    assert tokens == sorted(tokens, reverse=True)
    choices = [stage for stage in found if stage.name.startswith("choice")]
    assert [stage.tokens for stage in choices] == answer.maps[0].after_choices
    assert [stage.name for stage in choices] == [f"choice after layer {layer}" for layer in answer.maps[0].layers]
    root = ElementTree.fromstring(stages_svg(answer.stats, answer.maps, theme=theme))
    bars = [e for e in root.iter() if e.tag.endswith("rect")][1:]
    widths = [float(bar.get("width", "nan")) for bar in bars]
    assert widths[1::2] == pytest.approx([widths[0] * stage.share for stage in found], abs=0.051)


def test_a_diagram_without_maps_or_stats() -> None:
    assert stages({}) == [] and stages_svg({}) == ""
    row = {
        "stage1": {"original_tokens": 40, "compressed_tokens": 40},
        "stage2": {"compressed_tokens": 10, "layer": 3},
        "stage3": {"reduction_ratio": 0.5},
        "total": {"retained_ratio": 0.25, "flops_ratio": 0.5},
    }
    assert [(stage.name, stage.tokens) for stage in stages(row)] == [
        ("vision tower", 40),
        ("choice after layer 3", 10),
        ("language model, prompt", 10),
        ("answer", 10),
    ]


def test_sheets_of_maps_alone() -> None:
    """Several videos and an image, of some the frames are not at hand; more columns than are shown."""
    image = TokenMap(VideoLayout(1, 3, 5, image=True), None)
    slots = TokenMap(VideoLayout(3, 1, 8, pictured=False), None)
    alone = sheet([chosen_map()], width=600)
    several = sheet([chosen_map(), image, slots], [white(8), None, white(3)], width=600, title="Three of them")
    assert alone.width == several.width and several.height > alone.height
    few, many = (sheet([chosen_map()], white(4), width=600, columns=columns) for columns in (2, 4))
    assert few.height > many.height  # the same room for fewer pictures
    assert sheet([chosen_map()], white(4)).tobytes() == sheet([chosen_map()], white(4)).tobytes()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"frames": [white(4)] * 2}, InputError, "2 videos, but the prompt has 1"),
        ({"frames": white(4)[0]}, InputError, "must be .frames, height, width, 3."),
        ({"frames": white(0)}, InputError, "must be .frames, height, width, 3."),
        ({"width": 100}, ConfigError, "width is 100"),
        ({"columns": 0}, ConfigError, "columns is 0"),
        ({"theme": "pink"}, ConfigError, "theme is 'pink'"),
        ({"scale": "cubic"}, ConfigError, "scale is 'cubic'"),
    ],
)
def test_sheets_that_can_not_be(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sheet([chosen_map()], **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"panels": ("kept", "all")}, ConfigError, "'all' is no panel"),
        ({"panels": ("score",)}, InputError, "no scores to draw"),
        ({"video": 1}, InputError, "video is 1, but the prompt has 1"),
        ({"fps": 0}, ConfigError, "fps is 0"),
    ],
)
def test_films_that_can_not_be(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        overlay([merged_map()], white(4), **options)


@needs_weights
@pytest.mark.parametrize("show", ["kept", "merged"])
def test_answers_under_each_other(show: str) -> None:
    """A row more for an answer more, in which the answer's own cells are clear."""
    names = ["prunevid", "fastv", "lookm"]
    answers = [answer_of(name) for name in names]
    one, three = (
        np.asarray(compare_sheet(answers[:n], names[:n], white(FRAMES), show=show, width=600)) for n in (1, 3)
    )
    assert three.shape[1] == 600 and three.shape[0] > one.shape[0]
    assert (one[:-18] == three[: len(one) - 18]).all()  # but for the margin below
    assert not (three[len(one) - 18 : -18] == 255).all()
    for bad in ([], names[:2]):
        with pytest.raises(InputError, match=f"3 answers and {len(bad)} labels"):
            compare_sheet(answers, bad)
    with pytest.raises(InputError, match="must be 'kept' or 'merged'"):
        compare_sheet(answers, names, show="all")


@needs_weights
def test_answers_about_other_frames() -> None:
    answer = answer_of("fastv")
    other = dataclasses.replace(answer, clip=dataclasses.replace(answer.clip, indices=(0, 1)))
    with pytest.raises(InputError, match="different frames"):
        compare_sheet([answer, other], ["a", "b"])


def test_every_public_name_is_there() -> None:
    assert set(view.__all__) <= set(dir(view)) and all(hasattr(view, name) for name in view.__all__)
    assert sorted(view.__all__) == sorted(name for names in view._PLACES.values() for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = view.nothing


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="There is no video to draw"):
        sheet([])


def test_letters_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = font(13)
    lines = wrapped("many words " * 40, letters, 200, 3)
    assert len(lines) == 3 and lines[-1].endswith("…") and all(width_of(line, letters) <= 200 for line in lines)
    assert wrapped("a\nshort  line", letters, 200) == ["a short line"]
    long = wrapped("w" * 300, letters, 90)
    assert len(long) == 1 and long[0].endswith("…") and width_of(long[0], letters) <= 90
    monkeypatch.setattr("prunevid.view.lettering._dejavu", lambda bold: None)
    font.cache_clear()
    assert readable("où “là” → 中") == "ou “la” ? ?"
    assert sheet([merged_map()], width=400).width == 400
    font.cache_clear()
