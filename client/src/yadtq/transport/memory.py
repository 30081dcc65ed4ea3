"""A Kafka in memory, for tests of applications: one process, no server, the same behaviour as the real transports.

Owns brokers that are known by the settings' bootstrap address: clients with `transport = "memory"` and the same address
share one. Each producer has a thread that appends and reports. Nothing survives the process, and a fork does not share.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

from yadtq.delayed import LEVELS
from yadtq.errors import (
    KafkaConnectionError,
    KafkaRefused,
    OffsetOutOfRange,
    PayloadTooLarge,
    TooFewPartitions,
    UnknownTopic,
    YADTQError,
)
from yadtq.transport.base import Guarded, GuardedProducer, OnDone, OnManyDone, Record

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)


@dataclass
class _Log:
    """The records of one partition; offsets go on after deletions."""

    begin: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.begin + len(self.records)


class MemoryBroker:
    """The topics that clients with one bootstrap address share; `stop` and `start` make an outage.

        >>> broker = broker_of(settings)
        >>> broker.stop()                # submissions wait, polls return nothing
        >>> broker.start()
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.topics: dict[str, list[_Log]] = {}
        self.commits: dict[tuple[str, str], dict[int, int]] = {}
        self.up = True

    def stop(self) -> None:
        """Be unreachable."""
        with self.changed:
            self.up = False
            self.changed.notify_all()

    def start(self) -> None:
        """Be reachable again, with everything that was there."""
        with self.changed:
            self.up = True
            self.changed.notify_all()

    def clear(self) -> None:
        """Forget all topics and commits."""
        with self.changed:
            self.topics.clear()
            self.commits.clear()

    def create(self, topic: str, partitions: int) -> int:
        """Create a topic or grow it; never shrinks. Returns its partitions."""
        with self.changed:
            logs = self.topics.setdefault(topic, [])
            logs += [_Log() for _ in range(partitions - len(logs))]
            return len(logs)

    def commit(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        """What the membership of a group does."""
        with self.changed:
            self.commits.setdefault((group, topic), {}).update(offsets)

    def log_of(self, topic: str, partition: int) -> _Log:
        """One partition; raises UnknownTopic."""
        try:
            return self.topics[topic][partition]
        except (KeyError, IndexError):
            raise UnknownTopic(f"topic {topic} has no partition {partition}") from None

    def await_up(self, timeout_s: float) -> None:
        """Raise KafkaConnectionError when the broker stays away for so long."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.up, timeout_s):
                raise KafkaConnectionError(f"no Kafka broker answered within {timeout_s * 1000:.0f} ms (in memory)")


_brokers: dict[tuple[str, ...], MemoryBroker] = {}
_brokers_lock = threading.Lock()


def broker_of(settings: Settings) -> MemoryBroker:
    """The broker at the settings' bootstrap address, made when first asked for."""
    with _brokers_lock:
        return _brokers.setdefault(tuple(settings.bootstrap), MemoryBroker())


def _too_large(size: int, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a record of {size} bytes is larger than kafka_max_message_bytes, {limit}", size, limit)


class _MemoryClient(Guarded):
    def __init__(self, settings: Settings, *of_base: int) -> None:
        super().__init__(*of_base)
        self._settings = settings
        self._broker = broker_of(settings)
        self._broker.await_up(settings.kafka_request_timeout_ms / 1000)


class MemoryProducer(_MemoryClient, GuardedProducer):
    """See `yadtq.transport.Producer`."""

    transport_name: ClassVar[str] = "memory"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, settings.max_in_flight)
        self._limit = settings.kafka_max_message_bytes
        self._work: SimpleQueue[tuple[str, int, bytes, bytes | None, Any, int | None] | None] = SimpleQueue()
        self._order = threading.Lock()
        self._giving_up = False
        self._thread = threading.Thread(target=self._append_and_report, name="yadtq-deliveries", daemon=True)
        self._thread.start()

    def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None,
             on_done: OnDone | None = None) -> None:
        """Hand over one record; see `Producer.send`."""
        self._check()
        if len(value) > self._limit:
            raise _too_large(len(value), self._limit)
        self._pending.take(1, len(value))
        self._work.put((topic, partition, value, key, on_done, None))

    def send_many(self, topic: str, items: Sequence[tuple[int, bytes, bytes | None]],
                  on_done: OnManyDone | None = None) -> None:
        """Hand over a batch; see `Producer.send_many`."""
        self._check()
        self._pending.take(len(items), sum(len(item[1]) for item in items))
        for index, (partition, value, key) in enumerate(items):
            self._work.put((topic, partition, value, key, on_done, index))

    def _give_up(self, left: int) -> None:
        with self._broker.changed:
            self._giving_up = True
            self._broker.changed.notify_all()
        self._work.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(2)

    def _append_and_report(self) -> None:
        """The producer's thread, until closed."""
        while (work := self._work.get()) is not None:
            topic, partition, value, key, on_done, index = work
            try:
                offset, error = self._append(topic, partition, value, key), None
            except YADTQError as problem:
                offset, error = -1, problem
            self._pending.done(len(value))
            if on_done is not None:
                try:
                    on_done(offset, error) if index is None else on_done(index, offset, error)
                except Exception:  # the caller's; the other reports go on
                    log.exception("on_done failed")
            if self._work.empty():
                self._pending.settle(time.monotonic())

    def _append(self, topic: str, partition: int, value: bytes, key: bytes | None) -> int:
        if len(value) > self._limit:
            raise _too_large(len(value), self._limit)
        broker = self._broker
        with broker.changed:
            broker.changed.wait_for(lambda: broker.up or self._giving_up)
            if not broker.up:
                raise KafkaConnectionError("given up: the producer was closed before Kafka acknowledged the record")
            target = broker.log_of(topic, partition)
            offset = target.end
            target.records.append(Record(partition, offset, key, value, time.time_ns() // 1_000_000))
            broker.changed.notify_all()
        return offset


class MemoryConsumer(_MemoryClient):
    """See `yadtq.transport.Consumer`."""

    transport_name: ClassVar[str] = "memory"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._topic = ""
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._woken = False

    @property
    def connected(self) -> bool:
        """False during an outage."""
        return self._broker.up

    def assign(self, topic: str, offsets: dict[int, int]) -> None:
        """Read exactly these partitions from these offsets; see `Consumer.assign`."""
        self._check()
        self._topic, self._positions, self._paused = topic, dict(offsets), set()

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """What is there or comes within `timeout_s`; see `Consumer.poll`."""
        self._check()
        end_s = time.monotonic() + timeout_s
        with self._broker.changed:
            while True:
                records = self._take(max_records) if self._broker.up else []
                left_s = end_s - time.monotonic()
                if records or self._woken or left_s <= 0:
                    self._woken = False
                    return records
                self._broker.changed.wait(left_s)

    def _take(self, max_records: int) -> list[Record]:
        found: list[Record] = []
        for partition, position in list(self._positions.items()):
            if partition in self._paused or len(found) >= max_records:
                continue
            log_ = self._broker.log_of(self._topic, partition)
            if not log_.begin <= position <= log_.end:
                if found:
                    break  # what was found first; the next poll tells
                where = f"{self._topic}[{partition}]: no record at offset {position}"
                raise OffsetOutOfRange(where, partition, log_.begin)
            first = position - log_.begin
            new = log_.records[first:first + max_records - len(found)]
            if new:
                found += new
                self._positions[partition] = self._positions.pop(partition) + len(new)  # last in turn next time
        return found

    def pause(self, partitions: Iterable[int]) -> None:
        """Return nothing more of these until resumed."""
        self._check()
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on where reading was paused."""
        self._check()
        self._paused.difference_update(partitions)

    def high_watermarks(self) -> dict[int, int]:
        """The offsets behind the last records."""
        self._check()
        with self._broker.changed:
            return {partition: self._broker.log_of(self._topic, partition).end for partition in self._positions}

    def wake(self) -> None:
        """Have poll return early, from any thread."""
        with self._broker.changed:
            self._woken = True
            self._broker.changed.notify_all()

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self.closed = True


class MemoryAdmin(_MemoryClient):
    """See `yadtq.transport.Admin`."""

    def _reach(self) -> MemoryBroker:
        self._check()
        self._broker.await_up(self._settings.kafka_request_timeout_ms / 1000)
        return self._broker

    def ensure_topics(self, *, grow: bool = False) -> int:
        """Create what is missing; see `Admin.ensure_topics`."""
        broker, settings = self._reach(), self._settings
        broker.create(settings.kafka_heartbeat_topic, 1)
        broker.create(settings.kafka_dead_letter_topic, 1)
        broker.create(settings.kafka_delayed_topic, LEVELS)
        name = settings.kafka_task_topic
        with broker.changed:
            there = len(broker.topics.get(name, []))
        if 0 < there < settings.num_partitions and not grow:
            raise TooFewPartitions(f"topic {name} has {there} partitions, {settings.num_partitions} were asked for")
        return broker.create(name, settings.num_partitions)

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has."""
        broker = self._reach()
        broker.log_of(topic, 0)
        return len(broker.topics[topic])

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """The first offset that can be read, per partition."""
        return {partition: log_.begin for partition, log_ in self._logs(topic)}

    def end_offsets(self, topic: str, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """The offset that the next record will get, per partition: of all, or of these."""
        ends = {partition: log_.end for partition, log_ in self._logs(topic)}
        return ends if partitions is None else {partition: ends[partition] for partition in partitions}

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """The first offset that is as young as that, per partition; the end where none is."""
        return {partition: next((one.offset for one in log_.records if one.timestamp_ms >= timestamp_ms), log_.end)
                for partition, log_ in self._logs(topic)}

    def _logs(self, topic: str) -> list[tuple[int, _Log]]:
        broker = self._reach()
        broker.log_of(topic, 0)
        return list(enumerate(broker.topics[topic]))

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group committed; partitions without a commit are missing."""
        return dict(self._reach().commits.get((group, topic), {}))

    def delete_records(self, topic: str, offsets: dict[int, int]) -> dict[int, int]:
        """Delete what lies below these offsets; returns where each log begins now."""
        broker = self._reach()
        with broker.changed:
            for partition, offset in offsets.items():
                log_ = broker.log_of(topic, partition)
                if offset > log_.end:
                    raise KafkaRefused(f"{topic}[{partition}]: no record at offset {offset}")
                below = max((log_.end if offset < 0 else offset) - log_.begin, 0)
                del log_.records[:below]
                log_.begin += below
            return {partition: broker.log_of(topic, partition).begin for partition in offsets}

    def cluster_id(self) -> str:
        """The id of the cluster."""
        return f"memory-{id(self._reach()):x}"

    def identity(self) -> str:
        """What epochs are counted in."""
        return f"{self.cluster_id()}/-"

    def close(self) -> None:
        """Nothing to release. Idempotent."""
        self.closed = True
