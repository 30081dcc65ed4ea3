"""Tells a task that was never known from one whose record went with the Redis that held it.

Owns the store id that this client has seen. Every Redis is given a random store id by whoever comes first; when the id
has changed, Redis was replaced by an empty one (a restart with its data keeps the id). Used by any thread; asks Redis
only when a task is missing, which is rare.
"""
from __future__ import annotations

import threading
import time
from typing import Protocol

from yadtq.errors import BackendLost, TaskNotFound
from yadtq.task import submitted_ms


class KnowsStore(Protocol):
    """What of the result backend is used here."""

    def store_id(self, *, timeout_s: float | None = None) -> str:
        """The id of the store, made when there is none."""


class StoreWatch:
    """Remembers the store id, and since when it is another one."""

    def __init__(self, backend: KnowsStore) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._store_id: str | None = None
        self._changed_ms: int | None = None

    def look(self, timeout_s: float | None = None) -> None:
        """Read the store id and compare it; raises RedisConnectionError."""
        found = self._backend.store_id(timeout_s=timeout_s)
        with self._lock:
            if self._store_id is not None and found != self._store_id:
                self._changed_ms = int(time.time() * 1000)
            self._store_id = found

    def was_lost(self, task_id: str) -> bool:
        """Whether a task that Redis doesn't know was submitted before Redis was replaced (as seen by the last look)."""
        changed_ms = self._changed_ms
        if changed_ms is None:
            return False
        try:
            return submitted_ms(task_id) <= changed_ms
        except ValueError:
            return True                 # an id of the application's own says no time: the replacement explains it best

    def explain(self, task_id: str) -> BackendLost | TaskNotFound:
        """The error for a task that Redis doesn't know, after a fresh look."""
        self.look()
        if self.was_lost(task_id):
            return BackendLost(f"Redis was replaced by an empty one: what it knew of the task {task_id} is gone")
        return TaskNotFound(f"no task {task_id} is known: it was never submitted, was cleared, or has expired")
