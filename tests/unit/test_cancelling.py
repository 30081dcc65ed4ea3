"""What a cancel does inside a worker: the interrupt in the main thread, the scope on the loop, the slot, the asking."""
from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from yadtq.config import Settings
from yadtq.errors import RedisConnectionError
from yadtq.running import Cancelled, CurrentTask, SoftTimeout, current_task, enter, leave
from yadtq.task import TaskMessage, new_task_id
from yadtq.tasks import TaskType
from yadtqd.async_runner import CancelScope, run_coroutine
from yadtqd.body import CANCELLED
from yadtqd.cancelling import ASK_AHEAD, ASK_S, Canceller
from yadtqd.flights import Flight, Flights
from yadtqd.held import Held
from yadtqd.shared import Shared
from yadtqd.slot import Slot
from yadtqd.soft_timeout import Guard


def message(task: str = "t") -> TaskMessage:
    return TaskMessage(id=new_task_id(), task=task, args=b"\x90", submitted_ms=1, group="g", grace_s=2.0)


def held(task: str = "t") -> Held:
    return Held(0, 7, message(task), 10)


@pytest.fixture
def slot() -> Slot:
    return Shared.create(n_slots=1, n_partitions=1).slot(0)


# ---- the main thread -------------------------------------------------------------------------------------------------
@pytest.fixture
def guard(slot: Slot) -> Iterator[Guard]:
    kept = [(s, signal.getsignal(s)) for s in (signal.SIGUSR1, signal.SIGALRM)]
    guard = Guard(slot)
    guard.install()
    yield guard
    for signum, handler in kept:
        signal.signal(signum, handler)


def test_another_thread_interrupts_the_handler_and_no_other(slot: Slot, guard: Guard) -> None:
    def run(number: int, cancel: int) -> str:
        slot.begin(number, "id", "t", 0, number, time.monotonic_ns(), 0, 0)
        threading.Timer(0.1, guard.cancel, (cancel, time.monotonic_ns())).start()
        try:
            guard.call(number, 0.0, time.sleep, [0.6], {})
        except (Cancelled, SoftTimeout) as error:
            return type(error).__name__
        finally:
            slot.end()
        return "slept"

    assert run(1, cancel=2) == "slept"
    assert run(3, cancel=2) == "slept"
    assert (guard.fired, guard.cancelled) == (False, False)
    assert run(4, cancel=4) == "Cancelled"
    assert (guard.fired, guard.cancelled) == (True, True)


def test_the_slot_shows_the_earlier_of_two_hard_deadlines(slot: Slot) -> None:
    slot.begin(5, "id", "t", 0, 1, 1, 0, 900)
    slot.cancel_hard_ns, slot.cancel_for = 400, 4
    task = slot.read().task
    assert task is not None
    assert (task.hard_ns, task.cancelled) == (900, False)       # another task's
    slot.cancel_for = 5
    task = slot.read().task
    assert task is not None
    assert (task.hard_ns, task.cancelled) == (400, True)
    slot.cancel_hard_ns = 1000
    task = slot.read().task
    assert task is not None
    assert (task.hard_ns, task.cancelled) == (900, False)       # it times out before


# ---- the loop --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["before", "while", "after"])
@pytest.mark.parametrize("swallow", [False, True])
def test_a_scope_cancels_one_coroutine(when: str, swallow: bool) -> None:
    ran: list[str] = []

    async def handler() -> str:
        ran.append("begun")
        try:
            await asyncio.sleep(0.3)
        except asyncio.CancelledError:
            ran.append("told")
            if not swallow:
                raise
        return "done"

    async def run() -> Any:
        scope = CancelScope()
        if when == "before":
            scope.cancel()
        elif when == "while":
            asyncio.get_running_loop().call_later(0.05, scope.cancel)
        outcome = await run_coroutine(TaskType(name="t", handler=handler, kind="async", module="m"), message(), 1000,
                                      0.0, scope)
        scope.cancel()
        return outcome

    outcome = asyncio.run(run())
    if when == "after":
        assert (outcome.end, ran) == ("OK", ["begun"])
    else:
        assert outcome == CANCELLED
        assert ran == ([] if when == "before" else ["begun", "told"])


# ---- several at once -------------------------------------------------------------------------------------------------
def test_a_cancelled_flight_is_the_one_that_the_slot_shows(slot: Slot) -> None:
    flights = Flights(slot, lambda _: None)
    told: list[str] = []
    soon, late, apart = held(), held(), held()
    flights.begin(Flight(soon, 1, 1, 500))
    number = flights.begin(Flight(late, 2, 1, 0, lambda: told.append("late")))
    flights.begin(Flight(apart, 3, 1, 0, apart=True))
    flights.cancel(late, 300)
    task = slot.read().task
    assert task is not None
    assert (task.n, task.hard_ns, told) == (number, 300, ["late"])
    flights.cancel(apart, 100)                                  # killing this worker would not end it
    flights.cancel(held(), 100)
    assert cast("Any", slot.read().task).hard_ns == 300
    flights.cancel(soon, 900)
    assert {flight.hard_ns for flight in flights.running()} == {0, 300, 500}


# ---- asking ----------------------------------------------------------------------------------------------------------
class Played:
    """Backend, gate, registry, processor and flights of a canceller, as far as it meets them."""

    def __init__(self) -> None:
        self.wished: set[str] = set()
        self.asked: list[int] = []
        self.cancelled: list[tuple[Held, int]] = []
        self.is_open, self.away = True, False

    def cancel_asked(self, ids: list[str]) -> list[bool]:
        self.asked.append(len(ids))
        if self.away:
            raise RedisConnectionError("away")
        return [one in self.wished for one in ids]

    def close(self, error: RedisConnectionError) -> None:
        self.is_open = False

    def get(self, name: str) -> TaskType:
        return TaskType(name=name, handler=print, kind="sync", module="m")

    def cancel(self, one: Held, hard_ns: int) -> None:
        self.cancelled.append((one, hard_ns))


def canceller(played: Played) -> Canceller:
    any_: Any = played
    return Canceller(Settings(), any_, any_, any_, any_, any_)


def test_what_runs_is_asked_for_together_now_and_then_and_told_once() -> None:
    played, running = Played(), [held() for _ in range(3)]
    one = canceller(played)
    one.look(running, 10.0)
    one.look(running, 10.0 + ASK_S / 2)
    assert played.asked == [3]
    played.wished.add(running[1].message.id)
    before_ns = time.monotonic_ns()
    one.look(running, 10.0 + ASK_S)
    one.look(running, 11.0)
    assert played.asked == [3, 3, 2]
    assert [held.cancelled for held in running] == [False, True, False]
    assert [told for told, _ in played.cancelled] == [running[1]] * 2       # by the main thread, or beside it
    assert played.cancelled[0][1] >= before_ns + 2_000_000_000              # its own grace
    one.look([], 20.0)
    assert played.asked == [3, 3, 2]


def test_what_waits_is_asked_for_in_bounded_numbers_and_begins_when_redis_is_away() -> None:
    played, batch = Played(), [held() for _ in range(ASK_AHEAD + 5)]
    one = canceller(played)
    played.wished.add(batch[2].message.id)
    one.unwanted(batch, 17)
    assert played.asked == [ASK_AHEAD]
    assert [held.cancelled for held in batch].count(True) == 1
    assert {held.looked_ns for held in batch[:ASK_AHEAD]} == {17}
    assert batch[ASK_AHEAD].looked_ns == 0
    played.away = True
    one.unwanted(batch[:3], 18)
    assert (batch[2].cancelled, batch[1].cancelled, played.is_open) == (True, False, False)
    one.unwanted(batch[:3], 19)                                             # not asked: it is known to be away
    assert played.asked == [ASK_AHEAD, 3]


# ---- what a handler sees ---------------------------------------------------------------------------------------------
def test_a_handler_sees_its_task_and_a_plain_call_none() -> None:
    mine = held()
    token = enter(mine)
    now = current_task()
    assert (now.id, now.name, now.attempt, now.group) == (mine.message.id, "t", 0, "g")
    now.raise_if_cancelled()
    mine.cancelled = True
    assert now.cancel_requested
    with pytest.raises(Cancelled):
        now.raise_if_cancelled()
    leave(token)
    nobody: CurrentTask = current_task()
    nobody.raise_if_cancelled()
    assert (nobody.id, nobody.name, nobody.attempt, nobody.group, nobody.cancel_requested) == ("", "", 0, None, False)
