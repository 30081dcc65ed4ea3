"""A client's connections in this process: made when first needed, made anew in a forked child, closed once.

Owns the result backend, the producer, the waiter and the health reader of one client. Any thread may ask for any of
them. After a fork the child forgets the parent's connections *without* closing them (a librdkafka handle whose threads
did not come along would hang in its destructor, and a TLS goodbye would end the parent's session), and makes its own at
its first call. Imports the Kafka and Redis libraries only when a connection is made.
"""
from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from yadtq.backlog import Backlog
from yadtq.config import Settings
from yadtq.errors import ClientClosed
from yadtq.store_watch import StoreWatch

if TYPE_CHECKING:
    from yadtq.health import HealthReader
    from yadtq.result_backend import ResultBackend
    from yadtq.transport import Admin, Consumer, Producer
    from yadtq.waiter import Waiter

log = logging.getLogger(__name__)
T = TypeVar("T")


class Opener(Protocol):
    """Makes the parts; real ones here, in-memory ones in `yadtq.testing`."""

    def backend(self, settings: Settings) -> ResultBackend:
        """The result backend."""

    def producer(self, settings: Settings) -> Producer:
        """A producer."""

    def consumer(self, settings: Settings) -> Consumer:
        """A consumer that is bound to nothing yet."""

    def admin(self, settings: Settings, timeout_s: float) -> Admin:
        """What creates topics and reads their offsets; its calls raise KafkaConnectionError after `timeout_s`."""


class RealOpener:
    """Kafka and Redis."""

    def backend(self, settings: Settings) -> ResultBackend:
        """The result backend on Redis."""
        from yadtq.result_backend import ResultBackend
        return ResultBackend(settings)

    def producer(self, settings: Settings) -> Producer:
        """A producer of the configured transport."""
        from yadtq.transport import open_producer
        return open_producer(settings)

    def consumer(self, settings: Settings) -> Consumer:
        """A consumer of the configured transport."""
        from yadtq.transport import open_consumer
        return open_consumer(settings)

    def admin(self, settings: Settings, timeout_s: float) -> Admin:
        """Kafka's administration."""
        from yadtq.transport import open_admin
        return open_admin(with_timeout(settings, timeout_s))


def with_timeout(settings: Settings, timeout_s: float) -> Settings:
    """Settings whose Kafka requests take at most `timeout_s` (within what the option allows)."""
    milliseconds = min(settings.kafka_request_timeout_ms, max(100, round(timeout_s * 1000)))
    return settings.replace(kafka_request_timeout_ms=milliseconds)


class Kafka:
    """The Kafka side of a client: its producer and the number of partitions of the task topic."""

    def __init__(self, producer: Producer, partitions: int) -> None:
        self.producer, self.partitions = producer, partitions


class Connections:
    """The parts of one client in this process, each made at its first use."""

    def __init__(self, settings: Settings, opener: Opener, *, grow: bool, connect_timeout_s: float) -> None:
        self.settings, self.opener = settings, opener
        self._grow, self.connect_timeout_s = grow, connect_timeout_s
        self._lock = threading.RLock()
        self._closed = False
        self._parts: dict[str, Any] = {}
        _ALIVE.add(self)

    # ---- the parts --------------------------------------------------------------------------------------------------
    @property
    def backend(self) -> ResultBackend:
        """The result backend (not connected by this alone)."""
        return self._parts.get("backend") or self._make("backend", lambda: self.opener.backend(self.settings))

    @property
    def backlog(self) -> Backlog:
        """How many tasks are queued, about."""
        return self._parts.get("backlog") or self._make("backlog", lambda: Backlog(self.backend))

    @property
    def store(self) -> StoreWatch:
        """Knows whether Redis was replaced."""
        return self._parts.get("store") or self._make("store", lambda: StoreWatch(self.backend))

    @property
    def waiter(self) -> Waiter:
        """What waits for results."""
        return self._parts.get("waiter") or self._make("waiter", self._open_waiter)

    @property
    def kafka(self) -> Kafka:
        """Producer and topics; creates topics where missing. Raises KafkaConnectionError, TooFewPartitions."""
        return self._parts.get("kafka") or self._make("kafka", self._open_kafka)

    @property
    def health(self) -> HealthReader:
        """What reads heartbeats."""
        return self._parts.get("health") or self._make("health", self._open_health)

    def admin(self) -> Admin:
        """A connection for administration, to be closed by the caller. Raises KafkaConnectionError."""
        self.check_open()
        return self.opener.admin(self.settings, self.connect_timeout_s)

    def check_open(self) -> None:
        """Raises ClientClosed after `close`."""
        if self._closed:
            raise ClientClosed

    def connect(self) -> None:
        """Connect to both now, so that a wrong address shows at once: KafkaConnectionError, RedisConnectionError."""
        self.store.look(self.connect_timeout_s)
        _ = self.kafka

    def close(self, timeout_s: float) -> int:
        """Close everything; returns how many submissions were given up (0: all were acknowledged)."""
        with self._lock:
            self._closed = True
            parts, self._parts = self._parts, {}
        deadline = time.monotonic() + timeout_s
        given_up = 0
        if "kafka" in parts:
            given_up = parts["kafka"].producer.close(max(0.0, deadline - time.monotonic()))
        for name in ("waiter", "health"):
            if name in parts:
                parts[name].close(max(0.5, deadline - time.monotonic()))
        if "backend" in parts:
            parts["backend"].close()
        return given_up

    # ---- making them ------------------------------------------------------------------------------------------------
    def _make(self, name: str, open_: Callable[[], T]) -> T:
        with self._lock:
            self.check_open()
            if name not in self._parts:
                self._parts[name] = open_()
            made: T = self._parts[name]
            return made

    def _open_kafka(self) -> Kafka:
        admin = self.opener.admin(self.settings, self.connect_timeout_s)
        try:
            partitions = admin.ensure_topics(grow=self._grow)
        finally:
            admin.close()
        return Kafka(self.opener.producer(self.settings), partitions)

    def _open_waiter(self) -> Waiter:
        from yadtq.task import new_task_id
        from yadtq.waiter import Waiter
        return Waiter(self.backend, self.store, new_task_id(), self.settings.redis_timeout_s)

    def _open_health(self) -> HealthReader:
        from yadtq.health import HealthReader
        return HealthReader(self.settings, self.opener, self.connect_timeout_s)

    # ---- fork -------------------------------------------------------------------------------------------------------
    def _after_fork(self) -> None:
        """In the child: forget everything, close nothing. Other threads' locks are not to be trusted either."""
        self._lock = threading.RLock()
        parts, self._parts = self._parts, {}
        for part in parts.values():
            _never_destroy(part)


_ALIVE: weakref.WeakSet[Connections] = weakref.WeakSet()


def _never_destroy(part: object) -> None:
    """Keep an inherited object for good: its destructor must not run here, not even when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))


def _after_fork_in_child() -> None:
    for connections in list(_ALIVE):
        connections._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
