"""What every transport offers: records, a producer, a partition-bound consumer, and administration of topics.

Owns the interface and what all implementations share: the bound on records under way and the guard against use after
close or fork. Runs in whatever process opened it (a client of the library, a worker); importing it starts no thread and
opens no file, so that a supervisor may preload it. Never interprets a record's value.
"""
from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from yadtq.errors import BacklogFull, TransportClosed, YADTQError

log = logging.getLogger(__name__)

MAX_PENDING_BYTES = 256 * 1024 * 1024  # values under way in one producer, whatever `max_in_flight` allows in records
BATCH_BYTES = 262_144  # per partition and request: saturates a broker, and is far below any limit set on a topic
RECONNECT_MAX_MS = 1000  # the libraries' own 10 to 30 s would be the time by which work resumes after an outage
ALARM_AFTER_S = 10.0  # nothing acknowledged for so long while records wait: say so in the log

OnDone = Callable[[int, "YADTQError | None"], None]
OnManyDone = Callable[[int, int, "YADTQError | None"], None]


class Record(NamedTuple):
    """One record as it was read. `value` is b"" where it has none (a tombstone); `timestamp_ms` is wall-clock time, the
    producer's unless the topic says otherwise."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    timestamp_ms: int


class Producer(Protocol):
    """Sends records; safe to use from many threads. Records of one partition arrive in the order of the calls.

    A record is acknowledged when all in-sync replicas have it. An error does not mean that it was not written: after a
    connection was lost nobody knows, so what is sent again keeps its id.
    """

    transport_name: ClassVar[str]

    @property
    def pending(self) -> int:
        """Records handed over and not reported yet."""
        ...

    def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None,
             on_done: OnDone | None = None) -> None:
        """Hand over one record; `on_done(offset, error)` follows exactly once, from the transport's thread.

        The offset is -1 when there is an error. Raises, and then never calls `on_done`: BacklogFull (too many under
        way; try again), PayloadTooLarge, UnknownTopic, KafkaConnectionError (TransportClosed after close or a fork).
        """
        ...

    def send_many(self, topic: str, items: Sequence[tuple[int, bytes, bytes | None]],
                  on_done: OnManyDone | None = None) -> None:
        """Hand over (partition, value, key) records; `on_done(index, offset, error)` follows exactly once for each.

        All or nothing as far as raising goes: BacklogFull when there is no room for all of them now (never more than
        `max_in_flight` at a time), TransportClosed. What is wrong with a single record is told by its `on_done`.
        """
        ...

    def flush(self, timeout_s: float) -> int:
        """Wait until nothing is under way, at most `timeout_s`; returns how many records still are."""
        ...

    def close(self, timeout_s: float) -> int:
        """Flush, then give up what is left: each is told by `on_done` with an error; returns how many. Idempotent."""
        ...


class Consumer(Protocol):
    """Reads assigned partitions from given offsets; for one thread, except `wake`. Never joins a group or commits."""

    transport_name: ClassVar[str]

    @property
    def connected(self) -> bool:
        """False once the brokers are known to be away, True again when they answer; changes during `poll`."""
        ...

    def assign(self, topic: str, offsets: dict[int, int]) -> None:
        """Read exactly these partitions, each from its offset; replaces what was assigned, pauses included."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At once what is there, else what comes within `timeout_s`, else []; [] during an outage, without end.

        Records of one partition come in order, each once per assignment. Raises OffsetOutOfRange (the other partitions
        go on; assign anew), UnknownTopic, KafkaRefused, TransportClosed.
        """
        ...

    def pause(self, partitions: Iterable[int]) -> None:
        """Return nothing more of these until resumed; costs what was fetched ahead."""
        ...

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on where reading was paused."""
        ...

    def high_watermarks(self) -> dict[int, int]:
        """The offset behind each partition's last record as last seen, without asking; a partition may be missing."""
        ...

    def wake(self) -> None:
        """Have the poll that is waiting (or the next one) return early; from any thread."""
        ...

    def close(self) -> None:
        """Stop reading, within seconds even during an outage. Idempotent."""
        ...


class Admin(Protocol):
    """Topics and offsets; each call raises KafkaConnectionError at its deadline. Safe to use from many threads."""

    def ensure_topics(self, *, grow: bool = False) -> int:
        """Create task, heartbeat and dead-letter topic where missing; returns the task topic's partitions.

        Raises TooFewPartitions when it exists with fewer than `num_partitions` and `grow` is False.
        """
        ...

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has; raises UnknownTopic."""
        ...

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """The first offset that can be read, per partition."""
        ...

    def end_offsets(self, topic: str, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """The offset that the next record will get, per partition: of all, or of these."""
        ...

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """The first offset whose record is as young as that or younger, per partition; the end where none is."""
        ...

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group committed; partitions without a commit are missing."""
        ...

    def delete_records(self, topic: str, offsets: dict[int, int]) -> dict[int, int]:
        """Delete what lies below these offsets; returns where each log begins now."""
        ...

    def cluster_id(self) -> str:
        """The id of the Kafka cluster."""
        ...

    def identity(self) -> str:
        """What epochs are counted in: the id of the cluster, `/`, and that of the heartbeat topic (`-` where brokers
        give topics none). Another one than before: epochs begin at 1 again."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


class Pending:
    """Counts the records that are under way in a producer and refuses more than the bounds.

    `take` and `give_back` may be called from any thread, `done` only from the one that reports deliveries.
    """

    def __init__(self, max_records: int, max_bytes: int = MAX_PENDING_BYTES) -> None:
        self.max_records, self.max_bytes = max_records, max_bytes
        self._lock = threading.Condition(threading.Lock())
        self._taken = self._taken_bytes = self._done = self._done_bytes = self._settled = 0
        self._waiting = 0
        self._progress_s = time.monotonic()
        self._told_s = 0.0

    def __len__(self) -> int:
        return self._taken - self._done

    def take(self, records: int, size: int) -> None:
        """Reserve room, or raise BacklogFull and reserve nothing."""
        with self._lock:
            under_way = self._taken - self._done
            size_under_way = self._taken_bytes - self._done_bytes
            if under_way + records > self.max_records or (under_way and size_under_way + size > self.max_bytes):
                raise BacklogFull(
                    f"no room for {records} records of {size} bytes: {under_way} of {size_under_way} are under way, "
                    f"{self.max_records} (max_in_flight) of {self.max_bytes} bytes may be")
            if not under_way:
                self._progress_s = time.monotonic()  # the age alarm counts from here
            self._taken += records
            self._taken_bytes += size

    def give_back(self, records: int, size: int) -> None:
        """Undo `take` for what was never handed over."""
        with self._lock:
            self._taken -= records
            self._taken_bytes -= size
            self._lock.notify_all()

    def done(self, size: int) -> None:
        """One record was reported. No lock: only one thread writes these two."""
        self._done += 1
        self._done_bytes += size

    def settle(self, now_s: float) -> None:
        """After some `done`: wake those who wait for room or for the end. Without any it is no progress."""
        if self._done == self._settled:
            return
        self._settled = self._done
        self._progress_s = now_s
        if self._waiting:
            with self._lock:
                self._lock.notify_all()

    def tell_if_stuck(self, now_s: float) -> None:
        """Log, now and then, that records have been under way for long without any being reported."""
        stuck_s = now_s - self._progress_s if self._taken != self._done else 0.0
        if stuck_s > ALARM_AFTER_S and now_s - self._told_s > ALARM_AFTER_S:
            self._told_s = now_s
            log.warning("KAFKA_CONNECTION_ERROR: %d records wait for Kafka, none was acknowledged for %.0f s",
                        len(self), stuck_s)

    def wait(self, timeout_s: float) -> int:
        """Until nothing is under way, at most `timeout_s`; returns how many are."""
        end_s = time.monotonic() + timeout_s
        with self._lock:
            self._waiting += 1
            try:
                while self._taken != self._done and (left_s := end_s - time.monotonic()) > 0:
                    self._lock.wait(min(left_s, 0.05))  # a `settle` just before we counted ourselves is not missed long
            finally:
                self._waiting -= 1
            return self._taken - self._done


class Guarded:
    """What refuses to work after close and in a forked child, where a library's client would hang or crash."""

    closed = False

    def __init__(self) -> None:
        self._pid = os.getpid()
        _alive.add(self)

    def _check(self) -> None:
        if self.closed:
            raise TransportClosed()
        if os.getpid() != self._pid:
            raise TransportClosed("this was opened before a fork: a child process opens its own")

    def _library_objects(self) -> list[Any]:
        """The library's clients, which a child must never finalize."""
        return []


class GuardedProducer(Guarded):
    """What all producers do alike with the records that are under way."""

    def __init__(self, max_in_flight: int) -> None:
        super().__init__()
        self._pending = Pending(max_in_flight)

    @property
    def pending(self) -> int:
        """Records handed over and not reported yet."""
        return len(self._pending)

    def flush(self, timeout_s: float) -> int:
        """Wait until nothing is under way; see `Producer.flush`."""
        return self._pending.wait(timeout_s)

    def close(self, timeout_s: float) -> int:
        """Flush, then give up what is left; see `Producer.close`."""
        if self.closed:
            return 0
        self._check()
        self.closed = True
        given_up = self._pending.wait(timeout_s)
        self._give_up(given_up)
        return given_up

    def _give_up(self, left: int) -> None:
        """Tell the `left` records that they are given up, and let go of the library and the thread."""
        raise NotImplementedError


_alive: weakref.WeakSet[Guarded] = weakref.WeakSet()


def _leak_inherited() -> None:
    """In a forked child: keep the parent's clients from ever being finalized there.

    Their finalizers join threads which the child does not have. A reference that is never given up survives even the
    interpreter's own cleaning up, which a module's variable does not.
    """
    inherited = [thing for guarded in list(_alive) for thing in (guarded, *guarded._library_objects())]
    if inherited:
        import ctypes

        for thing in inherited:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


os.register_at_fork(after_in_child=_leak_inherited)
