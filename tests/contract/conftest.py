"""Fixtures of the contract tests: a result backend, and a plain connection, on the session's Redis, which is empty."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.services import RedisServer
from yadtq.config import Settings
from yadtq.result_backend import ResultBackend


@pytest.fixture
def connection(empty_redis: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(host=empty_redis.host, port=empty_redis.port) as connection:
        yield connection


@pytest.fixture
def backend(empty_redis: RedisServer) -> Iterator[ResultBackend]:
    backend = ResultBackend(Settings(redis_host=empty_redis.host, redis_port=empty_redis.port))
    yield backend
    backend.close()
