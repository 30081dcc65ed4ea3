"""Who waits in this client for which task, and when to look again: the state of the waiter, without its thread.

Owns the table of waits. Pure but for one lock; the clock comes in as an argument (seconds of a monotonic clock). The
threads that wait and the waiter's own thread both use it. Never talks to Redis: it only says what must be asked.

A wait is registered in Redis (`watch`) by the thread that begins it; the end is pushed. The table keeps each id in a
queue of re-checks as well, for the push that got lost: the queue is in order of time because the interval never
changes, so finding what is due costs nothing while nothing is due.
"""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from yadtq.errors import YADTQError
from yadtq.store_watch import unknown

RECHECK_S = 10.0        # a push is lost only with a broken connection, which is noticed anyway: this is the second net
RETRY_S = 0.25          # after a look that failed because Redis was away
GRACE_S = 8.0           # a record that vanished while waited for: after a Redis restart its task may yet write it anew


class Outcome(msgspec.Struct, frozen=True):
    """How a task ended, still encoded; or why nothing will be known of it (`lost`).

    A struct, as everything is that exists once for each awaited task: one that holds bytes and strings only is not
    tracked by the garbage collector, whose walks through a large batch took a quarter of the client's time.
    """

    state: str = ""                    # OK, KO, CX
    result: bytes | None = None        # None: none, or too large to be pushed
    error: bytes | None = None
    lost: YADTQError | None = None
    must_read: bool = False            # it has ended, but the bytes must be read from the record


class Sink(Protocol):
    """Takes the outcomes of the tasks that one caller waits for."""

    def deliver(self, task_id: str, outcome: Outcome) -> None:
        """Called once an id at most (the table forgets the wait first), from any thread; must not block."""


class _Wait(msgspec.Struct, gc=False):             # no cycle: a sink knows nothing of the waits
    sinks: tuple[Sink, ...]
    check_at: float                                # which entry of the queue counts
    seen: bool = False                             # its record was there once while we waited
    missing_since: float | None = None


class WaitTable:
    """The waits of one client in one process."""

    def __init__(self, recheck_s: float = RECHECK_S, grace_s: float = GRACE_S) -> None:
        self._lock = threading.Lock()
        self._waits: dict[str, _Wait] = {}
        self._queue: deque[tuple[float, str]] = deque()    # (when, id), when never falls
        self._urgent: set[str] = set()                     # to be asked for at once: before the queue
        self._recheck_s = recheck_s
        self._grace_s = grace_s

    def __len__(self) -> int:
        return len(self._waits)

    def add(self, ids: Iterable[str], sink: Sink, now: float) -> None:
        """Begin to wait. The ids are to be watched by the caller; the table looks again after `recheck_s`."""
        check_at = now + self._recheck_s
        alone = (sink,)
        with self._lock:
            if len(self._queue) > 2 * len(self._waits) + 1000:     # mostly ids that ended long before their re-check
                self._compact()
            for task_id in ids:
                wait = self._waits.get(task_id)
                if wait is None:
                    self._waits[task_id] = _Wait(alone, check_at)
                    self._queue.append((check_at, task_id))
                else:
                    wait.sinks += alone

    def discard(self, ids: Iterable[str], sink: Sink) -> None:
        """Stop waiting (time-out); other sinks of the same id go on."""
        with self._lock:
            for task_id in ids:
                wait = self._waits.get(task_id)
                if wait is None:
                    continue
                wait.sinks = tuple(one for one in wait.sinks if one is not sink)
                if not wait.sinks:
                    self._forget(task_id)

    def ended(self, task_id: str, outcome: Outcome) -> bool:
        """A task ended (or is lost): every sink that waits is told. False when nobody waited."""
        with self._lock:
            wait = self._waits.get(task_id)
            if wait is None:
                return False
            self._forget(task_id)
        for sink in wait.sinks:
            sink.deliver(task_id, outcome)
        return True

    def present(self, task_id: str, ask_at: float | None = None) -> None:
        """Redis has the record, and the task has not ended. `ask_at`: look again then, sooner than usual."""
        with self._lock:
            wait = self._waits.get(task_id)
            if wait is not None:
                wait.seen, wait.missing_since = True, None
                if ask_at is not None:
                    self._schedule(task_id, wait, ask_at)

    def missing(self, task_id: str, now: float, reason: YADTQError | None = None) -> None:
        """Redis has no such record: tells the sinks, or lets the wait go on for a grace period if it was there before.

        `reason`: known to be gone (the store was replaced, everything was cleared). Never seen: TaskNotFound. Seen
        before: after a Redis restart the last second's writes are gone, but the task itself is in Kafka and will write
        its end; so ask again for a while.
        """
        with self._lock:
            wait = self._waits.get(task_id)
            if wait is None:
                return
            if wait.seen and reason is None:
                if wait.missing_since is None:
                    wait.missing_since = now
                if now - wait.missing_since < self._grace_s:
                    self._schedule(task_id, wait, now + min(1.0, self._grace_s / 4))
                    return
        if reason is None:
            reason = unknown(task_id)
        self.ended(task_id, Outcome(lost=reason))

    def look_again(self, ids: Sequence[str] | None = None) -> None:
        """All ids (after a reconnect: pushes may be lost), or these, are due at once."""
        with self._lock:
            self._urgent.update(self._waits if ids is None else (one for one in ids if one in self._waits))

    def due(self, now: float, limit: int) -> list[str]:
        """Up to `limit` ids to be watched now; each is scheduled anew by that."""
        with self._lock:
            found: list[str] = []
            while self._urgent and len(found) < limit:
                found.append(self._urgent.pop())
            while self._queue and self._queue[0][0] <= now and len(found) < limit:
                when, task_id = self._queue.popleft()
                wait = self._waits.get(task_id)
                if wait is not None and wait.check_at == when:
                    found.append(task_id)
            for task_id in found:
                wait = self._waits.get(task_id)
                if wait is not None:
                    wait.check_at = now + self._recheck_s
                    self._queue.append((wait.check_at, task_id))
            if len(self._queue) > 2 * len(self._waits) + 1000:     # of a Redis that comes and goes, all ids each time
                self._compact()
            return found

    def next_due(self, now: float, at_most: float) -> float:
        """Seconds until something is due, `at_most` when nothing is before that."""
        with self._lock:
            if self._urgent:
                return 0.0
            while self._queue:
                when, task_id = self._queue[0]
                wait = self._waits.get(task_id)
                if wait is not None and wait.check_at == when:
                    return min(at_most, max(0.0, when - now))
                self._queue.popleft()
            return at_most

    def abandon(self, error: YADTQError) -> None:
        """The client is closed: everybody who still waits is told."""
        for task_id in list(self._waits):
            self.ended(task_id, Outcome(lost=error))

    def _schedule(self, task_id: str, wait: _Wait, when: float) -> None:
        # Sooner than the interval, so not at the end: the only place where the queue is not simply appended to.
        wait.check_at = when
        position = len(self._queue)
        while position > 0 and self._queue[position - 1][0] > when:
            position -= 1
        self._queue.insert(position, (when, task_id))

    def _compact(self) -> None:
        waits = self._waits
        self._queue = deque((when, i) for when, i in self._queue if (wait := waits.get(i)) and wait.check_at == when)

    def _forget(self, task_id: str) -> None:
        del self._waits[task_id]
        self._urgent.discard(task_id)
