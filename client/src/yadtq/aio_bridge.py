"""Between an event loop and the threads that talk to Kafka and Redis: what AsyncYADTQClient is built on.

Owns the batching of calls (what coroutines ask for while a call is under way goes out with the next one: never a thread
per call, and many small submissions become few large ones), and sinks that wake an event loop. `Batcher`'s methods run
in the event loop, `deliver` in the waiter's thread; nothing here blocks a loop.
"""
from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from yadtq.monitor import WorkerChange
from yadtq.sinks import ManySink
from yadtq.wait_table import Outcome

log = logging.getLogger(__name__)

MOST_CALLBACKS = 1000       # of a monitor that are under way: a coroutine that never ends must not fill the memory
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Runs `run(items)` in a thread for all items that came since the last run; one run at a time, per event loop.

    `run` answers with one value or exception per item.
    """

    def __init__(self, executor: Executor, run: Callable[[list[Item]], list[Answer | BaseException]],
                 at_most: int = 5000) -> None:
        self._executor, self._run, self._at_most = executor, run, at_most
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._busy = False

    async def call(self, item: Item) -> Answer:
        """The answer for this item; raises what the batch raises for it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start, loop)       # not at once: the siblings of a gather() come along
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:self._at_most], self._waiting[self._at_most:]
        self._busy = bool(batch)
        if not batch:
            return
        try:
            running = loop.run_in_executor(self._executor, self._run, [item for item, _ in batch])
        except RuntimeError as error:               # the client was closed
            self._answer(batch, [error] * len(batch))
            loop.call_soon(self._start, loop)
            return
        running.add_done_callback(lambda done: self._done(loop, batch, done))

    def _done(self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Item, asyncio.Future[Answer]]],
              done: asyncio.Future[list[Answer | BaseException]]) -> None:
        if done.cancelled():
            self._answer(batch, [asyncio.CancelledError()] * len(batch))
        elif (error := done.exception()) is not None:
            self._answer(batch, [error] * len(batch))
        else:
            self._answer(batch, done.result())
        self._start(loop)

    @staticmethod
    def _answer(batch: list[tuple[Item, asyncio.Future[Answer]]], answers: Iterable[Answer | BaseException]) -> None:
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():                       # its coroutine was cancelled
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


class LoopSink(ManySink):
    """Outcomes of some tasks for a coroutine."""

    def __init__(self, ids: Iterable[str], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(ids)
        self._loop = loop
        self._event = asyncio.Event()
        if not self._pending:
            self._event.set()

    def _all_there(self) -> None:
        with suppress(RuntimeError):                # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait_async(self, seconds: float | None) -> bool:
        """Wait for the last outcome; False if some are still missing."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return self._event.is_set()
        return True


class LoopQueueSink:
    """Outcomes for a coroutine that takes them one by one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[tuple[str, Outcome]] = asyncio.Queue()

    def deliver(self, task_id: str, outcome: Outcome) -> None:
        """The end of one of the tasks."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (task_id, outcome))

    async def take_async(self, seconds: float | None) -> tuple[str, Outcome] | None:
        """The next task that ended, or None after the time given."""
        try:
            async with asyncio.timeout(seconds):
                return await self._queue.get()
        except TimeoutError:
            return None


def in_loop(callback: Callable[[WorkerChange], Awaitable[Any] | object],
            loop: asyncio.AbstractEventLoop) -> Callable[[WorkerChange], None]:
    """A callback for the monitor's thread that runs `callback` (a function or a coroutine function) in the loop."""
    running: set[asyncio.Task[Any]] = set()         # the loop itself keeps only weak references

    def call(change: WorkerChange) -> None:
        if len(running) >= MOST_CALLBACKS:
            log.warning("a change among the workers is not told: %d calls of the callback have not ended: %s",
                        len(running), change.message)
            return
        answer = callback(change)
        if inspect.iscoroutine(answer):
            task = loop.create_task(answer)
            running.add(task)
            task.add_done_callback(running.discard)

    def told(change: WorkerChange) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(call, change)

    return told
