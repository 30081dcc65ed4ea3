"""Fixtures of all tests: real servers, started when the first test asks, ended with the run; settings for them."""
from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.services import KafkaServer, RedisServer, running
from yadtq import log

if TYPE_CHECKING:
    from pathlib import Path

    from yadtq.config import Settings


# A busy machine makes slow examples, and random histories take much data: neither says anything about the code.
hypothesis.settings.register_profile("yadtq", deadline=None, suppress_health_check=[
    hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large])
hypothesis.settings.load_profile("yadtq")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test may set logging up as a process does: what pytest kept of DEBUG lines would weigh on all that follow."""
    root = logging.getLogger()
    handlers, levels = list(root.handlers), {name: logging.getLogger(name).level for name in ("", *log.NOISY)}
    yield
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
        handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """The session's broker, shared by all tests: leave it running."""
    with running(KafkaServer(tmp_path_factory.mktemp("kafka"))) as server:
        yield server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The session's Redis, for `redis_server` alone: what one test leaves in it would fence the next."""
    with running(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of the test's own, to stop, kill and freeze (some seconds to start)."""
    with running(KafkaServer(tmp_path / "kafka")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to stop, kill, freeze and wipe."""
    with running(RedisServer(tmp_path / "redis")) as server:
        yield server


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """An empty file, in which handlers note what they do."""
    path = tmp_path / "journal"
    path.touch()
    return path


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for names in Kafka and elsewhere that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"


def settings_for(kafka: KafkaServer, redis_server: RedisServer, prefix: str, tmp_path: Path) -> Settings:
    """Settings that reach these servers, with topics, group, control socket and pid file of the test's own."""
    from yadtq.config import Settings

    return Settings(
        kafka_servers=kafka.bootstrap,
        redis_host=redis_server.host,
        redis_port=redis_server.port,
        kafka_task_topic=f"{prefix}_tasks",
        kafka_heartbeat_topic=f"{prefix}_heartbeats",
        kafka_dead_letter_topic=f"{prefix}_dead_letters",
        kafka_delayed_topic=f"{prefix}_delayed",
        kafka_group=prefix,
        control_socket=str(tmp_path / "yadtqd.sock"),
        pid_file=str(tmp_path / "yadtqd.pid"),
    )


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The session's Redis, emptied (one database holds one queue, and tests follow each other): leave it running."""
    empty(shared_redis)
    return shared_redis


def empty(server: RedisServer) -> None:
    """Have a Redis forget everything."""
    import redis

    with redis.Redis(host=server.host, port=server.port) as connection:
        connection.flushall()


@pytest.fixture
def settings(kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str, tmp_path: Path) -> Settings:
    """Settings for the session's servers with names of the test's own; Redis is empty."""
    return settings_for(kafka, redis_server, topic_prefix, tmp_path)
