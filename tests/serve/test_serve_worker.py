# SPDX-License-Identifier: Apache-2.0
"""The queue: fairness, bounds, cancelling, the time limit, closing. Events decide, never a clock."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prunevid.serve.refusals import Refusal
from prunevid.serve.worker import Done, Event, Failed, Job, Piece, Started, Waiting, Worker

PATIENCE = 120.0  # seconds after which a test is stuck


class Ear:
    """Hears a job."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)
        self.events.put(event)

    def until(self, *kinds: type) -> Event:
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, kinds):
                return event


class Gate:
    """Work that starts, and then waits for a permission or a stop."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        self.go = threading.Event()
        self.steps = 0

    def __call__(self, job: Job) -> str:
        self.log.append(self.name)
        while not self.go.wait(0.001):
            job.check()
            self.steps += 1
        return self.name


class Clock:
    """Timers that run out when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Clock.Timer] = []

    class Timer:
        daemon = False

        def __init__(self, seconds: float, call: Callable[[], None]) -> None:
            self.seconds, self.call, self.state = seconds, call, "made"

        def start(self) -> None:
            self.state = "running"

        def cancel(self) -> None:
            self.state = "cancelled"

    def __call__(self, seconds: float, call: Callable[[], None]) -> Any:
        self.timers.append(Clock.Timer(seconds, call))
        return self.timers[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worker(clock: Clock) -> Iterator[Worker]:
    made = Worker(max_queue=5, max_per_client=3, seconds=7.0, timer=clock)
    yield made
    made.close(PATIENCE)
    assert made._thread is None or not made._thread.is_alive()


def put(worker: Worker, client: str, work: Callable[[Job], Any]) -> tuple[Job, Ear]:
    ear = Ear()
    return worker.submit(worker.reserve(client), work, ear), ear


def test_a_job_is_told_from_start_to_end(worker: Worker) -> None:
    def work(job: Job) -> int:
        job.say("a")
        job.say("")
        job.say("b")
        return 3

    _, ear = put(worker, "x", work)
    assert ear.until(Done) == Done(3)
    told = [event for event in ear.heard if not isinstance(event, Waiting)]
    assert told == [Started(), Piece("a"), Piece("b"), Done(3)]
    assert worker.places == 0


def test_clients_take_turns_and_know_their_positions(worker: Worker) -> None:
    log: list[str] = []
    gates = {name: Gate(log, name) for name in ("a0", "a1", "a2", "b0", "b1", "c0")}
    ears = {}
    for name, gate in gates.items():
        ears[name] = put(worker, name[0], gate)[1]
        if name == "a0":
            ears[name].until(Started)
    expected = ["a0", "a1", "b0", "c0", "a2", "b1"]
    last = {name: [e.ahead for e in ear.heard if isinstance(e, Waiting)][-1] for name, ear in ears.items()}
    assert {name: last[name] for name in expected[1:]} == dict(zip(expected[1:], range(1, 6)))
    for name in expected:
        gates[name].go.set()
        assert ears[name].until(Done, Failed) == Done(name)
    assert log == expected


def test_a_client_that_asks_again_at_once_goes_behind_the_others(worker: Worker) -> None:
    log: list[str] = []
    first, other, again = Gate(log, "first"), Gate(log, "other"), Gate(log, "again")
    _, ear = put(worker, "greedy", first)
    ear.until(Started)
    _, second = put(worker, "patient", other)
    _, third = put(worker, "greedy", again)
    for gate in (first, other, again):
        gate.go.set()
    second.until(Done)
    third.until(Done)
    assert log == ["first", "other", "again"]


@pytest.mark.parametrize(
    ("clients", "status"), [(["a"] * 4, 429), (["a", "b", "c", "d", "e", "f", "g"], 503)], ids=["client", "queue"]
)
def test_places_are_bounded_also_before_a_job_is_there(worker: Worker, clients: list[str], status: int) -> None:
    places = [worker.reserve(client) for client in clients[:-1]]
    with pytest.raises(Refusal) as caught:
        worker.reserve(clients[-1])
    assert caught.value.status == status
    assert caught.value.retry_after and caught.value.retry_after >= 1
    places[0].release()
    places[0].release()  # once is enough
    worker.reserve(clients[-1])
    with pytest.raises(Refusal):
        worker.reserve(clients[-1])
    with pytest.raises(ValueError, match="released"):
        worker.submit(places[0], lambda job: None, Ear())


def test_a_waiting_job_that_is_cancelled_never_runs(worker: Worker) -> None:
    log: list[str] = []
    gate = Gate(log, "running")
    put(worker, "a", gate)[1].until(Started)
    job, ear = put(worker, "a", Gate(log, "cancelled"))
    _, behind = put(worker, "a", lambda job: log.append("behind"))
    worker.cancel(job)
    assert ear.until(Failed, Done).refusal.status == 499  # type: ignore[union-attr]
    assert worker.queued == 1 and worker.places == 2
    assert [event.ahead for event in behind.heard if isinstance(event, Waiting)] == [2, 1]
    gate.go.set()
    behind.until(Done)
    assert log == ["running", "behind"]


def test_a_running_job_that_is_cancelled_stops_and_frees_its_place(worker: Worker) -> None:
    gate = Gate([], "x")
    job, ear = put(worker, "a", gate)
    ear.until(Started)
    worker.cancel(job)
    assert isinstance(ear.until(Failed, Done), Failed)
    _, after = put(worker, "a", lambda job: worker.running)
    assert after.until(Done) == Done(1)
    steps = gate.steps
    worker.cancel(job)
    assert gate.steps == steps
    assert sum(isinstance(event, (Done, Failed)) for event in ear.heard) == 1


def test_the_time_limit_is_told_at_once_and_stops_the_work(worker: Worker, clock: Clock) -> None:
    stuck = threading.Event()

    def deaf(job: Job) -> str:
        stuck.wait(PATIENCE)  # a long step that looks at nothing
        return "too late"

    _, ear = put(worker, "a", deaf)
    ear.until(Started)
    (timer,) = clock.timers
    assert (timer.seconds, timer.state) == (7.0, "running")
    timer.call()
    assert ear.until(Failed).refusal.status == 504  # type: ignore[union-attr]
    assert worker.running == 1  # the device is busy until the step is over
    stuck.set()
    put(worker, "b", lambda job: 1)[1].until(Done)
    assert timer.state == "cancelled"
    assert isinstance(ear.heard[-1], Failed)


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [(Refusal(422, "No.", "x"), 422, "No."), (RuntimeError("/secret/path"), 500, "The server failed")],
)
def test_errors_of_the_work(
    worker: Worker, error: Exception, status: int, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work(job: Job) -> None:
        raise error

    _, ear = put(worker, "a", work)
    refusal = ear.until(Failed).refusal  # type: ignore[union-attr]
    assert refusal.status == status and str(refusal).startswith(shown) and "secret" not in str(refusal)
    assert ("/secret/path" in caplog.text) == (status == 500)
    assert put(worker, "a", lambda job: 2)[1].until(Done) == Done(2)  # the thread lives on


def test_a_listener_that_fails_harms_nobody(worker: Worker) -> None:
    def deaf(event: Event) -> None:
        raise RuntimeError("gone")

    worker.submit(worker.reserve("a"), lambda job: job.say("x"), deaf)
    assert put(worker, "b", lambda job: 2)[1].until(Done) == Done(2)
    assert worker.places == 0


def test_closing_stops_what_runs_and_refuses_what_waits() -> None:
    worker = Worker(max_queue=5, max_per_client=5)
    gate = Gate([], "x")
    _, running = put(worker, "a", gate)
    running.until(Started)
    _, waiting = put(worker, "a", gate)
    place = worker.reserve("b")
    worker.close(PATIENCE)
    assert [ear.until(Done, Failed).refusal.status for ear in (running, waiting)] == [503, 503]  # type: ignore[union-attr]
    assert worker._thread is not None and not worker._thread.is_alive()
    with pytest.raises(Refusal, match="shutting down"):
        worker.reserve("b")
    with pytest.raises(Refusal, match="shutting down"):
        worker.submit(place, lambda job: None, Ear())
    assert worker.places == 0
