# SPDX-License-Identifier: Apache-2.0
"""Judging the answers of a run: asking for what is missing, and writing the scores into results.json."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid.errors import ConfigError, InputError, JudgeError, PruneVidError
from prunevid.evaluation.judging.asking import BudgetSpent, Gate, Judge, Stopped, Tell
from prunevid.evaluation.judging.cache import Kept, Question, Replies, kept, question_of, replies_in
from prunevid.evaluation.judging.cases import Case, Cases, cases_of
from prunevid.evaluation.judging.replies import read_reply
from prunevid.evaluation.judging.scores import Verdict, summary
from prunevid.evaluation.judging.stub import STUB_NOTE
from prunevid.evaluation.runs import RESULTS, Run, answers_digest
from prunevid.evaluation.writing import write_json

TRIES = 3
PART, STUB_PART = "judge", "judge_stub"


@dataclass(frozen=True)
class Judged:
    """What became of a run's judging.

    Attributes:
        part: what stands in results.json, under "judge" or, of the stub, "judge_stub".
        unfinished: why not everything is judged, where it is not; calling again goes on.
    """

    part: Mapping[str, Any]
    unfinished: PruneVidError | None = None


def judge_run(
    run: Run,
    judge: Judge,
    *,
    consistency: str = "prunevid",
    wording: str = "prunevid",
    budget_requests: int | None = None,
    budget_tokens: int | None = None,
    concurrency: int = 4,
    tell: Tell = lambda done, total: None,
) -> Judged:
    """Judges the answers of a run of VideoChatGPT-Bench and writes their scores into its results.json.

    A reply that gives no score is asked for again, up to three replies in all; then the score is 0, as in the published
    protocol. An empty answer scores 0 without asking. Replies that are kept in the folder already, of the same judge to
    the same messages, are not asked for again.

    Args:
        run: as `prunevid.evaluation.runs.read_run` reads it.
        judge: an `Endpoint` or a `StubJudge`.
        consistency, wording: see `prunevid.evaluation.judging.cases.cases_of`.
        budget_requests, budget_tokens: of this call; see `prunevid.evaluation.judging.asking.Gate`.
        concurrency: requests under way at once, at most.
        tell: called with how many questions to the judge are settled, and how many there are.

    Raises:
        ConfigError: an option is out of range.
        InputError: the run is of another benchmark or has no answers, a file can't be read or written, or the replies
            come from more than one model.
    """
    if concurrency < 1:
        raise ConfigError(f"{concurrency} requests at once is none; give 1 or more.")
    gate = Gate(budget_requests, budget_tokens)
    cases = _cases(run, consistency, wording)
    with replies_in(run.folder, stub=judge.identity.stub) as replies:
        session = _Session(judge, replies, gate, tell)
        session.settle([case for case in cases.cases if not case.empty], concurrency)
        part = _part(cases, session)
    part["consistency"], part["wording"] = consistency, wording
    part["answers"] = answers_digest(run.records)
    _write(run.folder / RESULTS, STUB_PART if judge.identity.stub else PART, part)
    return Judged(part, session.unfinished(part["pending"], part["judged"] + part["pending"]))


def _cases(run: Run, consistency: str, wording: str) -> Cases:
    if run.settings.benchmark != "vcgbench":
        raise InputError(f"{run.folder} is a run of {run.settings.benchmark}; a judge scores runs of vcgbench only.")
    if not run.records:
        raise InputError(f"{run.folder} holds no answers yet; run prunevid eval vcgbench --out {run.folder} first.")
    return cases_of(run.records.values(), consistency=consistency, wording=wording)


class _Session:
    """One call of `judge_run`: the threads that ask, and what stopped them."""

    def __init__(self, judge: Judge, replies: Replies, gate: Gate, tell: Tell) -> None:
        self.judge, self.replies, self.gate = judge, replies, gate
        self._tell = tell
        self._lock = threading.Lock()
        self._why: Exception | None = None
        self._reported: str | None = None
        self._done = 0

    def settle(self, cases: Sequence[Case], concurrency: int) -> None:
        """Asks until each case has a score or its three replies, or until something stops it.

        Raises:
            Exception: whatever is neither a spent budget nor a judge's failure.
        """
        by_question = {question_of(self.judge.identity, case): case for case in cases}
        for question in by_question:
            for reply in self.replies.of(question):
                self._check_model(reply)
        missing = [case for question, case in by_question.items() if not _is_settled(self.replies.of(question))]
        self._done, total = len(by_question) - len(missing), len(by_question)
        self._tell(self._done, total)
        waiting = iter(missing)
        with ThreadPoolExecutor(max(1, min(concurrency, len(missing)))) as pool:
            workers = [pool.submit(self._work, waiting, total) for _ in range(min(concurrency, len(missing)))]
            try:
                for worker in workers:
                    worker.result()
            except BaseException:  # an interrupt, say: requests under way are finished, no further one is sent
                self.gate.stop.set()
                raise
        if self._why is not None and not isinstance(self._why, (Stopped, JudgeError)):
            raise self._why

    def _work(self, waiting: Iterator[Case], total: int) -> None:
        """What each thread does: takes the next case and asks."""
        while not self.gate.stop.is_set():
            with self._lock:
                case = next(waiting, None)
            if case is None:
                return
            try:
                self._settle(case)
            except Exception as error:
                self._halt(error)
                return
            with self._lock:
                self._done += 1
                self._tell(self._done, total)

    def _settle(self, case: Case) -> None:
        question = question_of(self.judge.identity, case)
        while not _is_settled(self.replies.of(question)):
            said = self.judge.ask(case, self.gate)
            reply = kept(self.judge.identity, case, said)
            self.replies.add(reply)
            self.gate.pay(said)
            self._check_model(reply)

    def _check_model(self, reply: Kept) -> None:
        """Refuses a reply of another model than those before: an alias may come to mean another one."""
        with self._lock:
            self._reported = self._reported or reply.reported_model
            if reply.reported_model not in (None, self._reported):
                raise InputError(
                    f"The replies to {reply.model} come from two judge models, {self._reported} and "
                    f"{reply.reported_model}, whose scores can't be mixed; ask for one of them by its own name."
                )

    def _halt(self, error: Exception) -> None:
        """Keeps the first reason to stop, and stops."""
        with self._lock:
            if self._why is None:
                self._why = error
            self.gate.stop.set()

    def unfinished(self, pending: int, total: int) -> PruneVidError | None:
        """Why not everything is judged, in one sentence."""
        if not pending:
            return None
        if isinstance(self._why, JudgeError):
            return self._why
        reason = str(self._why) if isinstance(self._why, BudgetSpent) else "judging was stopped"
        return JudgeError(f"{pending} of {total} items are not judged, since {reason}; run the command again to go on.")


def _is_settled(replies: Sequence[Kept]) -> bool:
    return len(replies) >= TRIES or any(read_reply(reply.reply).reason is None for reply in replies)


def _verdict(case: Case, replies: Sequence[Kept]) -> tuple[Verdict, Sequence[Kept]]:
    """What became of a case, and the replies that this rests on."""
    if case.empty:
        return Verdict(case.aspect, case.key, 0.0, empty=True, error=case.error is not None), ()
    if not _is_settled(replies):
        return Verdict(case.aspect, case.key, None), ()
    for reply in replies:
        reading = read_reply(reply.reply)
        if reading.reason is None:
            return Verdict(case.aspect, case.key, reading.score, strict=reading.strict), replies
    return Verdict(case.aspect, case.key, 0.0, failure=read_reply(replies[-1].reply).reason), replies


def _part(cases: Cases, session: _Session) -> dict[str, Any]:
    """The scores and where they come from, as JSON types."""
    identity = session.judge.identity
    verdicts: list[Verdict] = []
    used: dict[Question, Sequence[Kept]] = {}
    for case in cases.cases:
        question = question_of(identity, case)
        verdict, rests_on = _verdict(case, session.replies.of(question))
        verdicts.append(verdict)
        used[question] = rests_on
    replies = [reply for group in used.values() for reply in group]
    part = summary(verdicts)
    return part | {
        "stub": identity.stub,
        **({"note": STUB_NOTE} if identity.stub else {}),
        "judge": _who(session, replies),
        "complete": not part["pending"] and not cases.halves,
        "incomplete_pairs": list(cases.halves),
        "replies": len(replies),
        "tokens": {
            name: sum(getattr(reply, name) or 0 for reply in replies)
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        },
        "requests_now": session.gate.requests,
        "tokens_now": session.gate.tokens,
    }


def _who(session: _Session, replies: Sequence[Kept]) -> dict[str, Any]:
    """The one judge that all replies come from."""
    identity = session.judge.identity
    dates = sorted(reply.date for reply in replies)
    return {
        "model": identity.model,
        "reported_model": next((reply.reported_model for reply in replies if reply.reported_model), None),
        "endpoint": identity.endpoint,
        "temperature": identity.temperature,
        "first": dates[0] if dates else None,
        "last": dates[-1] if dates else None,
    }


def _write(path: Path, name: str, part: Mapping[str, Any]) -> None:
    """Puts one part into results.json and leaves the others as they are."""
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}); remove it, the scores are written anew.") from error
    if not isinstance(results, dict):
        raise InputError(f"{path} does not hold the results of a run; remove it, the scores are written anew.")
    results[name] = part
    write_json(path, results)
