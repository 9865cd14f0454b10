# SPDX-License-Identifier: Apache-2.0
"""One matplotlib style for every plot of the project: for light and for dark pages, as SVG and PNG.

The colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any of the common kinds of
colour blindness can tell apart; each theme leaves out those that its background swallows. Markers differ along with
colours. The same plot gives the same bytes each time, so that a picture in a repository only changes with its content.

matplotlib comes with the extra `plot` and is imported when something is drawn. No display is needed, and the settings
of a program that uses matplotlib itself stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunevid.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
DPI = 160
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Theme:
    """Colours of a page, as #rrggbb.

    Attributes:
        background: of the page.
        text: titles, labels and markers' edges.
        muted: ticks and remarks.
        grid: lines behind the data.
        colours: of data, in the order of their use.
    """

    name: str
    background: str
    text: str
    muted: str
    grid: str
    colours: tuple[str, ...]

    def colour(self, index: int) -> str:
        """The colour of the series `index`; they start anew after the last."""
        return self.colours[index % len(self.colours)]

    def marker(self, index: int) -> str:
        """The marker of the series `index`; there are seven, so that the six colours come with another next time."""
        return MARKERS[index % len(MARKERS)]


LIGHT = Theme(
    "light",
    background="#ffffff",
    text="#1f2328",
    muted="#59636e",
    grid="#d1d9e0",
    colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    "dark",
    background="#0d1117",
    text="#f0f6fc",
    muted="#9198a1",
    grid="#30363d",
    colours=("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00"),
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


@contextmanager
def figure(
    theme: Theme | str = LIGHT, *, size: tuple[float, float] = (7.2, 4.2), rows: int = 1, columns: int = 1, **grid: Any
) -> Iterator[tuple[Figure, Any]]:
    """An empty figure in the style; what is drawn inside the `with` has it, too.

    Args:
        theme: a theme or its name.
        size: width and height in inches; 7.2 fills the column of a README.
        rows, columns: of axes.
        grid: more for `Figure.subplots` (sharex, width_ratios, ...).

    Yields:
        The figure, and its axes: one, or an array (rows, columns).

    Raises:
        ConfigError: there is no such theme.
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_settings(theme_of(theme))}):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        made = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(made)
        axes = made.subplots(rows, columns, squeeze=False, **grid)
        yield made, axes[0, 0] if rows == columns == 1 else axes


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Writes a figure as SVG and as PNG, the same bytes each time.

    Args:
        path: without an ending; folders are made.

    Returns:
        The files.
    """
    matplotlib = _matplotlib()
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    found = []
    # Ids of shapes are random and the date is written unless told otherwise; letters as shapes look alike everywhere.
    with matplotlib.rc_context({"svg.hashsalt": "prunevid", "svg.fonttype": "path"}):
        for ending, facts in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            target = stem.with_name(f"{stem.name}.{ending}")
            figure.savefig(target, dpi=DPI, metadata=facts, facecolor=figure.get_facecolor())
            figure.set_layout_engine("none")  # laid out once; both files look alike
            found.append(target)
    return found


def save_all(draw: Callable[[Theme], Figure], path: str | Path) -> list[Path]:
    """Draws and writes a plot for light and for dark pages: `path`-light.svg, -light.png, -dark.svg, -dark.png.

    Args:
        draw: makes the figure in a theme, with `figure`.
        path: without an ending.
    """
    stem = Path(path)
    return [
        file for theme in THEMES.values() for file in save(draw(theme), stem.with_name(f"{stem.name}-{theme.name}"))
    ]


def theme_of(theme: Theme | str) -> Theme:
    """A theme by its name, or as it is.

    Raises:
        ConfigError: there is none of that name.
    """
    if isinstance(theme, Theme):
        return theme
    if theme not in THEMES:
        raise ConfigError(f"theme is {theme!r}, but must be one of {', '.join(THEMES)}.")
    return THEMES[theme]


def _settings(theme: Theme) -> dict[str, Any]:
    """A theme as matplotlib's settings."""
    from cycler import cycler

    return {
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=theme.colours),
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 11,
        "font.size": 11,
        "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that a picture looks the same on every machine
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "lines.linewidth": 2.0,
        "lines.markersize": 7,
        "lines.markeredgecolor": theme.background,
    }


def _matplotlib() -> Any:
    """matplotlib.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("Plots need matplotlib; install it with `pip install prunevid[plot]`.") from error
    return matplotlib
