"""A pool of threads for sync handlers, when `worker_threads` is above 1.

The main thread hands a task over only when a thread is free, so nothing waits in here. A soft time-out can't interrupt
a thread that waits in a system call, so there is none in a pool: the hard one holds, by the supervisor.
"""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from yadtq.log import context
from yadtqd.body import Deadlines, Outcome, run_body
from yadtqd.flights import Flight, Flights

if TYPE_CHECKING:
    from yadtq.tasks import TaskType
    from yadtqd.held import Held

End = Callable[["Held", Outcome, int, int, int], None]     # held, outcome, started_ms, ended_ms, now_ns


def _call(handler: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return handler(*args, **kwargs)


class TaskPool:
    """`end` gets each outcome, from the thread that ran it; `ended` is called after it."""

    def __init__(self, threads: int, flights: Flights, limit: int, end: End, ended: Callable[[], object]) -> None:
        self._flights, self._limit, self._end, self._ended = flights, limit, end, ended
        self._free = threading.BoundedSemaphore(threads)
        self._todo: queue.SimpleQueue[tuple[Held, TaskType, int, Flight]] = queue.SimpleQueue()
        for n in range(threads):
            threading.Thread(target=self._work, name=f"task-{n}", daemon=True).start()

    def run(self, held: Held, task_type: TaskType, limits: Deadlines) -> None:
        """Start a task; waits until a thread is free."""
        self._free.acquire()
        now_ns = time.monotonic_ns()
        hard_ns = now_ns + int(limits.hard_s * 1e9) if limits.hard_s else 0
        flight = Flight(held, now_ns, time.time_ns() // 1_000_000, hard_ns)
        self._todo.put((held, task_type, self._flights.begin(flight), flight))

    def _work(self) -> None:
        while True:
            held, task_type, number, flight = self._todo.get()
            with context(task_id=held.message.id, partition=held.partition):
                outcome = run_body(task_type, held.message, self._limit, _call)
            self._flights.end(number)
            now_ns = time.monotonic_ns()
            self._end(held, outcome, flight.started_ms, flight.started_ms + (now_ns - flight.started_ns) // 1_000_000,
                      now_ns)
            self._free.release()
            self._ended()
