"""What the transport suites share: settings for each transport, producers and consumers that are closed at the end."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from yadtq.config import Settings
from yadtq.errors import YADTQError
from yadtq.transport import Consumer, Producer, Record, ensure_topics, open_consumer, open_producer

TRANSPORTS = ("librdkafka", "kafka-python", "memory")
REAL = TRANSPORTS[:2]


def settings_of(transport: str, servers: str, prefix: str, **changes: object) -> Settings:
    """Settings for one transport, with topics of the test's own; "memory" has a broker of the test's own too."""
    return Settings(transport=transport, kafka_servers=servers if transport != "memory" else f"{prefix}:1",
                    kafka_task_topic=f"{prefix}_tasks", kafka_heartbeat_topic=f"{prefix}_beats",
                    kafka_dead_letter_topic=f"{prefix}_dead", kafka_delayed_topic=f"{prefix}_delayed",
                    kafka_group=prefix, **changes)


class Reports:
    """Collects what on_done is called with, by index, and from which threads."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, YADTQError | None]] = []
        self.threads: set[int] = set()

    def many(self, index: int, offset: int, error: YADTQError | None) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append((index, offset, error))

    def one(self, index: int) -> Callable[[int, YADTQError | None], None]:
        return lambda offset, error: self.many(index, offset, error)

    @property
    def offsets(self) -> dict[int, int]:
        return {index: offset for index, offset, error in self.calls if error is None}

    @property
    def errors(self) -> dict[int, YADTQError]:
        return {index: error for index, _, error in self.calls if error is not None}

    def once_each(self, count: int) -> bool:
        return sorted(index for index, _, _ in self.calls) == list(range(count))


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Wait until it holds; returns how long that took, fails with `what` at the deadline."""
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - start_s


def read(consumer: Consumer, count: int, timeout_s: float = 20, batch: int = 500) -> list[Record]:
    """So many records, or fewer at the deadline."""
    records: list[Record] = []
    end_s = time.monotonic() + timeout_s
    while len(records) < count and time.monotonic() < end_s:
        records += consumer.poll(min(batch, count - len(records)), 0.5)
    return records


@contextmanager
def producing(settings: Settings, **options: int) -> Iterator[Producer]:
    producer = open_producer(settings, **options)
    try:
        yield producer
    finally:
        producer.close(0.5)


@contextmanager
def consuming(settings: Settings, offsets: dict[int, int] | None = None) -> Iterator[Consumer]:
    consumer = open_consumer(settings)
    try:
        if offsets is not None:
            consumer.assign(settings.kafka_task_topic, offsets)
        yield consumer
    finally:
        consumer.close()


def created(settings: Settings) -> Settings:
    ensure_topics(settings)
    return settings
