# SPDX-License-Identifier: Apache-2.0
"""One run of the benchmark, from nothing or from where it was stopped, to all its answers.

A run's folder holds

    settings.json    what makes the answers what they are; a run goes on only with the same settings
    answers.jsonl    a line for each clip (`prunevid.bench.accuracy.clips.Examiner.record`), in the order of the clips

A clip is on the disk when it is done, so a run that was killed goes on with the next one, and ends with the same
answers. More clips can be asked for later.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.bench.accuracy.clips import Choice, Examiner, records
from prunevid.bench.accuracy.entries import Entry, as_json
from prunevid.errors import ConfigError, InputError, StoppedError
from prunevid.files import Lines, write_files

SETTINGS, ANSWERS = "settings.json", "answers.jsonl"
Record = Mapping[str, Any]
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        plan: name of the plan, for the report.
        entries: to be compared.
        choice: which clips and questions.
        clips: how many clips.
        weights: of the embedded model; None: the shipped ones.
        device: where the model runs.
        workers: processes that share the clips; with several, each runs one thread.
        out: the run's folder; None: one that is gone afterwards.
    """

    plan: str
    entries: tuple[Entry, ...]
    choice: Choice
    clips: int
    weights: Path | None = None
    device: str = "cpu"
    workers: int = 1
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.clips < 1 or self.workers < 1:
            raise ConfigError(f"clips is {self.clips} and workers {self.workers}, but must be at least 1 each.")

    @property
    def seeds(self) -> range:
        """The clips' seeds."""
        return range(self.choice.first, self.choice.first + self.clips)

    def settings(self) -> dict[str, Any]:
        """What makes the answers what they are, as JSON types; how many clips and processes is none of it."""
        return {
            "plan": self.plan,
            "entries": [as_json(entry) for entry in self.entries],
            "choice": json.loads(json.dumps(dataclasses.asdict(self.choice))),
            "weights": digest(weights_of(self.weights)),
            "device": self.device,
        }


@dataclass(frozen=True)
class Run:
    """A run's answers.

    Attributes:
        settings: see `Request.settings`.
        records: of each clip, by seed.
    """

    settings: Mapping[str, Any]
    records: Sequence[Record]


def run(request: Request, tell: Tell | None = None) -> Run:
    """Asks what is not answered yet in the request's folder.

    Args:
        tell: is given, after every clip, how many are done and how many there are.

    Raises:
        InputError: the folder holds another run, or a damaged one.
        PruneVidError: keep-all differed from the unpruned model, or the weights are missing.
        StoppedError: the answers can't be written; the same call goes on from there.
    """
    with ExitStack() as stack:
        folder = request.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = _claim(folder, request)
        known = {int(record["clip"]): record for record in read_answers(folder)}
        left = [seed for seed in request.seeds if seed not in known]
        try:
            with Lines(folder / ANSWERS) as lines, closing(_ask(request, left)) as answers:
                lines.mend()
                for record in answers:
                    lines.append((json.dumps(record) + "\n").encode())
                    known[int(record["clip"])] = record
                    if tell is not None:
                        tell(sum(seed in known for seed in request.seeds), request.clips)
        except OSError as error:
            raise StoppedError(
                f"{folder / ANSWERS} can't be written ({error.strerror or error}); the clips before this one are kept: "
                "make room, and give the same command again to go on."
            ) from error
        return Run(settings, [known[seed] for seed in request.seeds])


def read_run(folder: Path) -> Run:
    """The answers of a folder, as far as there are any.

    Raises:
        InputError: there is no run in it, or it is damaged.
    """
    return Run(_settings(folder), sorted(read_answers(folder), key=lambda record: int(record["clip"])))


def read_answers(folder: Path) -> list[Record]:
    """The records of a folder; a last line that was cut off while it was written is passed over.

    Raises:
        InputError: another line is damaged.
    """
    path = folder / ANSWERS
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    found: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            found.append({name: record[name] for name in ("clip", "questions", "entries")})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}, line {number}, is damaged; remove the line to ask its clip again.") from error
    return found


def weights_of(path: Path | None) -> Path:
    """The file of the embedded model's weights: the given one, or the shipped one.

    Raises:
        InputError: it does not exist.
    """
    from prunevid.builtin import model

    found = model.WEIGHTS if path is None else path
    if not found.is_file():
        raise InputError(f"There is no file of weights {str(found)!r}; give another one with --weights.")
    return found


@functools.cache
def digest(path: Path) -> str:
    """Hex digits that tell files of weights apart."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _claim(folder: Path, request: Request) -> dict[str, Any]:
    """Writes the settings into a new folder, or checks them against those of an old one."""
    settings = request.settings()
    if (folder / SETTINGS).exists():
        known = _settings(folder)
        changed = [name for name in settings if settings[name] != known.get(name)]
        if changed:
            raise InputError(
                f"{folder} holds a run with other settings ({', '.join(changed)}); give the same, or another folder."
            )
    else:
        write_files({folder / SETTINGS: (json.dumps(settings, indent=1) + "\n").encode()})
    return settings


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{folder} holds no run: {SETTINGS} can't be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not hold the settings of a run; use another folder.") from error


# ---- the work, in this process or in several -------------------------------------------------------------------------


def _ask(request: Request, seeds: Sequence[int]) -> Generator[Record, None, None]:
    """The records of some clips, in order."""
    if not seeds:
        return
    if request.workers == 1:
        yield from records(_examiner(request), seeds, request.choice.first)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch in an unknown state
    with context.Pool(min(request.workers, len(seeds)), _begin, (request,)) as pool:
        yield from pool.imap(_one, seeds)


def _examiner(request: Request) -> Examiner:
    from prunevid.builtin.model import build_model, build_processor, load_weights

    model = load_weights(build_model(), weights_of(request.weights)).to(request.device).eval()
    return Examiner(model, build_processor(), request.entries, request.choice)


_WORKING: dict[str, tuple[Examiner, int]] = {}
"""In a process of several: what it asks with."""


def _begin(request: Request) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _WORKING["examiner"] = _examiner(request), request.choice.first


def _one(seed: int) -> Record:
    examiner, first = _WORKING["examiner"]
    return next(iter(records(examiner, [seed], first)))
