"""Small decisions of a worker: who is suspect, what the slot shows, which deadline holds, how an end is told."""
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from yadtq import codec
from yadtq.config import Settings
from yadtq.result_backend import Claim
from yadtq.task import TaskMessage, decode_error
from yadtq.tasks import TaskType
from yadtqd.assignment import Assignment
from yadtqd.body import Deadlines, Outcome, deadlines, run_body
from yadtqd.flights import Flight, Flights
from yadtqd.held import Held
from yadtqd.shared import Shared
from yadtqd.slot import SLOT_BYTES, Slot
from yadtqd.soft_timeout import SoftTimeout
from yadtqd.suspicion import Suspicion
from yadtqd.task_pool import TaskPool


def message(*args: Any, **fields: Any) -> TaskMessage:
    return TaskMessage(**({"id": "i", "task": "t", "args": codec.encode(list(args), limit=10_000), "submitted_ms": 0}
                          | fields))


def task_type(handler: Callable[..., Any] = lambda: None, **fields: Any) -> TaskType:
    return TaskType(**({"name": "t", "handler": handler, "kind": "sync", "module": "m"} | fields))


def call(handler: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return handler(*args, **kwargs)


def run(handler: Callable[..., Any], sent: TaskMessage | None = None, limit: int = 1000) -> Outcome:
    return run_body(task_type(handler), sent or message(), limit, call)


# ---- suspicion ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("witnessed", "named", "claim", "falls"), [
    (False, (), Claim("RUN"), False),                        # nobody claimed it before
    (False, (), Claim("RUN", suspect=True), True),           # a worker of another host, or the supervisor, died
    (True, (), Claim("RUN", suspect=True), False),           # our own died with something else in hand
    (True, ("i",), Claim("RUN", suspect=True), True),
    (True, (), Claim("RUN", suspect=True, lone=1), True),    # it ran alone, and nobody saw the end
    (True, (), Claim("RUN", seen=1), True),                  # it has crashed before
    (True, ("*",), Claim("RUN", suspect=True), True),        # it ran more than its slot could name
])
def test_suspicion(witnessed: bool, named: tuple[str, ...], claim: Claim, falls: bool) -> None:
    assert Suspicion(witnessed=witnessed, named=named).falls_on("i", claim) is falls


# ---- deadlines ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("sent", "declared", "expected"), [
    ({}, {}, (10, 15)),
    ({}, {"timeout_s": 60.0}, (60, 65)),
    ({}, {"timeout_s": 60.0, "grace_s": 1.0}, (60, 61)),
    ({"timeout_s": 2.0}, {"timeout_s": 60.0, "grace_s": 1.0}, (2, 3)),
    ({"timeout_s": 2.0, "grace_s": 0.0}, {}, (2, 2)),
    ({"timeout_s": 0.0}, {}, (0, 0)),
])
def test_the_submission_wins_over_the_type_wins_over_the_settings(
        sent: dict[str, float], declared: dict[str, float], expected: tuple[float, float]) -> None:
    settings = Settings(task_timeout=10, task_timeout_grace_s=5)
    assert deadlines(message(**sent), task_type(**declared), settings) == Deadlines(*expected)


# ---- bodies ---------------------------------------------------------------------------------------------------------
def test_a_value_is_encoded() -> None:
    sent = message(1, kwargs=codec.encode({"b": 2}, limit=100))
    assert run(lambda a, b=0: a + b, sent) == ("OK", codec.encode(3, limit=9), b"", None)


@pytest.mark.parametrize(("raised", "code"), [
    (ValueError("x"), "TASK_FAILED"), (SystemExit(1), "TASK_FAILED"), (KeyboardInterrupt(), "TASK_FAILED"),
    (GeneratorExit(), "TASK_FAILED"), (MemoryError(), "TASK_FAILED"), (SoftTimeout(), "TASK_TIMEOUT"),
])
def test_whatever_is_raised_is_an_end(raised: BaseException, code: str) -> None:
    def handler() -> None:
        raise raised

    outcome = run(handler)
    assert outcome.end == "KO"
    assert decode_error(outcome.error).code == code


def test_values_that_cant_be_stored() -> None:
    assert decode_error(run(object).error).code == "RESULT_NOT_ENCODABLE"
    too_large = decode_error(run(lambda: b"x" * 2000).error)
    assert too_large.code == "PAYLOAD_TOO_LARGE"
    assert "1,000" in too_large.message

    class Odd(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise RuntimeError("no")

    assert run(lambda: Odd([1])).end in ("OK", "KO")         # no exception escapes


@pytest.mark.parametrize("args", [b"", b"\xff", codec.encode({"a": 1}, limit=100), codec.encode(3, limit=100)])
def test_arguments_that_are_none(args: bytes) -> None:
    sent = TaskMessage(id="i", task="t", args=args, submitted_ms=0)
    assert decode_error(run(lambda: 1, sent).error).code == "INVALID_MESSAGE"


def test_arguments_that_do_not_fit_the_signature() -> None:
    def handler(a: int) -> int:
        return a

    assert decode_error(run(handler, message(1, 2)).error).code == "TASK_ARGUMENT_ERROR"
    assert decode_error(run(lambda: len(5), None).error).code == "TASK_FAILED"   # type: ignore[arg-type]


# ---- what the slot shows --------------------------------------------------------------------------------------------
def test_the_slot_shows_the_flight_that_must_land_first() -> None:
    slot = Slot(0, memoryview(bytearray(SLOT_BYTES)))
    several: list[bool] = []
    flights = Flights(slot, several.append)

    def flight(task_id: str, hard_ns: int) -> Flight:
        return Flight(Held(0, 0, message(id=task_id), 1), 1, 1, hard_ns)

    def shown() -> str | None:
        task = slot.read().task
        return task and task.task_id

    a = flights.begin(flight("a", 0))
    b = flights.begin(flight("b", 200))
    c = flights.begin(flight("c", 100))
    assert shown() == "c"
    flights.take_slot()                              # the main thread runs one itself
    slot.begin(1, "own", "t", 0, 0, 1, 0, 0)
    flights.end(c)
    assert shown() == "own"
    slot.end()
    flights.give_slot_back()
    assert shown() == "b"
    flights.end(b)
    assert shown() == "a"
    assert several == [True]                         # told once, and again when nothing runs beside any more
    flights.end(a)
    assert shown() is None
    assert several == [True, False]


def test_a_pool_runs_no_more_than_it_has_threads() -> None:
    slot = Slot(0, memoryview(bytearray(SLOT_BYTES)))
    flights = Flights(slot, lambda _: None)
    running, most, lock, go = 0, 0, threading.Lock(), threading.Semaphore(0)
    ends: list[Outcome] = []

    def handler() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.acquire()
        with lock:
            running -= 1
        return 1

    pool = TaskPool(3, flights, 1000, lambda held, outcome, *_: ends.append(outcome), lambda: None)
    feeder = threading.Thread(target=lambda: [pool.run(Held(0, n, message(), 1), task_type(handler), Deadlines(0, 0))
                                              for n in range(9)])
    feeder.start()
    for _ in range(9):
        go.release()
    feeder.join(10)
    assert not feeder.is_alive()
    while len(ends) < 9:
        pass
    assert 1 <= most <= 3
    assert [outcome.end for outcome in ends] == ["OK"] * 9
    assert len(flights) == 0


# ---- ownership ------------------------------------------------------------------------------------------------------
def test_a_hand_over_in_order() -> None:
    shared = Shared.create(4, 8)
    try:
        table, assignment = shared.partitions, Assignment(shared)
        assignment.give([1, 2])
        assert assignment.to_look_up() == [1, 2]
        assert table.owned() == ()
        assignment.begin({1: 7}, continues=False)
        assignment.begin({2: 0}, continues=False)
        assert table.owned() == (1, 2)
        assert (table[1].committed, table[1].generation) == (7, 1)
        table[1].worker, table[1].epoch, table[1].watermark = 3, 9, 12
        assert assignment.to_commit() == {1: 12}
        assignment.committed({1: 12})
        assert assignment.to_commit() == {}
        assert assignment.to_commit(all_of_them=True) == {1: 12}
        table[1].watermark = 15
        assignment.take([1], lost=False)
        assert table.owned() == (2,)
        assert assignment.leaving
        assert assignment.reaped() == {}             # its worker lives
        table[1].worker = 0
        assert assignment.reaped() == {1: 15}
        assignment.left(1)
        assert not assignment.leaving
        assert table[1].watermark == table[1].epoch == 0
    finally:
        shared.close()


def test_what_was_lost_is_not_committed_and_comes_back_anew() -> None:
    shared = Shared.create(4, 8)
    try:
        table, assignment = shared.partitions, Assignment(shared)
        assignment.give([1])
        assignment.begin({1: 0}, continues=False)
        table[1].worker, table[1].watermark = 3, 5
        assignment.take([1], lost=True)
        assignment.give([1])                         # given back before its old worker was reaped
        assert assignment.to_look_up() == []
        assert not assignment.leaving                # the group need not wait: others may have it already
        table[1].worker = 0
        assert assignment.reaped() == {1: 0}
        assignment.left(1)
        assert assignment.to_look_up() == [1]
        assignment.begin({1: 40}, continues=True)
        assert (table[1].generation, table[1].committed, table[1].watermark) == (2, 40, 0)
    finally:
        shared.close()


def test_a_new_membership_goes_on_with_what_it_finds() -> None:
    shared = Shared.create(4, 8)
    try:
        table = shared.partitions
        for p in (1, 2):
            table[p].owned, table[p].generation, table[p].committed, table[p].watermark = 1, 4, 10, 20
        assignment = Assignment(shared)
        assignment.give([1])
        assignment.begin({1: 10}, continues=True)
        assert (table[1].generation, table[1].watermark) == (4, 20)
        assignment.joined()                          # 2 was not given to us
        assert table.owned() == (1,)
        assert shared.joined == 1
        assert assignment.reaped() == {2: 0}
    finally:
        shared.close()
