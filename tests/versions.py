# SPDX-License-Identifier: Apache-2.0
"""Runs the test suite with several versions of transformers, each in its own virtual environment under `.venvs/`.

`make test-matrix` calls it. It needs nothing but Python; every environment is made on first use and kept.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEWEST = "newest"
DEFAULT = ("5.17.0", "5.18.0", NEWEST)
_OLDEST_TORCH = ("torch==2.11.0", "torchvision==0.26.0")
BESIDE = {"5.17.0": _OLDEST_TORCH, "5.18.0": _OLDEST_TORCH}  # what a version is tested with, where not pip's choice
_ASK = "import importlib.metadata as m, platform as p; print(p.python_version(), m.version('torch'), "
_ASK += "m.version('transformers'))"


@dataclass(frozen=True)
class Result:
    """One run of the suite; seconds: as pytest counts them; code: its exit status."""

    python: str
    torch: str
    transformers: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    code: int


def requirements(version: str) -> list[str]:
    """What pip is asked to install for a version of transformers, or for the newest that were tested together."""
    own = ["-e", ".[dev,plot]"]
    if version == NEWEST:
        return ["-c", "constraints.txt", *own]
    return [*own, f"transformers=={version}", *BESIDE.get(version, ())]


def environment(version: str, python: str) -> Path:
    """The interpreter of a version's environment, which is made where it is missing or out of date."""
    known = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=True, capture_output=True, text=True
    ).stdout.strip()
    folder = ROOT / ".venvs" / f"{version}-py{known}"
    wanted = requirements(version)
    asked = "\n".join([*wanted, *((ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt"))])
    stamp, digest = folder / ".ready", hashlib.sha256(asked.encode()).hexdigest()
    own = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(own), "-m", "pip", "install", "--quiet", *wanted], check=True, cwd=ROOT)
        stamp.write_text(digest)
    return own


def read(report: Path) -> tuple[int, int, int, float]:
    """(passed, failed, skipped, seconds) of a JUnit file; what could not be collected counts as failed."""
    suites = [suite for suite in ElementTree.parse(report).getroot().iter("testsuite")]
    tests, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    seconds = sum(float(suite.get("time", 0)) for suite in suites)
    return tests - failures - errors - skipped, failures + errors, skipped, seconds


def run_suite(version: str, python: str, arguments: Sequence[str]) -> Result:
    """Runs pytest in a version's environment."""
    own = environment(version, python)
    names = subprocess.run([str(own), "-c", _ASK], check=True, capture_output=True, text=True).stdout.split()
    print(f"\ntransformers {names[2]}, torch {names[1]}, Python {names[0]}", flush=True)
    report = own.parents[1] / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(own), "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    code = subprocess.run(command, cwd=ROOT).returncode
    counts = read(report) if report.exists() else (0, 0, 0, 0.0)
    return Result(*names, *counts, code)


def table(results: Sequence[Result]) -> str:
    """The summary, in Markdown."""
    lines = ["| transformers | torch | Python | passed | failed | skipped | seconds |", "|---|---|---|---|---|---|---|"]
    for result in results:
        failed = str(result.failed) if result.failed or not result.code else f"pytest ended with {result.code}"
        cells = [result.transformers, result.torch, result.python, result.passed, failed, result.skipped]
        lines.append(" ".join(f"| {cell}" for cell in [*cells, round(result.seconds)]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, run: Callable[[str, str, Sequence[str]], Result] = run_suite) -> int:
    """Returns 1 where any version failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("versions", nargs="*", default=DEFAULT, help=f"of transformers, or {NEWEST!r}")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make environments with")
    parser.add_argument("--pytest", default="-m 'not slow'", help="arguments for pytest")
    chosen = parser.parse_args(argv)
    results = [run(version, chosen.python, shlex.split(chosen.pytest)) for version in chosen.versions]
    print("\n" + table(results))
    return int(any(result.code for result in results))


if __name__ == "__main__":
    sys.exit(main())
