"""Topics and offsets: created with settings that lose nothing, by many at once, told when they were made otherwise.

On real Kafka; what applies to it, also in memory.
"""
from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.transport_support import TRANSPORTS, producing, settings_of
from yadtq.errors import KafkaConnectionError, KafkaRefused, TooFewPartitions, UnknownTopic
from yadtq.transport import ensure_topics, open_admin
from yadtq.transport.admin import losing_settings, topic_plans

if TYPE_CHECKING:
    from tests.support.services import KafkaServer
    from yadtq.config import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(params=[TRANSPORTS[1], TRANSPORTS[2]])
def settings(request: pytest.FixtureRequest, topic_prefix: str) -> Settings:
    """Without topics."""
    servers = "" if request.param == "memory" else request.getfixturevalue("kafka").bootstrap
    return settings_of(request.param, servers, topic_prefix)


@pytest.fixture
def real(kafka: KafkaServer, topic_prefix: str) -> Settings:
    """Real Kafka only, without topics."""
    return settings_of("auto", kafka.bootstrap, topic_prefix)


def configs_of(settings: Settings, topic: str) -> dict[str, str]:
    from kafka.admin import ConfigResource, ConfigResourceType

    admin: Any = open_admin(settings)
    found = admin._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    admin.close()
    return {name: config["value"] for name, config in found["topic"][topic].items()}


def create(settings: Settings, topic: str, partitions: int, **configs: str) -> None:
    admin: Any = open_admin(settings)
    admin._admin.create_topics({topic: {"num_partitions": partitions, "configs": {
        name.replace("_", "."): value for name, value in configs.items()}}}, wait_for_metadata=True)
    admin.close()


def test_topics_are_created_once_and_then_left_alone(settings: Settings) -> None:
    assert ensure_topics(settings) == 4
    assert ensure_topics(settings) == 4
    assert ensure_topics(settings.replace(num_partitions=2)) == 4, "what is there is used"
    admin = open_admin(settings)
    assert admin.partition_count(settings.kafka_task_topic) == 4
    assert admin.partition_count(settings.kafka_heartbeat_topic) == 1
    assert admin.partition_count(settings.kafka_dead_letter_topic) == 1
    admin.close()


def test_too_few_partitions_is_an_error_unless_growing_is_wanted(settings: Settings) -> None:
    ensure_topics(settings)
    with pytest.raises(TooFewPartitions, match="has 4 partitions, 7"):
        ensure_topics(settings.replace(num_partitions=7))
    assert ensure_topics(settings.replace(num_partitions=7), grow=True) == 7
    assert ensure_topics(settings.replace(num_partitions=7)) == 7


def test_any_number_of_clients_may_create_and_grow_at_once(settings: Settings) -> None:
    results: list[object] = []

    def ensure(partitions: int) -> None:
        try:
            results.append(ensure_topics(settings.replace(num_partitions=partitions), grow=True))
        except Exception as error:  # looked at below
            results.append(error)

    for partitions in (3, 6):  # created by eight at once, grown by eight at once
        results.clear()
        threads = [threading.Thread(target=ensure, args=(partitions,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [partitions] * 8


def test_offsets_are_told_and_records_deleted_below_them(settings: Settings) -> None:
    ensure_topics(settings)
    topic = settings.kafka_task_topic
    with producing(settings) as producer:
        producer.send_many(topic, [(n % 4, b"x", None) for n in range(38)])
        assert producer.flush(5) == 0
    admin = open_admin(settings)
    assert admin.begin_offsets(topic) == dict.fromkeys(range(4), 0)
    assert admin.end_offsets(topic) == {0: 10, 1: 10, 2: 9, 3: 9}
    assert admin.end_offsets(topic, [1, 3]) == {1: 10, 3: 9}
    assert admin.delete_records(topic, {0: 4, 2: 9}) == {0: 4, 2: 9}
    assert admin.delete_records(topic, {0: 2}) == {0: 4}, "never backwards"
    assert admin.delete_records(topic, {}) == {}
    assert admin.begin_offsets(topic) == {0: 4, 1: 0, 2: 9, 3: 0}
    assert admin.end_offsets(topic) == {0: 10, 1: 10, 2: 9, 3: 9}
    with pytest.raises(KafkaRefused):
        admin.delete_records(topic, {1: 11})
    assert admin.committed("nobody", topic) == {}
    assert len(admin.cluster_id()) > 5
    assert admin.cluster_id() == admin.cluster_id()
    cluster, _, heartbeats = admin.identity().partition("/")
    assert (cluster, admin.identity()) == (admin.cluster_id(), f"{cluster}/{heartbeats}")
    assert heartbeats
    for ask in (admin.partition_count, admin.begin_offsets, admin.end_offsets):
        with pytest.raises(UnknownTopic):
            ask("no_such_topic")
    admin.close()
    admin.close()


def test_a_broker_that_does_not_know_the_topic_yet_is_no_other_kafka(
        real: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    admin: Any = open_admin(real)
    admin.ensure_topics()
    known, ask, asked = admin.identity(), admin._admin.describe_topics, []

    def not_yet(names: list[str]) -> list[dict[str, object]]:
        asked.append(names)
        return [{"error_code": 3, "name": names[0], "topic_id": None}] if len(asked) < 3 else ask(names)

    monkeypatch.setattr(admin._admin, "describe_topics", not_yet)
    assert admin.identity() == known
    assert len(asked) == 3
    admin.close()


def test_what_a_group_committed_is_told(real: Settings) -> None:
    from yadtq.transport.connection import connect_kafka_python, import_kafka

    ensure_topics(real)
    kafka = import_kafka()
    consumer: Any = connect_kafka_python(kafka.KafkaConsumer, real, group_id=real.kafka_group, enable_auto_commit=False)
    consumer.assign([kafka.TopicPartition(real.kafka_task_topic, 1)])
    consumer.commit({kafka.TopicPartition(real.kafka_task_topic, 1): kafka.structs.OffsetAndMetadata(17, "", -1)})
    consumer.close(autocommit=False)
    admin = open_admin(real)
    assert admin.committed(real.kafka_group, real.kafka_task_topic) == {1: 17}
    admin.close()


def test_nothing_that_holds_tasks_is_ever_deleted_by_age_or_size(real: Settings) -> None:
    ensure_topics(real)
    for topic in (real.kafka_task_topic, real.kafka_dead_letter_topic):
        configs = configs_of(real, topic)
        assert configs["cleanup.policy"] == "delete"
        assert configs["retention.ms"] == configs["retention.bytes"] == "-1"
    beats = configs_of(real, real.kafka_heartbeat_topic)
    assert (beats["cleanup.policy"], beats["retention.ms"], beats["segment.ms"]) == ("delete", "3600000", "600000")


def test_replication_is_as_the_settings_say(real: Settings) -> None:
    settings = real.replace(kafka_replication_factor=1, kafka_min_insync_replicas=1)
    assert all(plan.configs["min.insync.replicas"] == "1" for plan in topic_plans(settings).values())
    assert all("min.insync.replicas" not in plan.configs for plan in topic_plans(real).values())
    ensure_topics(settings)
    with pytest.raises(KafkaRefused, match=r"(?i)replication"):  # one broker can't hold three replicas
        ensure_topics(settings.replace(kafka_replication_factor=3, kafka_task_topic=f"{real.kafka_task_topic}_3"))


def test_a_topic_that_deletes_tasks_is_warned_of(real: Settings, caplog: pytest.LogCaptureFixture) -> None:
    create(real, real.kafka_task_topic, 4, retention_ms="604800000")
    create(real, real.kafka_dead_letter_topic, 1, cleanup_policy="compact")
    with caplog.at_level(logging.WARNING, "yadtq.transport.admin"):
        assert ensure_topics(real) == 4
    lines = "\n".join(caplog.messages)
    assert f"topic {real.kafka_task_topic} has retention.ms=604800000" in lines
    assert f"topic {real.kafka_dead_letter_topic} has cleanup.policy=compact" in lines
    assert losing_settings({"retention.ms": "-1", "retention.bytes": "1", "cleanup.policy": "delete"}) == [
        "retention.bytes=1"]


def test_asking_about_topics_does_not_create_them(own_kafka: KafkaServer, topic_prefix: str) -> None:
    """Brokers create topics that are asked about, out of the box, with a retention that deletes tasks."""
    own_kafka.stop()
    prepare = own_kafka.prepare

    def with_auto_creation() -> None:
        prepare()
        with own_kafka.config.open("a") as config:
            config.write("\nauto.create.topics.enable=true\n")

    own_kafka.prepare = with_auto_creation  # type: ignore[method-assign]
    own_kafka.start()
    for transport in ("librdkafka", "kafka-python"):
        settings = settings_of(transport, own_kafka.bootstrap, topic_prefix, kafka_request_timeout_ms=1000)
        with producing(settings) as producer:
            try:
                producer.send(f"{topic_prefix}_missing", 0, b"x")
                producer.flush(2)
            except UnknownTopic:
                pass
        admin: Any = open_admin(settings)
        with pytest.raises(UnknownTopic):
            admin.partition_count(settings.kafka_task_topic)
        assert [name for name in admin._admin.list_topics() if name.startswith(topic_prefix)] == []
        admin.close()


def test_when_all_is_there_it_takes_milliseconds(real: Settings) -> None:
    ensure_topics(real)
    admin = open_admin(real)
    taken_s = []
    for _ in range(5):
        start_s = time.monotonic()
        admin.ensure_topics()
        taken_s.append(time.monotonic() - start_s)
    admin.close()
    assert min(taken_s) < 0.05


def test_in_memory_an_outage_is_told_within_the_deadline(topic_prefix: str) -> None:
    from yadtq.transport.memory import broker_of

    settings = settings_of("memory", "", topic_prefix, kafka_request_timeout_ms=200)
    admin = open_admin(settings)
    broker_of(settings).stop()
    for ask in (lambda: admin.partition_count("t"), lambda: open_admin(settings)):
        with pytest.raises(KafkaConnectionError):
            ask()
    broker_of(settings).start()
    assert admin.ensure_topics() == 4
