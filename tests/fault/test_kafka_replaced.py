"""Kafka is replaced by a new cluster while Redis is kept: workers say so instead of being refused for ever."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import settings_for
from tests.support.daemon import Daemon, wait_for
from tests.support.queue_user import QueueUser
from tests.support.services import KafkaServer, RedisServer
from yadtq.errors import DaemonNotRunning
from yadtq.names import KAFKA_KEY
from yadtq.shard_calls import pack
from yadtq.transport import open_admin

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
OPTIONS = {"num_partitions": 4, "max_workers": 1, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000,
           "cool_down_s": 2}


def test_another_cluster_under_a_redis_that_was_kept(
        kafka: KafkaServer, own_kafka: KafkaServer, own_redis: RedisServer, topic_prefix: str, tmp_path: Path) -> None:
    before = settings_for(kafka, own_redis, topic_prefix, tmp_path)
    with Daemon(before, tmp_path, **OPTIONS) as daemon, QueueUser(before) as user:
        daemon.wait_running(1)
        assert user.result(user.submit("addition", 1, 2)) == 3
        admin = open_admin(before)
        old = admin.identity()
        admin.close()
        assert user.backend.redis.run([pack("GET", KAFKA_KEY)]) == [old.encode()]

    after = settings_for(own_kafka, own_redis, topic_prefix, tmp_path)
    with Daemon(after, tmp_path, **OPTIONS) as daemon, QueueUser(after) as user:
        def told() -> str:
            try:
                status = daemon.status()
            except DaemonNotRunning:
                return ""
            return " ".join(status["daemon"]["reasons"]) if status["daemon"]["state"] == "DEGRADED" else ""

        wait_for(lambda: "KAFKA_REPLACED" in told(), 30, "a daemon that says what is wrong")
        assert old in daemon.tail(200)
        # after each cool-down it tries again, for a moment
        wait_for(lambda: [w["state"] for w in daemon.workers()] == ["FATAL"], 10, "a worker that is left alone")
        task = user.submit("addition", 2, 3)
        user.backend.redis.run([pack("FLUSHDB")])               # what the error says to do
        assert user.result(task, 30) == 5
        wait_for(lambda: daemon.status()["daemon"]["state"] == "RUNNING", 10, "a healthy daemon")


def test_a_heartbeat_topic_made_anew_counts_as_well(
        kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str, tmp_path: Path) -> None:
    """Its offsets are the epochs: they would begin at 1 again."""
    settings = settings_for(kafka, redis_server, topic_prefix, tmp_path)
    with QueueUser(settings):
        admin = open_admin(settings)
        old = admin.identity()
        admin._call(admin._admin.delete_topics, [settings.kafka_heartbeat_topic])       # type: ignore[attr-defined]
        wait_for(lambda: admin.ensure_topics() and admin.identity() != old, 20, "a new topic")
        assert admin.identity().partition("/")[0] == old.partition("/")[0]
        admin.close()
