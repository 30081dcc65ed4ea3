"""`yadtqd --check`: tries Kafka, Redis and the Sentinels as the daemon would use them, and says what it found.

Runs in the command's own process, which ends afterwards: the supervisor never connects to anything. Changes nothing in
Kafka; in Redis it loads the function library where it is missing, as any first call does.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from yadtq import tls
from yadtq.errors import UnknownTopic, YADTQError

if TYPE_CHECKING:
    from yadtq.config import Settings

MOST_S: Final = 10.0            # of one question; the options' own time limits may be shorter


class Finding(NamedTuple):
    """One thing that was tried."""

    well: bool
    text: str


def findings(settings: Settings) -> Iterator[Finding]:
    """What each of them says, one after the other, as soon as it is known."""
    quick = settings.replace(kafka_request_timeout_ms=min(settings.kafka_request_timeout_ms, int(MOST_S * 1000)),
                             redis_timeout_s=min(settings.redis_timeout_s, MOST_S))
    yield from _try("files of certificates", lambda: _files(quick))
    yield from _try(f"Kafka at {', '.join(settings.bootstrap)}", lambda: _kafka(quick))
    yield from _try("producing and consuming", lambda: _transport(quick))
    yield from _try(f"Redis at {settings.redis_where}", lambda: _redis(quick))


def _try(what: str, look: Callable[[], str]) -> Iterator[Finding]:
    try:
        said = look()
    except YADTQError as error:
        yield Finding(False, f"{what}: {error}")
    else:
        yield Finding(True, f"{what}: {said}")


def _files(settings: Settings) -> str:
    tls.check_files(settings)
    return "can be read" if settings.redis_ssl or settings.kafka_security_protocol.endswith("SSL") else "none needed"


def _kafka(settings: Settings) -> str:
    from yadtq.transport import open_admin

    admin = open_admin(settings)
    try:
        try:
            topic = f"{admin.partition_count(settings.kafka_task_topic)} partitions of {settings.kafka_task_topic}"
        except UnknownTopic:
            topic = f"{settings.kafka_task_topic} does not exist yet: the daemon makes it"
        return f"{settings.kafka_security_protocol}, cluster {admin.cluster_id()}, {topic}"
    finally:
        admin.close()


def _transport(settings: Settings) -> str:
    from yadtq.transport import open_consumer, open_producer

    producer = open_producer(settings)
    try:
        consumer = open_consumer(settings)
        consumer.close()
        return f"works, by {producer.transport_name}"
    finally:
        producer.close(1.0)


def _redis(settings: Settings) -> str:
    from yadtq.result_backend import ResultBackend

    backend = ResultBackend(settings)
    try:
        info = backend.info("server persistence replication")
        primary = ""
        if backend.redis.sentinels is not None:
            known = backend.redis.sentinels.replicas()
            primary = f", primary is {backend.redis.sentinels.last_primary}, of {known} replicas " \
                      f"{info.get('connected_slaves', '0')} connected"
        file = "append-only file" if info.get("aof_enabled") == "1" else \
            "NO append-only file: a crash loses results (appendonly yes)"
        return f"Redis {info.get('redis_version', '?')}, {'TLS' if settings.redis_ssl else 'no TLS'}, {file}{primary}"
    finally:
        backend.close()
