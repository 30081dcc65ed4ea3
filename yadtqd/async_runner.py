"""Runs `async def` handlers on an event loop in a thread of its own, many at once, up to a bound.

The soft time-out cancels the handler, and so does a cancel, which needs no recycling of the worker; one that does not
end then, or blocks the loop, meets the hard one, by the supervisor.
"""
from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from yadtq.log import context
from yadtq.running import enter
from yadtqd.body import (
    CANCELLED,
    Deadlines,
    Outcome,
    arguments,
    failed,
    leave_if_forked,
    succeeded,
    timed_out,
)
from yadtqd.exits import Exit
from yadtqd.flights import Flight, Flights
from yadtqd.task_pool import End, always, free_place
from yadtqd.worker_exit import end_now

if TYPE_CHECKING:
    from yadtq.tasks import TaskType
    from yadtqd.held import Held

log = logging.getLogger(__name__)

AT_ONCE = 256                   # handlers on the loop: enough for what waits, few enough to end within a drain


class CancelScope:
    """The way to cancel one async attempt: `cancel` in the loop's thread, at any time. Its time-out comes at once."""

    def __init__(self) -> None:
        self.asked = False
        self.limiter: asyncio.Timeout | None = None     # while the handler runs

    def cancel(self) -> None:
        """Have the handler cancelled, or not begun at all."""
        self.asked = True
        if self.limiter is not None:
            self.limiter.reschedule(asyncio.get_running_loop().time())


async def run_coroutine(task_type: TaskType, message: Any, limit: int, soft_s: float,
                        scope: CancelScope | None = None, after: Callable[[], object] = lambda: None) -> Outcome:
    """One async attempt; everything that it does becomes an outcome. `after` is called when the handler has ended."""
    pid = os.getpid()
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    limiter = asyncio.timeout(soft_s or None)
    scope = scope or CancelScope()
    try:
        args, kwargs = arguments(message)
        async with limiter:
            if scope.asked:
                return CANCELLED
            scope.limiter = limiter
            try:
                value = await task_type.handler(*args, **kwargs)
            finally:
                leave_if_forked(pid)
                scope.limiter = None
                after()
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a task must not be able to end its worker
        return _expired(task_type, soft_s, scope) if limiter.expired() else failed(task_type, error, args, kwargs)
    return _expired(task_type, soft_s, scope) if limiter.expired() else succeeded(task_type, value, limit)


def _expired(task_type: TaskType, soft_s: float, scope: CancelScope) -> Outcome:
    return CANCELLED if scope.asked else timed_out(task_type.name, soft_s)


class AsyncRunner:
    """`end` gets each outcome, in the loop's thread; `ended` is called after it. The loop starts with the first."""

    def __init__(self, flights: Flights, limit: int, end: End, ended: Callable[[], object],
                 may_begin: Callable[[Held], bool] = always, at_once: int = AT_ONCE) -> None:
        self._may_begin = may_begin
        self._flights, self._limit, self._end, self._ended = flights, limit, end, ended
        self._free = threading.BoundedSemaphore(at_once)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()     # a loop holds only weak references to its tasks

    def run(self, held: Held, task_type: TaskType, limits: Deadlines) -> bool:
        """Start a task once there is room on the loop; False when it may not begin any more."""
        if not free_place(self._free, held, self._may_begin):
            return False
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, args=(self._loop,), name="asyncio", daemon=True).start()
        now_ns = time.monotonic_ns()
        hard_ns = now_ns + int(limits.hard_s * 1e9) if limits.hard_s else 0
        scope, loop = CancelScope(), self._loop
        flight = Flight(held, now_ns, time.time_ns() // 1_000_000, hard_ns,
                        lambda: loop.call_soon_threadsafe(scope.cancel))
        number = self._flights.begin(flight)
        loop.call_soon_threadsafe(self._begin, self._one(held, task_type, limits, number, flight, scope))
        return True

    @staticmethod
    def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
        """Without its loop all tasks on it would stay in hand for ever: a SystemExit in a callback ends it."""
        reason = "it was stopped"
        try:
            loop.run_forever()
        except BaseException as error:
            log.critical("the event loop failed", exc_info=True)
            reason = repr(error)
        end_now(Exit.CRASHED, f"event loop: {reason}")

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, held: Held, task_type: TaskType, limits: Deadlines, number: int, flight: Flight,
                   scope: CancelScope) -> None:
        enter(held)
        context(task_id=held.message.id, partition=held.partition)
        outcome = await run_coroutine(task_type, held.message, self._limit, limits.soft_s, scope)
        self._flights.end(number)
        now_ns = time.monotonic_ns()
        ended_ms = flight.started_ms + (now_ns - flight.started_ns) // 1_000_000
        self._end(held, outcome, flight.started_ms, ended_ms, now_ns)
        self._free.release()
        self._ended()
