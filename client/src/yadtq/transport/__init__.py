"""Moving records: one interface, three implementations behind it that pass the same contract suite.

`kafka-python` needs no compiled code, `librdkafka` (the extra yadtq[librdkafka]) is several times faster, `memory`
stays in one process, for tests (yadtq.testing). `Settings.transport` chooses; "auto" takes librdkafka if it is there.
Clients are opened after a fork, never before. Importing this starts no thread, opens no file and loads no library.
"""
from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from yadtq.errors import ConfigurationError, OffsetOutOfRange, TransportClosed, UnknownTopic
from yadtq.transport.base import Admin, Consumer, OnDone, OnManyDone, Producer, Record

if TYPE_CHECKING:
    from yadtq.config import Settings

__all__ = ["Admin", "Consumer", "OffsetOutOfRange", "OnDone", "OnManyDone", "Producer", "Record", "TransportClosed",
           "UnknownTopic", "chosen", "ensure_topics", "open_admin", "open_consumer", "open_producer"]


def chosen(settings: Settings) -> str:
    """The transport that these settings mean: "kafka-python", "librdkafka" or "memory"."""
    if settings.transport == "auto":
        return "librdkafka" if find_spec("confluent_kafka") else "kafka-python"
    if settings.transport == "librdkafka" and not find_spec("confluent_kafka"):
        raise ConfigurationError('transport = "librdkafka", but confluent_kafka is not installed: '
                                 "install yadtq[librdkafka], or set transport to auto or kafka-python")
    return settings.transport


def open_producer(settings: Settings, *, linger_ms: int | None = None) -> Producer:
    """Connect a producer.

    `linger_ms` overrides the setting: how long the first record of a batch waits for company. Raises
    KafkaConnectionError when no broker answers within `kafka_request_timeout_ms`.

        >>> producer = open_producer(Settings(kafka_host="kafka1"))
        >>> producer.send("yadtq_tasks", 0, b"value", on_done=lambda offset, error: print(offset, error))
    """
    name = chosen(settings)
    wait_ms = settings.linger_ms if linger_ms is None else linger_ms
    if name == "memory":
        from yadtq.transport.memory import MemoryProducer

        return MemoryProducer(settings)
    if name == "librdkafka":
        from yadtq.transport.librdkafka_producer import LibrdkafkaProducer

        return LibrdkafkaProducer(settings, wait_ms)
    from yadtq.transport.kafka_python import KafkaPythonProducer

    return KafkaPythonProducer(settings, wait_ms)


def open_consumer(settings: Settings) -> Consumer:
    """Connect a consumer, which reads nothing until `assign`. Raises KafkaConnectionError as `open_producer` does."""
    name = chosen(settings)
    if name == "memory":
        from yadtq.transport.memory import MemoryConsumer

        return MemoryConsumer(settings)
    if name == "librdkafka":
        from yadtq.transport.librdkafka_consumer import LibrdkafkaConsumer

        return LibrdkafkaConsumer(settings)
    from yadtq.transport.kafka_python import KafkaPythonConsumer

    return KafkaPythonConsumer(settings)


def open_admin(settings: Settings) -> Admin:
    """Connect for administration (kafka-python in every case but memory). Raises KafkaConnectionError likewise."""
    if chosen(settings) == "memory":
        from yadtq.transport.memory import MemoryAdmin

        return MemoryAdmin(settings)
    from yadtq.transport.admin import KafkaAdmin

    return KafkaAdmin(settings)


def ensure_topics(settings: Settings, *, grow: bool = False) -> int:
    """`Admin.ensure_topics` with a connection of its own; returns how many partitions the task topic has."""
    admin = open_admin(settings)
    try:
        return admin.ensure_topics(grow=grow)
    finally:
        admin.close()
