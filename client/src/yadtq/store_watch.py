"""Tells why a task is missing: never known, cleared, or gone with the Redis that held it.

Owns the store id and the clear numbers that this client has seen. Every Redis is given a random store id by whoever
comes first; when the id has changed, Redis was replaced by an empty one (a restart with its data keeps the id). Used by
any thread; asks Redis only when a task is missing, which is rare.
"""
from __future__ import annotations

import threading
import time
from typing import Protocol

from yadtq.errors import BackendLost, InvalidTask, TaskNotFound, YADTQError
from yadtq.task import submitted_ms


class KnowsStore(Protocol):
    """What of the result backend is used here."""

    def store_id(self, *, timeout_s: float | None = None) -> str:
        """The id of the store, made when there is none."""

    def clear_numbers(self, *, timeout_s: float | None = None) -> list[int]:
        """One number a shard, raised by each clear."""


class StoreWatch:
    """Remembers the store id and the clear numbers, and when each was found to be another."""

    def __init__(self, backend: KnowsStore) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._store_id: str | None = None
        self._clear_sum = 0                     # of the clear numbers: they only rise
        self._replaced_ms: int | None = None
        self._cleared_ms: int | None = None

    def look(self, timeout_s: float | None = None) -> None:
        """Ask Redis; raises RedisConnectionError."""
        store_id = self._backend.store_id(timeout_s=timeout_s)
        clear_sum = sum(self._backend.clear_numbers(timeout_s=timeout_s))
        now_ms = int(time.time() * 1000)
        with self._lock:
            if self._store_id is not None and store_id != self._store_id:
                self._replaced_ms = now_ms
            elif self._store_id is not None and clear_sum > self._clear_sum:
                self._cleared_ms = now_ms
            self._store_id, self._clear_sum = store_id, clear_sum

    def why_missing(self, task_id: str) -> YADTQError | None:
        """The reason, as far as the last look tells: BackendLost, TaskNotFound (it was cleared), or None."""
        if _is_before(task_id, self._replaced_ms):
            return BackendLost(f"Redis was replaced by an empty one: what it knew of the task {task_id} is gone")
        if _is_before(task_id, self._cleared_ms):
            return TaskNotFound(f"no task {task_id} is known: clear_all_tasks has cleared what there was")
        return None

    def explain(self, task_id: str) -> YADTQError:
        """The error for a task that Redis doesn't know, after a fresh look."""
        self.look()
        return self.why_missing(task_id) or unknown(task_id)


def unknown(task_id: str) -> TaskNotFound:
    """The error for a task of which nothing is known."""
    return TaskNotFound(f"no task {task_id} is known: it was never submitted, was cleared, or has expired")


def _is_before(task_id: str, moment_ms: int | None) -> bool:
    if moment_ms is None:
        return False
    try:
        return submitted_ms(task_id) <= moment_ms
    except InvalidTask:
        return True                 # an id of the application's own tells no time: what happened explains it best
