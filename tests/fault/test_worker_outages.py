"""A worker whose Redis or Kafka goes away, is restarted or comes back empty, while tasks run.

What is looked at beside the results: how often each body ran (a journal), and that nothing was committed too early.
"""
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import settings_for
from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from tests.support.services import KafkaServer, RedisServer
from yadtq.config import Settings
from yadtqd.slot import WAITS_FOR_KAFKA, WAITS_FOR_REDIS

pytestmark = [pytest.mark.integration, pytest.mark.fault]


@pytest.fixture
def quick(kafka: KafkaServer, own_redis: RedisServer, topic_prefix: str, tmp_path: Path) -> Settings:
    settings = settings_for(kafka, own_redis, topic_prefix, tmp_path)
    return settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100, redis_timeout_s=1.0)


@pytest.fixture
def user(quick: Settings) -> Iterator[QueueUser]:
    with QueueUser(quick.replace(redis_timeout_s=10.0)) as user:
        yield user


@pytest.fixture
def host(quick: Settings) -> Iterator[RoleHost]:
    with RoleHost(quick, own=(0,)) as host:
        yield host


def notes(journal: Path) -> Counter[str]:
    return Counter(journal.read_text().split())


def load(user: QueueUser, journal: Path, count: int, for_s: float) -> list[str]:
    return user.send([user.message("t.note", str(journal), str(n), for_s) for n in range(count)], partition=0)


def watermark(host: RoleHost) -> int:
    return int(host.shared.partitions[0].watermark)


def test_redis_is_away_for_a_while(host: RoleHost, user: QueueUser, own_redis: RedisServer, tmp_path: Path) -> None:
    """Results are held in memory, nothing is committed, and every body runs once."""
    journal = tmp_path / "journal"
    host.start("worker", "w0", (0,))
    ids = load(user, journal, 400, 0.005)
    until(lambda: journal.exists() and len(notes(journal)) > 20, "some to have run")
    own_redis.stop()
    until(lambda: host.slot("w0").waiting_for == WAITS_FOR_REDIS, "the worker to notice")
    ran = len(notes(journal))
    time.sleep(2.5)
    assert host.slot("w0").lag == 0                  # it can't work, so nobody kills it for making no progress
    assert watermark(host) <= ran
    own_redis.start()
    assert user.results(ids) == [str(n) for n in range(400)]
    until(lambda: watermark(host) == 400, "the watermark")
    assert set(notes(journal).values()) == {1}
    assert not host.statuses


@pytest.mark.parametrize("how", ["kill", "wipe"])
def test_redis_forgets(host: RoleHost, user: QueueUser, own_redis: RedisServer, tmp_path: Path, how: str) -> None:
    """SIGKILL loses what was not fsynced, a wipe loses all: what ended here is written again, and never runs again."""
    journal = tmp_path / "journal"
    host.start("worker", "w0", (0,))
    ids = load(user, journal, 300, 0.005)
    until(lambda: journal.exists() and len(notes(journal)) > 100, "some to have run")
    begun = watermark(host)
    own_redis.wipe() if how == "wipe" else own_redis.kill()
    own_redis.start()
    # with an empty Redis only what was not committed yet is known again
    kept = ids if how == "kill" else ids[watermark(host):]
    assert len(kept) >= 300 - max(begun, watermark(host)) > 0
    assert user.results(kept) == [str(n) for n in range(300)][300 - len(kept):]
    until(lambda: watermark(host) == 300, "the watermark")
    assert set(notes(journal).values()) == {1}
    assert len(notes(journal)) == 300
    assert not host.statuses


def test_redis_freezes(host: RoleHost, user: QueueUser, own_redis: RedisServer, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    host.start("worker", "w0", (0,))
    ids = load(user, journal, 200, 0.005)
    until(lambda: journal.exists() and len(notes(journal)) > 20, "some to have run")
    own_redis.freeze()
    beats = set()
    for _ in range(30):
        beats.add(host.slot("w0").beat_ns)
        time.sleep(0.1)
    assert len(beats) >= 4                           # it beats all the same
    own_redis.thaw()
    assert user.results(ids) == [str(n) for n in range(200)]
    assert set(notes(journal).values()) == {1}


def test_a_worker_starts_while_redis_is_away(host: RoleHost, user: QueueUser, own_redis: RedisServer) -> None:
    task_id = user.submit("addition", 1, 2)
    own_redis.stop()
    host.start("worker", "w0", (0,), wait=False)
    until(lambda: host.slot("w0").waiting_for & WAITS_FOR_REDIS, "the worker to say so")
    time.sleep(1)
    own_redis.start()
    assert user.result(task_id) == 3
    assert host.slot("w0").waiting_for == 0


@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
def test_kafka_goes_away_and_comes_back(own_kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str,
                                        tmp_path: Path, transport: str) -> None:
    settings = settings_for(own_kafka, redis_server, topic_prefix, tmp_path).replace(
        tasks=("tests.support.handlers",), transport=transport, heartbeat_interval=0.5)
    with QueueUser(settings) as user, RoleHost(settings, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        ids = user.send([user.message("t.sleep", 0.002) for _ in range(500)])
        until(lambda: host.slot("w0").done > 50, "some to have run")
        own_kafka.kill()
        until(lambda: host.slot("w0").waiting_for == WAITS_FOR_KAFKA, "the worker to notice", 30)
        time.sleep(1)
        assert not host.statuses
        own_kafka.start()
        assert user.results(ids) == ["slept"] * 500
        assert user.result(user.submit("addition", 1, 2), 30) == 3
        until(lambda: host.slot("w0").waiting_for == 0, "all is well")
        assert not host.statuses
