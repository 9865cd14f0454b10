# SPDX-License-Identifier: Apache-2.0
"""Methods by name: those of other packages, and the nearest of a name that is none."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prunevid import methods
from prunevid.errors import ConfigError
from prunevid.methods import Method

MODULE = """
from dataclasses import dataclass
from typing import ClassVar

from prunevid.methods import Method, keep_cells


@dataclass(frozen=True)
class Every(Method):
    name: ClassVar[str] = "every-nth"
    step: int = 2

    @property
    def merges(self):
        return True

    def merge(self, video):
        frames, positions = video.features.shape[:2]
        import torch

        return keep_cells(video.features, torch.arange(0, frames * positions, self.step))


@dataclass(frozen=True)
class Taken(Method):
    name: ClassVar[str] = "fastv"


something = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package that offers the given entry points, for one test."""
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))

    def install(points: str) -> None:
        (tmp_path / "every_nth.py").write_text(MODULE)
        info = tmp_path / "every_nth-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: every-nth\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[prunevid.methods]\n{points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        methods._load_plugins.cache_clear()

    yield install
    sys.modules.pop("every_nth", None)
    methods._load_plugins.cache_clear()


@pytest.mark.parametrize(
    "call", [methods.names, lambda: methods.get("every-nth"), lambda: methods.get("none|every-nth")]
)
def test_methods_of_other_packages(package: Callable[[str], None], call: Callable) -> None:
    package("every-nth = every_nth:Every")
    call()
    assert "every-nth" in methods.names() and methods.names() == sorted(methods.names())
    assert methods.get("every-nth", step=5).step == 5
    assert methods.resolve("every-nth", retention_ratio=0.5).retention_ratio == 0.5
    assert methods.get("every-nth|fastv").label == "every-nth|fastv"


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (
            "broken = nowhere_at_all:Every",
            "'broken' of another package (nowhere_at_all:Every) can't be used: No module",
        ),
        (
            "broken = every_nth:something",
            "'broken' of another package (every_nth:something) can't be used: 3 is no sub",
        ),
        ("fastv = every_nth:Taken", "can't be used: A method named 'fastv' exists already; give yours another name."),
    ],
)
def test_a_broken_package_does_not_stand_in_the_way(package: Callable[[str], None], point: str, says: str) -> None:
    package(f"{point}\nevery-nth = every_nth:Every")
    with pytest.warns(RuntimeWarning, match=re.escape(says)):
        names = methods.names()
    assert "every-nth" in names and "broken" not in names
    assert methods.get("fastv").selection_layers == (2,)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fastV", "'fastv'"),
        ("prunevit", "'prunevid'"),
        ("flash-vid", "'flashvid'"),
        ("prumerge++", "'prumerge+' or 'prumerge'"),
        ("look-m", "'lookm'"),
        ("holytom", "'holitom'"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(name: str, near: str) -> None:
    listed = ", ".join(methods.names())
    with pytest.raises(ConfigError, match=re.escape(f"; choose one of {listed}.")) as error:
        methods.get(name)
    found = re.match(rf"{re.escape(repr(name))} is no pruning method \(do you mean (.*)\?\)", str(error.value))
    assert found is not None and found.group(1).startswith(near)


def test_a_name_like_no_other() -> None:
    with pytest.raises(ConfigError, match=r"visionzip\.$"):
        methods.get("qqqqqqqq")


def test_two_methods_of_one_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(Method):
        name = "fastv"

    with pytest.raises(ConfigError, match="A method named 'fastv' exists already"):
        methods.register(Other)
    assert methods.register(type(methods.get("fastv"))) is type(methods.get("fastv"))  # the same one again


@pytest.mark.parametrize("name", methods.names())
def test_methods_are_frozen_and_hashable(name: str) -> None:
    method = methods.get(name)
    assert hash(method) == hash(methods.get(name)) and method == methods.get(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.retention_ratio = 0.5
    if name != "prunevid":  # its options are those of PruneVidConfig
        with pytest.raises(
            ConfigError, match=re.escape(f"'nothing' is no option of the method {name!r}; its options are")
        ):
            method.replace(nothing=1)


def test_the_issues_methods_are_all_there() -> None:
    wanted = (
        "prunevid fastv prumerge prumerge+ lookm visionzip dycoke fastvid holitom flashvid vidcom2 evs dtd tome "
        "sparsevlm pyramiddrop divprune frames uniform random none"
    )
    assert set(wanted.split()) <= set(methods.names())


def test_positions_given_to_prunevid_itself() -> None:
    assert methods.PruneVid(positions="keep").position_scheme == "keep"
    assert methods.get("prunevid", positions="keep").position_scheme == "keep"
    assert methods.get("prunevid").position_scheme == "auto"
