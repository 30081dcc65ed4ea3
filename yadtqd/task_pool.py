"""A pool of threads for sync handlers, when `worker_threads` is above 1.

The main thread hands a task over only when a thread is free, so nothing waits in here; after that wait it asks again
whether the task may begin. A soft time-out can't interrupt a thread that waits in a system call, so there is none in a
pool: the hard one holds, by the supervisor. A cancel is a flag that the handler may look at, and then the same.
"""
from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from yadtq.log import context
from yadtq.running import enter
from yadtqd.body import Deadlines, Outcome, run_body
from yadtqd.exits import Exit
from yadtqd.flights import Flight, Flights
from yadtqd.worker_exit import end_now

if TYPE_CHECKING:
    from yadtq.tasks import TaskType
    from yadtqd.held import Held

log = logging.getLogger(__name__)

LOOK_S = 0.1                # while no thread is free
End = Callable[["Held", Outcome, int, int, int], None]     # held, outcome, started_ms, ended_ms, now_ns


def always(_: Held) -> bool:
    """Every task may begin."""
    return True


def _call(handler: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return handler(*args, **kwargs)


class TaskPool:
    """`end` gets each outcome, from the thread that ran it; `ended` is called after it.

    `may_begin(held)` is asked last of all: while no thread was free the lease may have ended, or a drain begun.
    """

    def __init__(self, threads: int, flights: Flights, limit: int, end: End, ended: Callable[[], object],
                 may_begin: Callable[[Held], bool] = always) -> None:
        self._flights, self._limit, self._end, self._ended = flights, limit, end, ended
        self._may_begin = may_begin
        self._free = threading.BoundedSemaphore(threads)
        self._todo: queue.SimpleQueue[tuple[Held, TaskType, int, Flight]] = queue.SimpleQueue()
        for n in range(threads):
            threading.Thread(target=self._work, name=f"task-{n}", daemon=True).start()

    def run(self, held: Held, task_type: TaskType, limits: Deadlines) -> bool:
        """Start a task once a thread is free; False when it may not begin any more."""
        if not free_place(self._free, held, self._may_begin):
            return False
        now_ns = time.monotonic_ns()
        hard_ns = now_ns + int(limits.hard_s * 1e9) if limits.hard_s else 0
        flight = Flight(held, now_ns, time.time_ns() // 1_000_000, hard_ns)
        self._todo.put((held, task_type, self._flights.begin(flight), flight))
        return True

    def _work(self) -> None:
        try:
            self._work_for_ever()
        except BaseException as error:      # a thread less, whose task would stay in hand, and nobody would know
            log.critical("a pool thread failed", exc_info=True)
            end_now(Exit.CRASHED, f"pool: {error!r}")

    def _work_for_ever(self) -> None:
        while True:
            held, task_type, number, flight = self._todo.get()
            enter(held)
            with context(task_id=held.message.id, partition=held.partition):
                outcome = run_body(task_type, held.message, self._limit, _call)
            self._flights.end(number)
            now_ns = time.monotonic_ns()
            self._end(held, outcome, flight.started_ms, flight.started_ms + (now_ns - flight.started_ns) // 1_000_000,
                      now_ns)
            self._free.release()
            self._ended()


def free_place(places: threading.BoundedSemaphore, held: Held, may_begin: Callable[[Held], bool]) -> bool:
    """Take a place, however long that takes; False, and none taken, when the task may not begin any more."""
    while not places.acquire(timeout=LOOK_S):
        if not may_begin(held):
            return False
    if may_begin(held):
        return True
    places.release()
    return False
