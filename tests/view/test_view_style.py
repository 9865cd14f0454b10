# SPDX-License-Identifier: Apache-2.0
"""The style of all plots: files of both kinds for both pages, the same bytes each time, colours that can be seen."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from prunevid.errors import ConfigError, MissingDependencyError
from prunevid.view import style

THEMES = list(style.THEMES.values())


def plot(theme: style.Theme) -> Any:
    with style.figure(theme) as (figure, axes):
        for index in range(3):
            axes.plot([0, 1, 2], [index, 1, 2], marker=theme.marker(index), label=f"series {index}")
        axes.set_title("A plot")
        axes.legend()
    return figure


def test_four_files_and_the_same_bytes_again(tmp_path: Path) -> None:
    first = style.save_all(plot, tmp_path / "new" / "curve.v1")
    assert [file.name for file in first] == [
        f"curve.v1-{theme}.{ending}" for theme in ("light", "dark") for ending in ("svg", "png")
    ]
    again = style.save_all(plot, tmp_path / "again" / "curve.v1")
    for one, other in zip(first, again):
        assert one.read_bytes() == other.read_bytes()
    for file in first:
        data = file.read_bytes()
        assert data.startswith(b"\x89PNG") if file.suffix == ".png" else b"<svg" in data
        assert b"<dc:date>" not in data
    light, dark = first[0].read_text(), first[2].read_text()
    assert style.LIGHT.background in light and style.DARK.background in dark and style.DARK.background not in light


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_a_png_is_as_large_and_as_coloured_as_said(theme: style.Theme, tmp_path: Path) -> None:
    from PIL import Image

    with style.figure(theme, size=(3, 2)) as (figure, axes):
        axes.plot([0, 1])
    picture = Image.open(style.save(figure, tmp_path / "small")[1]).convert("RGB")
    assert picture.size == (3 * style.DPI, 2 * style.DPI)
    assert name(picture.getpixel((0, 0))) == theme.background
    assert any(name(colour) == theme.colours[0] for _, colour in picture.getcolors(1 << 20))


def name(pixel: tuple[int, ...]) -> str:
    return "#" + bytes(pixel).hex()


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_colours_stand_out(theme: style.Theme) -> None:
    assert contrast(theme.text, theme.background) >= 7
    assert contrast(theme.muted, theme.background) >= 4.5
    assert all(contrast(colour, theme.background) >= 2.2 for colour in theme.colours)
    okabe_ito = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
    assert set(theme.colours) <= okabe_ito and len(set(theme.colours)) == len(theme.colours)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_colour_and_marker_tell_many_series_apart(theme: style.Theme) -> None:
    pairs = [(theme.colour(index), theme.marker(index)) for index in range(len(theme.colours) * 4)]
    assert len(set(pairs)) == len(pairs)
    assert all(one != other for one, other in itertools.pairwise(pair[0] for pair in pairs))


def test_the_programs_own_settings_stay() -> None:
    import matplotlib

    matplotlib.rcParams["axes.labelsize"] = 23
    try:
        before = dict(matplotlib.rcParams)
        plot(style.DARK)
        assert dict(matplotlib.rcParams) == before
        with style.figure("dark") as (_, axes):
            assert axes.xaxis.label.get_size() == 11
    finally:
        matplotlib.rcdefaults()


def test_a_grid_of_axes() -> None:
    with style.figure("light", rows=2, columns=3, sharex=True) as (figure, axes):
        assert axes.shape == (2, 3) and len(figure.axes) == 6


def test_wrong_theme_and_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'blue'.*light, dark"), style.figure("blue"):
        pass
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"prunevid\[plot\]"), style.figure():
        pass
