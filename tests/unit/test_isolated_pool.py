"""Isolated attempts of one worker: how many at once, in which order, and what must not run beside a suspect."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.role_host import until
from yadtq import codec
from yadtq.task import TaskMessage
from yadtq.tasks import TaskType
from yadtqd.body import Deadlines, Outcome
from yadtqd.flights import Flight, Flights
from yadtqd.held import Held
from yadtqd.isolated_pool import ASYNC_SUSPECTS, IsolatedPool, places
from yadtqd.slot import SLOT_BYTES, Slot

OK = Outcome("OK", codec.encode(1, limit=99))
PLAIN = TaskType("t", lambda: 1, "sync", "m", isolated=True)
COROUTINE = TaskType("t", lambda: 1, "async", "m")
NO_LIMIT = Deadlines(0, 0)


def held(task_id: str, *, suspect: bool = False) -> Held:
    one = Held(0, 0, TaskMessage(id=task_id, task="t", args=codec.encode([], limit=99), submitted_ms=0), 1)
    one.suspect = suspect
    return one


class World:
    """A pool whose attempts last until they are let go; `began` and `ended` are ids in order."""

    def __init__(self, places: int) -> None:
        self.slot = Slot(0, memoryview(bytearray(SLOT_BYTES)))
        self.several: list[bool] = []
        self.flights = Flights(self.slot, self.several.append)
        self.began: list[str] = []
        self.ended: list[str] = []
        self.again: list[str] = []
        self.may_begin = True
        self.connections = 0
        self._go: dict[str, tuple[threading.Event, list[Outcome | None]]] = {}
        self.pool = IsolatedPool(places, self.isolation, self.flights, lambda h, *_: self.ended.append(h.message.id),
                                 lambda batch: self.again.extend(h.message.id for h in batch), lambda: None,
                                 lambda _: self.may_begin)

    def isolation(self) -> Any:
        self.connections += 1
        return self

    def run(self, one: Held, *_: Any) -> Outcome | None:
        self.began.append(one.message.id)
        event, outcome = self._go.setdefault(one.message.id, (threading.Event(), []))
        event.wait(20)
        return outcome[0] if outcome else OK

    def let_go(self, task_id: str, outcome: Outcome | None = OK) -> None:
        event, given = self._go.setdefault(task_id, (threading.Event(), []))
        given.append(outcome)
        event.set()

    def start(self, one: Held, kind: TaskType = PLAIN) -> threading.Thread:
        """As the main thread would, which waits for room."""
        thread = threading.Thread(target=self.pool.run, args=(one, kind, NO_LIMIT), daemon=True)
        thread.start()
        return thread


@pytest.fixture
def world() -> Iterator[Callable[[int], World]]:
    made: list[World] = []

    def make(count: int) -> World:
        made.append(World(count))
        return made[-1]
    yield make
    for one in made:
        for task_id in list(one.began):
            one.let_go(task_id)


def test_several_run_at_once_and_the_next_waits_for_room(world: Callable[[int], World]) -> None:
    one = world(2)
    for task_id in ("a", "b"):
        one.start(held(task_id)).join(10)
    waiting = one.start(held("c"))
    until(lambda: one.began == ["a", "b"], "two")
    waiting.join(0.3)
    assert waiting.is_alive()
    assert one.flights.apart == 2
    one.let_go("b")
    until(lambda: one.began == ["a", "b", "c"], "the third")
    one.let_go("a")
    one.let_go("c", None)                   # no outcome: the worker ends, or the claim was lost
    until(lambda: one.again == ["c"], "the claim")
    until(lambda: not len(one.flights), "the end")
    assert sorted(one.ended) == ["a", "b"]
    assert one.connections == 2             # one each, used again
    assert one.several == []                # no death of this process is theirs: nobody else is suspect for them


def test_what_may_not_begin_any_more_does_not_wait_for_ever(world: Callable[[int], World]) -> None:
    one = world(1)
    assert one.pool.run(held("a"), PLAIN, NO_LIMIT)
    one.may_begin = False
    assert not one.pool.run(held("b"), PLAIN, NO_LIMIT)
    assert one.flights.apart == 1


def test_a_suspect_waits_until_nothing_runs_in_this_process(world: Callable[[int], World]) -> None:
    one = world(4)
    number = one.flights.begin(Flight(held("thread"), 0, 0, 0))
    assert one.several == [True]
    one.start(held("innocent")).join(10)    # apart: no barrier for it
    waiting = one.start(held("suspect", suspect=True))
    waiting.join(0.3)
    assert waiting.is_alive()
    assert one.began == ["innocent"]
    one.flights.end(number)
    until(lambda: one.began == ["innocent", "suspect"], "the suspect")
    assert one.flights.bars(suspect=False)  # and nothing begins in this process until it has ended
    assert not one.flights.bars(suspect=True)
    one.let_go("suspect")
    until(lambda: not one.flights.bars(suspect=False), "the end of the barrier")


def test_once_nobody_saw_its_end_a_suspect_runs_with_nothing_beside_it(world: Callable[[int], World]) -> None:
    """What takes the host or the isolator down would else count against all that run beside it, as often as it does."""
    one = world(4)
    one.start(held("first", suspect=True)).join(10)
    again = held("again", suspect=True)
    again.lone = 1
    waiting = one.start(again)
    waiting.join(0.3)
    assert one.began == ["first"]
    one.let_go("first")
    until(lambda: one.began == ["first", "again"], "its turn")
    waiting.join(10)
    behind = one.start(held("behind"))
    behind.join(0.3)
    assert one.began == ["first", "again"], "nor does anything begin beside it"
    one.let_go("again")
    until(lambda: one.began == ["first", "again", "behind"], "the end of it")
    behind.join(10)


def test_suspects_that_are_coroutines_do_not_wait_in_line(world: Callable[[int], World]) -> None:
    """A worker that died with 256 of them in hand leaves 256 suspects, which would take their sum one by one."""
    one = world(1)
    for n in range(ASYNC_SUSPECTS):
        one.start(held(f"{n}", suspect=True), COROUTINE).join(10)
    until(lambda: len(one.began) == ASYNC_SUSPECTS, "all of them")


def test_the_slot_shows_what_can_kill_this_process_first(world: Callable[[int], World]) -> None:
    one = world(2)
    one.start(held("apart")).join(10)
    seen = one.slot.read().task
    assert seen is not None
    assert (seen.task_id, seen.hard_ns) == ("apart", 0)
    number = one.flights.begin(Flight(held("thread"), 0, 0, 0))
    seen = one.slot.read().task
    assert seen is not None
    assert seen.task_id == "thread"
    shown = one.flights.shown()
    assert shown is not None
    assert shown[0].message.id == "thread"
    one.flights.end(number)


@pytest.mark.parametrize(("concurrency", "workers", "cpus", "wanted"), [
    (0, 4, 8, 2), (0, 4, 2, 1), (0, 1, 2, 2), (0, 0, 4, 4), (3, 4, 2, 3), (0, 3, 8, 2)])
def test_places(concurrency: int, workers: int, cpus: int, wanted: int) -> None:
    assert places(concurrency, workers, cpus) == wanted
    assert places(0, 1) >= 1
