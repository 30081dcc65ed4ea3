"""Fixtures of the contract tests: a result backend, and a plain connection, on the session's Redis, which is empty."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.secure_kafka import SecureKafka
from tests.support.services import RedisServer, running
from yadtq.config import Settings
from yadtq.result_backend import ResultBackend


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A broker that insists on TLS and a password; for the session: leave it running."""
    with running(SecureKafka(tmp_path_factory.mktemp("secure_kafka"))) as server:
        yield server


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(host=redis_server.host, port=redis_server.port) as connection:
        yield connection


@pytest.fixture
def backend(redis_server: RedisServer) -> Iterator[ResultBackend]:
    backend = ResultBackend(Settings(redis_host=redis_server.host, redis_port=redis_server.port))
    yield backend
    backend.close()
