"""Where the outcomes of awaited tasks are put, one kind for each way of waiting.

Owns the hand-over from the waiter's thread to a thread that waits. A lock as a latch is used instead of
threading.Event: it is a fifth of the cost, and each is used once. Never decodes anything: that is the waiting thread's.
"""
from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue

from yadtq.wait_table import Outcome


class OneSink:
    """For one task: `wait` returns its outcome, or None after the time given."""

    __slots__ = ("_latch", "outcome")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._latch = threading.Lock()
        self._latch.acquire()

    def deliver(self, task_id: str, outcome: Outcome) -> None:
        """The end of the task (only the first counts)."""
        if self.outcome is None:
            self.outcome = outcome
            self._latch.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the outcome; False if it isn't there yet."""
        if self.outcome is not None:
            return True
        return self._latch.acquire(timeout=seconds)


class ManySink:
    """For many tasks: `wait` returns when all have an outcome."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._lock = threading.Lock()
        self._pending = set(ids)
        self._latch = threading.Lock()
        if self._pending:
            self._latch.acquire()

    def deliver(self, task_id: str, outcome: Outcome) -> None:
        """The end of one of the tasks."""
        with self._lock:
            if task_id not in self._pending:
                return
            self._pending.discard(task_id)
            self.outcomes[task_id] = outcome
            done = not self._pending
        if done:
            self._all_there()

    def _all_there(self) -> None:
        self._latch.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the last outcome; False if some are still missing."""
        if not self._pending:
            return True
        return self._latch.acquire(timeout=seconds)

    def pending(self) -> list[str]:
        """The tasks that have no outcome yet."""
        with self._lock:
            return list(self._pending)


class QueueSink:
    """For tasks that are taken one by one, in the order in which they end: `wait`, then `take`."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[str, Outcome]] = SimpleQueue()
        self._next: tuple[str, Outcome] | None = None       # of the one thread that takes

    def deliver(self, task_id: str, outcome: Outcome) -> None:
        """The end of one of the tasks."""
        self._queue.put((task_id, outcome))

    def wait(self, seconds: float) -> bool:
        """Wait until there is one to take; False if there is none yet."""
        if self._next is None:
            with suppress(Empty):
                self._next = self._queue.get(timeout=seconds) if seconds > 0 else self._queue.get_nowait()
        return self._next is not None

    def take(self) -> tuple[str, Outcome]:
        """The one that `wait` saw."""
        taken, self._next = self._next, None
        assert taken is not None
        return taken
