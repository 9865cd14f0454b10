# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: one job at a time in a thread, a bounded queue that is fair between clients.

Nothing here knows models or HTTP. A job is a function that gets its `Job` and calls `job.check()` now and then; it is
stopped by setting a flag, never by force. Whoever waits for a job hears of it through a callback, from any thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid.serve.refusals import Refusal, busy, closing, gone, internal, too_many, too_slow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """The job waits; `ahead` jobs come before it (the running one included)."""

    ahead: int


@dataclass(frozen=True)
class Started:
    """The job's turn has come."""


@dataclass(frozen=True)
class Piece:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Done:
    """The job is done; nothing comes after this."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The job has failed or was stopped; nothing comes after this."""

    refusal: Refusal


Event = Waiting | Started | Piece | Done | Failed


class Place:
    """A place in the queue for one request of one client, taken before its body is read; released once."""

    def __init__(self, worker: Worker, client: str) -> None:
        self.client = client
        self._worker: Worker | None = worker

    def release(self) -> None:
        """Gives the place back; a second call does nothing."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker._release(self.client)

    @property
    def held(self) -> bool:
        """Whether the place is still taken."""
        return self._worker is not None


class Job:
    """One piece of work, from its place in the queue to its end.

    Attributes:
        client: who asked.
        stopped: set when the work shall end early; the work looks at it after every token.
    """

    def __init__(self, place: Place, run: Callable[[Job], Any], hear: Callable[[Event], None]) -> None:
        self.client = place.client
        self.stopped = threading.Event()
        self._place = place
        self._run = run
        self._hear = hear
        self._lock = threading.Lock()
        self._ended = False
        self._reason: Refusal | None = None
        self._ahead: int | None = None

    @property
    def ended(self) -> bool:
        """Whether `Done` or `Failed` was told."""
        return self._ended

    def check(self) -> None:
        """Raises the reason if the job shall end.

        Raises:
            Refusal: it was cancelled, took too long, or the server stops.
        """
        if self.stopped.is_set():
            raise self._reason or gone()

    def say(self, text: str) -> None:
        """Tells a piece of the answer."""
        if text:
            self._tell(Piece(text))

    def _tell(self, event: Event) -> None:
        """Tells an event, unless the last one was told already."""
        with self._lock:
            if self._ended:
                return
            self._ended = isinstance(event, (Done, Failed))
            # Under the lock, so that nothing can come after the end. Listeners only pass the event on.
            try:
                self._hear(event)
            except Exception:
                _log.debug("Nobody listens to a job any more.", exc_info=True)

    def _tell_ahead(self, ahead: int) -> None:
        if ahead != self._ahead:
            self._ahead = ahead
            self._tell(Waiting(ahead))

    def _stop(self, reason: Refusal) -> None:
        """Makes the work end, and tells the reason at once, however long the work takes to notice."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        self.stopped.set()
        self._tell(Failed(self._reason or reason))


class Worker:
    """Runs jobs one after the other in a thread of its own.

    Clients take turns: each turn runs the oldest job of the client whose last turn is longest ago. So a client with
    many jobs delays another one by one job at most.

    Args:
        max_queue: places beside the one that is running: jobs that wait, and requests that still send their body.
        max_per_client: places that one client may have, the running one included.
        seconds: time limit of a job, from its turn on.
        timer: makes the timer of that limit, as `threading.Timer` does.
    """

    def __init__(
        self,
        max_queue: int = 16,
        max_per_client: int = 4,
        seconds: float = 120.0,
        timer: Callable[[float, Callable[[], None]], Any] = threading.Timer,
    ) -> None:
        self.max_queue, self.max_per_client, self.seconds = max_queue, max_per_client, seconds
        self._timer = timer
        self._change = threading.Condition()
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()
        self._places: dict[str, int] = {}
        self._running: Job | None = None
        self._closed = False
        self._mean = 1.0  # seconds of a job, a running mean
        self._thread: threading.Thread | None = None

    # ---- what can be seen ----------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        with self._change:
            return sum(len(jobs) for jobs in self._queues.values())

    @property
    def running(self) -> int:
        """1 while a job runs, else 0."""
        return int(self._running is not None)

    @property
    def places(self) -> int:
        """Places that are taken."""
        with self._change:
            return sum(self._places.values())

    # ---- places --------------------------------------------------------------------------------------------------

    def reserve(self, client: str) -> Place:
        """Takes a place for a request.

        Args:
            client: who asks; turns are shared between clients.

        Raises:
            Refusal: 429 where this client has too many, 503 where all are taken or the worker is closed.
        """
        with self._change:
            if self._closed:
                raise closing()
            if self._places.get(client, 0) >= self.max_per_client:
                raise too_many(
                    f"You have {self.max_per_client} requests open, the most for a client; wait for one of them.",
                    self._wait(self.max_per_client),
                )
            taken = sum(self._places.values())
            if taken >= self.max_queue + 1:
                raise busy(f"The queue is full ({taken} requests); try again later.", self._wait(taken))
            self._places[client] = self._places.get(client, 0) + 1
            return Place(self, client)

    def _release(self, client: str) -> None:
        with self._change:
            left = self._places.get(client, 0) - 1
            if left > 0:
                self._places[client] = left
            else:
                self._places.pop(client, None)

    def _wait(self, jobs: int) -> int:
        """Whole seconds until so many jobs are done, as far as one can tell."""
        return max(1, min(math.ceil(jobs * self._mean), 600))

    # ---- jobs ----------------------------------------------------------------------------------------------------

    def submit(self, place: Place, run: Callable[[Job], Any], hear: Callable[[Event], None]) -> Job:
        """Queues a job in a place; the place is released when the job has ended.

        Args:
            place: from `reserve`.
            run: the work; its result is told as `Done`. A `Refusal` that it raises is told as `Failed`, any other
                error as one of status 500, with its traceback in the log.
            hear: is told every event, under a lock: it must only pass it on.

        Raises:
            Refusal: 503: the worker is closed. The place is released.
            ValueError: the place was released already.
        """
        if not place.held:
            raise ValueError("The place was released; reserve one for each job.")
        job = Job(place, run, hear)
        with self._change:
            if self._closed:
                place.release()
                raise closing()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="prunevid-worker", daemon=True)
                self._thread.start()
            self._queues.setdefault(place.client, deque()).append(job)
            self._tell_positions()
            self._change.notify_all()
        return job

    def cancel(self, job: Job, reason: Refusal | None = None) -> None:
        """Ends a job early: one that waits never runs, one that runs is asked to stop. Nothing happens after its end.

        Args:
            reason: what is told; by default that the client went away.
        """
        with self._change:
            waiting = self._queues.get(job.client)
            if waiting is not None and job in waiting:
                waiting.remove(job)
                if not waiting:
                    del self._queues[job.client]
                job._place.release()
                self._tell_positions()
        job._stop(reason or gone())

    def close(self, timeout: float | None = 30.0) -> None:
        """Refuses new jobs, ends those that wait (503), stops the running one and waits for the thread.

        Args:
            timeout: seconds to wait, at most.
        """
        with self._change:
            self._closed = True
            waiting = [job for jobs in self._queues.values() for job in jobs]
            self._queues.clear()
            running = self._running
            self._change.notify_all()
        for job in waiting:
            job._place.release()
            job._stop(closing())
        if running is not None:
            running._stop(closing())
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _order(self) -> list[Job]:
        """The jobs that wait in the order in which they will run."""
        turns = [deque(jobs) for jobs in self._queues.values()]
        order = []
        while turns:
            order += [jobs.popleft() for jobs in turns]
            turns = [jobs for jobs in turns if jobs]
        return order

    def _tell_positions(self) -> None:
        for ahead, job in enumerate(self._order(), start=self.running):
            job._tell_ahead(ahead)

    def _next(self) -> Job | None:
        """The next job, when there is one; None when the worker is closed."""
        with self._change:
            while not self._queues:
                if self._closed:
                    return None
                self._change.wait()
            client, jobs = self._queues.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._queues[client] = jobs  # at the end: everybody else comes first
            self._running = job
            self._tell_positions()
            return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            began = time.monotonic()
            try:
                self._do(job)
            finally:
                with self._change:
                    self._running = None
                    self._mean += 0.2 * (time.monotonic() - began - self._mean)
                    self._tell_positions()

    def _do(self, job: Job) -> None:
        """Runs one job under its time limit and tells how it ended."""
        timer = self._timer(self.seconds, lambda: job._stop(too_slow(self.seconds)))
        timer.daemon = True
        timer.start()
        last: Event
        try:
            job._tell(Started())
            job.check()
            result = job._run(job)
            job.check()
            last = Done(result)
        except Refusal as refusal:
            last = Failed(refusal)
        except BaseException:
            _log.exception("A job failed.")
            last = Failed(internal())
        finally:
            timer.cancel()
        job._place.release()  # before the end is told, so that who hears of it finds the place free
        job._tell(last)
