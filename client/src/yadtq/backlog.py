"""Keeps the queue from growing without bound: who submits asks first whether there is room (setting max_backlog).

Owns one client's estimate of how many tasks are QUEUED: Redis is asked once a second at most while there is room, and
what this client has submitted since is added. Used by the threads that submit. Never blocks but for that question;
waiting for room is the submitter's.
"""
from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from yadtq.errors import InvalidTask, QueueFull

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.result_backend import ResultBackend

LOOK_S = 1.0            # so old may the estimate be while there is room: many clients ask, and all cost Redis something
LOOK_AGAIN_S = 0.1      # and so old when there is none
QUEUED = "Q"
OnBacklog = Literal["refuse", "wait"]


class Limit(NamedTuple):
    """How many tasks may wait (0: any number), and whether to wait for room or to refuse."""

    most: int = 0
    wait: bool = False


UNLIMITED = Limit()


def limit_of(settings: Settings, max_backlog: int | None = None, on_backlog: str | None = None) -> Limit:
    """The limit of one call: its own arguments, else the settings. Raises InvalidTask."""
    if max_backlog is not None and (isinstance(max_backlog, bool) or not isinstance(max_backlog, int)
                                    or max_backlog < 0):
        raise InvalidTask(f"max_backlog must be a whole number of tasks, 0 for no limit, not {max_backlog!r:.100}")
    if on_backlog not in (None, "refuse", "wait"):
        raise InvalidTask(f"on_backlog is 'refuse' or 'wait', not {on_backlog!r:.100}")
    return Limit(settings.max_backlog if max_backlog is None else max_backlog,
                 (on_backlog or settings.on_backlog) == "wait")


class Backlog:
    """The estimate of one client; all its threads may use it."""

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._counted = 0               # tasks QUEUED when Redis was asked last
        self._since = 0                 # admitted since
        self._looked_s = float("-inf")  # monotonic

    def take(self, count: int, limit: Limit, timeout_s: float | None = None) -> int:
        """Admit up to `count` tasks; how many there is room for, 0 to `count`. Raises RedisConnectionError."""
        if not limit.most:
            return count
        with self._lock:
            age_s = time.monotonic() - self._looked_s
            room = limit.most - self._counted - self._since
            if age_s >= LOOK_S or (room < count and age_s >= LOOK_AGAIN_S):
                self._counted = self._backend.counts(timeout_s=timeout_s)[QUEUED]
                self._since, self._looked_s = 0, time.monotonic()
                room = limit.most - self._counted
            taken = max(0, min(count, room))
            self._since += taken
            return taken

    def take_all(self, count: int, limit: Limit, timeout_s: float | None = None) -> None:
        """Admit `count` tasks, or none and raise QueueFull."""
        taken = self.take(count, limit, timeout_s)
        if taken < count:
            with self._lock:
                self._since = max(0, self._since - taken)
            raise self.full(count, limit)

    def full(self, count: int, limit: Limit) -> QueueFull:
        """The error about tasks for which there is no room."""
        waiting = self._counted + self._since
        return QueueFull(f"no room for {count:,} more: {waiting:,} tasks are queued, and the limit is {limit.most:,} "
                         "(max_backlog)", waiting=waiting, limit=limit.most, count=count)
