"""Imports in the supervisor what its children need, so that a forked worker consumes after some 25 ms instead of 150.

Runs once, before the first fork. Only modules that were proved harmless stand here: they start no thread, open no
descriptor and make no client on import (tests/integration/test_fork.py proves it again). numpy and users' modules
never do: OpenBLAS starts threads, and who knows what users' modules do.

What is made here is shared with the children; what each of them makes for itself counts once a worker.
"""
from __future__ import annotations

import contextlib
import importlib
import logging
import warnings

from yadtq.redis_client import library
from yadtq.redis_connect import introduction
from yadtqd.registry import SHIPPED

log = logging.getLogger(__name__)

LIBRARIES = (
    "msgspec.msgpack", "redis", "hiredis", "crc32c",
    "confluent_kafka", "confluent_kafka.admin",     # the latter is imported by the first list_topics()
    "kafka", "kafka.admin", "kafka.consumer.group", "kafka.producer.kafka",
    "kafka.coordinator.assignors.cooperative_sticky",
    # what they and the workers import late, at their first connection or call:
    "asyncio", "concurrent.futures.thread", "encodings.idna", "multiprocessing.util", "queue", "ssl", "stringprep",
)
OWN = (
    "yadtq.codec", "yadtq.config_load", "yadtq.heartbeat", "yadtq.log", "yadtq.result_backend", "yadtq.task",
    "yadtq.transport", "yadtq.transport.admin", "yadtq.transport.kafka_python", "yadtq.transport.librdkafka_consumer",
    "yadtq.transport.librdkafka_producer",
    "yadtqd.bookkeeper", "yadtqd.consumer", "yadtqd.follow_ups", "yadtqd.isolated_call", "yadtqd.isolator",
    "yadtqd.janitor", "yadtqd.membership", "yadtqd.processor", "yadtqd.registry", "yadtqd.result_writer",
    "yadtqd.scheduler", "yadtqd.worker",
    *SHIPPED,
)


def preload() -> list[str]:
    """Import them; the names of those that are not installed (confluent_kafka is optional)."""
    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # kafka-python warns of its own use of deprecated names
        for name in (*LIBRARIES, *OWN):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                missing.append(name)
                log.debug("not preloaded: %s (%s)", name, error)
        _warm_up()
    return missing


def _warm_up() -> None:
    """First uses that cost milliseconds and keep nothing open: tables that are filled, modules imported late."""
    with contextlib.suppress(ImportError, AttributeError):
        import socket
        socket.getaddrinfo("127.0.0.1", 1)      # the resolver's tables; a numeric address asks nobody
    "localhost".encode("idna")
    library()
    introduction()
    _initialize_librdkafka()


def _initialize_librdkafka() -> None:
    """What librdkafka sets up once a process, OpenSSL above all: half a megabyte that would be each worker's own.

    It does so before it looks at its configuration, and refuses this one before it starts a thread.
    """
    with contextlib.suppress(ImportError):
        from confluent_kafka import KafkaException, Producer

        with contextlib.suppress(KafkaException):
            Producer({"enable.idempotence": True, "acks": 1})
