"""Places for isolated attempts: several of a worker may be under way, each in its own process, awaited by a thread.

The main thread hands a task over when there is room, so nothing waits in here and starts keep their order. Suspects run
here too, and then nothing runs in the worker's own process (yadtqd.flights). Threads are made per attempt: beside a
process they cost nothing, and a worker without isolated tasks has none. Never forks: the isolator does.
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from yadtq.log import context
from yadtqd.exits import Exit
from yadtqd.flights import Flight, Flights
from yadtqd.task_pool import LOOK_S, End
from yadtqd.worker_exit import end_now

if TYPE_CHECKING:
    from yadtq.tasks import TaskType
    from yadtqd.body import Deadlines
    from yadtqd.held import Held
    from yadtqd.isolated_call import Isolation

log = logging.getLogger(__name__)

ASYNC_SUSPECTS = 16     # suspects that are coroutines: hundreds may come at once, nearly all innocent, and they wait


def places(concurrency: int, workers: int, cpus: int | None = None) -> int:
    """Isolated attempts of one worker: as configured, else its share of the host's processors, at least one."""
    cpus = cpus or len(os.sched_getaffinity(0))
    return concurrency or max(1, cpus // max(1, workers))


class IsolatedPool:
    """`end` gets each outcome, `claim_again` what has none; `ended` is called after either, all from its thread."""

    def __init__(self, places: int, isolation: Callable[[], Isolation], flights: Flights, end: End,
                 claim_again: Callable[[list[Held]], None], ended: Callable[[], object],
                 may_begin: Callable[[Held], bool]) -> None:
        self._places, self._isolation, self._flights = places, isolation, flights
        self._end, self._claim_again, self._ended, self._may_begin = end, claim_again, ended, may_begin
        self._idle: list[Isolation] = []        # each with its connection to the isolator

    def run(self, held: Held, task_type: TaskType, limits: Deadlines) -> bool:
        """Start a task once there is room for it; False when it may not begin any more."""
        most = max(self._places, ASYNC_SUSPECTS) if held.suspect and task_type.kind == "async" else self._places
        alone = held.suspect and held.lone > 0
        while (self._flights.apart >= most or self._flights.bars_apart(alone=alone)
               or (held.suspect and self._flights.bars(suspect=True))):
            if not self._may_begin(held):
                return False
            self._flights.wait(LOOK_S)
        if not self._may_begin(held):
            return False
        # no deadline: the isolated call enforces it, and killing this worker would not end the child's task
        flight = Flight(held, time.monotonic_ns(), time.time_ns() // 1_000_000, 0, apart=True, suspect=held.suspect,
                        alone=alone)
        number = self._flights.begin(flight)
        threading.Thread(target=self._one, args=(held, task_type, limits, number, flight), name="isolated",
                         daemon=True).start()
        return True

    def _one(self, held: Held, task_type: TaskType, limits: Deadlines, number: int, flight: Flight) -> None:
        try:
            isolation = self._idle.pop() if self._idle else self._isolation()
            with context(task_id=held.message.id, partition=held.partition):
                outcome = isolation.run(held, task_type, limits)
            self._idle.append(isolation)
            now_ns = time.monotonic_ns()
            if outcome is None:
                self._claim_again([held])       # or never, if this worker ends
            else:
                self._end(held, outcome, flight.started_ms,
                          flight.started_ms + (now_ns - flight.started_ns) // 1_000_000, now_ns)
            self._flights.end(number)
            self._ended()
        except BaseException as error:          # its task would stay in hand, and nobody would know
            log.critical("the thread of an isolated attempt failed", exc_info=True)
            end_now(Exit.CRASHED, f"isolated: {error!r}")
