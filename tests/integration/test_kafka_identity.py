"""Which Kafka is it? Membership learns it before any partition is ours, and looks again when partitions come."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.config import Settings
from yadtq.errors import KafkaRefused
from yadtq.names import KAFKA_KEY
from yadtq.shard_calls import pack
from yadtq.transport import open_admin
from yadtq.transport.connection import connect_kafka_python, import_kafka
from yadtqd import kafka_identity, membership
from yadtqd.exits import Exit
from yadtqd.shared import Shared

pytestmark = pytest.mark.integration


def test_membership_learns_it_and_workers_compare_it(settings: Settings) -> None:
    admin = open_admin(settings)
    with QueueUser(settings) as user, RoleHost(settings) as host:
        host.start("membership")
        until(lambda: host.shared.partitions.owned() == (0, 1, 2, 3), "all partitions")
        assert host.shared.kafka == admin.identity()
        user.backend.redis.run([pack("SET", KAFKA_KEY, "another/one")])
        host.start("worker", "w0", (0,), wait=False)
        assert host.status("w0") == Exit.KAFKA_REPLACED
        user.backend.redis.run([pack("DEL", KAFKA_KEY)])
        host.start("worker", "w0", (0,))
        assert user.backend.redis.run([pack("GET", KAFKA_KEY)]) == [admin.identity().encode()]
        assert user.result(user.submit("addition", 1, 2)) == 3
    admin.close()


def test_the_library_knows_the_cluster(settings: Settings) -> None:
    """`_look_at_cluster` reads it where the library keeps it, without asking Kafka."""
    admin = open_admin(settings)
    admin.ensure_topics()
    consumer: Any = connect_kafka_python(import_kafka().KafkaConsumer, settings)
    consumer.partitions_for_topic(settings.kafka_task_topic)
    assert consumer._cluster.cluster_id == admin.cluster_id()
    consumer.close()
    admin.close()


def test_it_is_learnt_anew_when_the_cluster_is_another(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared.create(4, 4)
    asked: list[int] = []
    monkeypatch.setattr(membership, "ensure_topics", lambda *_: asked.append(1))
    try:
        one = membership.Membership(SimpleNamespace(settings=settings, shared=shared, slot=shared.slot(0)))  # type: ignore[arg-type]
        for known, cluster, again in [("", "new", 0), ("old/t", None, 0), ("new/t", "new", 0), ("old/t", "new", 1)]:
            asked.clear()
            shared.kafka = known
            one._member.consumer = SimpleNamespace(_cluster=SimpleNamespace(cluster_id=cluster))
            one._look_at_cluster()
            assert len(asked) == again, (known, cluster)
    finally:
        shared.close()


def test_a_user_who_may_not_ask_is_served_all_the_same() -> None:
    def refuse() -> str:
        raise KafkaRefused

    shared = Shared.create(4, 4)
    try:
        kafka_identity.learn(SimpleNamespace(identity=refuse), shared)  # type: ignore[arg-type]
        assert shared.kafka == ""
        kafka_identity.check(None, shared)  # type: ignore[arg-type]
    finally:
        shared.close()
