"""Topics and offsets: which topics there are and with which settings, and questions about their logs.

Owns the settings of every topic of YADTQ (`topic_plans`) and an administration client on kafka-python, whichever
transport moves the records. Runs in whatever process opened it, its network in a thread of the library. Never produces,
never consumes, never commits.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from yadtq.delayed import LEVELS
from yadtq.errors import KafkaConnectionError, KafkaRefused, TooFewPartitions, UnknownTopic
from yadtq.transport.base import Guarded
from yadtq.transport.connection import RETRY_BACKOFF_MS, connect_kafka_python, from_kafka_python, import_kafka

if TYPE_CHECKING:
    from yadtq.config import Settings

kafka = import_kafka()
log = logging.getLogger(__name__)
T = TypeVar("T")

HEARTBEAT_RETENTION_MS = 3_600_000  # an hour of health to look back at
HEARTBEAT_SEGMENT_MS = 600_000  # only closed segments are deleted: a reader finds 70 minutes of beats at most
DEAD_LETTER_PARTITIONS = 1  # few records, listed in the order of their deaths
KEEP_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_EARLIEST, _LATEST = -2, -1  # sentinels of Kafka's ListOffsets
_NO_ERROR, _UNKNOWN_TOPIC, _ALREADY_EXISTS = 0, 3, 36  # error codes of Kafka's protocol


@dataclass(frozen=True)
class TopicPlan:
    """How a topic is created; what exists is left as it is."""

    partitions: int
    configs: dict[str, str] = field(default_factory=dict)


def topic_plans(settings: Settings) -> dict[str, TopicPlan]:
    """The topics of these settings by name.

    Tasks, delayed ones and dead letters never go by age or size: Kafka would delete accepted tasks that have not run.
    """
    replicas = settings.kafka_min_insync_replicas
    durable = {"min.insync.replicas": str(replicas)} if replicas else {}
    heartbeats = {"cleanup.policy": "delete", "retention.ms": str(HEARTBEAT_RETENTION_MS), "retention.bytes": "-1",
                  "segment.ms": str(HEARTBEAT_SEGMENT_MS)}
    return {
        settings.kafka_task_topic: TopicPlan(settings.num_partitions, KEEP_FOR_EVER | durable),
        settings.kafka_dead_letter_topic: TopicPlan(DEAD_LETTER_PARTITIONS, KEEP_FOR_EVER | durable),
        settings.kafka_delayed_topic: TopicPlan(LEVELS, KEEP_FOR_EVER | durable),
        settings.kafka_heartbeat_topic: TopicPlan(1, heartbeats | durable),  # one: its offsets are the workers' epochs
    }


def losing_settings(configs: dict[str, str]) -> list[str]:
    """Which settings of a topic make Kafka delete records that nobody has read, as `name=value`."""
    limits = ("retention.ms", "retention.bytes")
    losing = [f"{name}={configs[name]}" for name in limits if configs.get(name, "-1") != "-1"]
    if "compact" in configs.get("cleanup.policy", ""):
        losing.append(f"cleanup.policy={configs['cleanup.policy']}")
    return losing


class KafkaAdmin(Guarded):
    """See `yadtq.transport.Admin`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        self._admin = connect_kafka_python(kafka.KafkaAdminClient, settings)

    def _call(self, ask: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Ask until there is an answer or the deadline: the library's admin client tries everything only once."""
        self._check()
        end_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return ask(*arguments, **named)
            except (kafka.errors.KafkaError, OSError, RuntimeError) as error:
                final = isinstance(error, kafka.errors.UnknownTopicOrPartitionError)
                if final or not getattr(error, "retriable", True) or time.monotonic() >= end_s:
                    raise from_kafka_python(error) from error
            time.sleep(RETRY_BACKOFF_MS / 1000)

    # ---- topics -----------------------------------------------------------------------------------------------------
    def ensure_topics(self, *, grow: bool = False) -> int:
        """Create what is missing; see `Admin.ensure_topics`. Any number of clients may do this at the same time."""
        plans = topic_plans(self._settings)
        counts = self._partition_counts(list(plans))
        missing = {name: plan for name, plan in plans.items() if counts[name] == 0}
        if missing:
            self._create(missing)
            counts = self._await_partitions(dict.fromkeys(plans, 1))
        kept = [name for name, plan in plans.items() if plan.configs["retention.ms"] == "-1" and name not in missing]
        if kept:
            self._warn_of_retention(kept)
        name, wanted = self._settings.kafka_task_topic, self._settings.num_partitions
        if counts[name] < wanted:
            if not grow:
                raise TooFewPartitions(f"topic {name} has {counts[name]} partitions, {wanted} were asked for: ask for "
                                       f"{counts[name]}, or have it grown (tasks with a key then change partition)")
            counts = self._grow(name, wanted)
        return counts[name]

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has."""
        count = self._partition_counts([topic])[topic]
        if not count:
            raise UnknownTopic(f"topic {topic} does not exist")
        return count

    def _partition_counts(self, names: list[str]) -> dict[str, int]:
        """Partitions that are ready (they have a leader), by topic; 0 for a topic that does not exist."""
        counts = dict.fromkeys(names, 0)
        for topic in self._call(self._admin.describe_topics, names):
            if topic["error_code"] == _NO_ERROR:
                counts[topic["name"]] = len(topic["partitions"])
            elif topic["error_code"] != _UNKNOWN_TOPIC:
                error = kafka.errors.for_code(topic["error_code"])
                if not error.retriable:
                    raise KafkaRefused(f"topic {topic['name']}: {error.__name__}")
        return counts

    def _create(self, plans: dict[str, TopicPlan]) -> None:
        wanted = {name: {"num_partitions": plan.partitions, "configs": plan.configs,
                         "replication_factor": self._settings.kafka_replication_factor} for name, plan in plans.items()}
        answer = self._call(self._admin.create_topics, wanted, raise_errors=False)
        for topic in answer["topics"]:
            if topic["error_code"] not in (_NO_ERROR, _ALREADY_EXISTS):  # another client may have been quicker
                raise KafkaRefused(f"topic {topic['name']} could not be created: {topic['error_message']} "
                                   f"({kafka.errors.for_code(topic['error_code']).__name__})")

    def _grow(self, name: str, wanted: int) -> dict[str, int]:
        try:
            self._call(self._admin.create_partitions, {name: wanted})
        except KafkaRefused as error:
            # Another client has grown it meanwhile: as good, though the broker that we ask may not know it yet.
            if not isinstance(error.__cause__, kafka.errors.InvalidPartitionsError):
                raise KafkaRefused(f"topic {name} can't be grown to {wanted} partitions: {error.message}") from error
        return self._await_partitions({name: wanted})

    def _await_partitions(self, wanted: dict[str, int]) -> dict[str, int]:
        """Until these topics are known to the broker with at least so many partitions: creation is asynchronous."""
        end_s = time.monotonic() + self._timeout_s
        while True:
            counts = self._partition_counts(list(wanted))
            if all(counts[name] >= count for name, count in wanted.items()):
                return counts
            if time.monotonic() >= end_s:
                raise KafkaConnectionError(f"topics are not ready after {self._timeout_s:g} s: {counts}")
            time.sleep(RETRY_BACKOFF_MS / 1000)

    def _warn_of_retention(self, names: list[str]) -> None:
        from kafka.admin import ConfigResource, ConfigResourceType

        resource: Any = ConfigResource  # untyped
        asked = dict.fromkeys(("retention.ms", "retention.bytes", "cleanup.policy"))
        resources = [resource(ConfigResourceType.TOPIC, name, asked) for name in names]
        answer = self._call(self._admin.describe_configs, resources, config_filter="all")
        for name, configs in answer.get("topic", {}).items():
            if losing := losing_settings({key: str(config["value"]) for key, config in configs.items()}):
                log.warning("topic %s has %s: Kafka may delete tasks that have not run; set retention.ms=-1, "
                            "retention.bytes=-1 and cleanup.policy=delete on it", name, ", ".join(losing))

    # ---- offsets ----------------------------------------------------------------------------------------------------
    def _partitions(self, topic: str) -> list[Any]:
        return [kafka.TopicPartition(topic, partition) for partition in range(self.partition_count(topic))]

    def _offsets(self, topic: str, which: int, partitions: Iterable[int] | None = None) -> dict[int, int]:
        asked = (self._partitions(topic) if partitions is None else
                 [kafka.TopicPartition(topic, partition) for partition in partitions])
        found = self._call(self._admin.list_partition_offsets, dict.fromkeys(asked, which),
                           timeout_ms=self._settings.kafka_request_timeout_ms)
        return {tp.partition: at.offset for tp, at in found.items()}

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """The first offset that can be read, per partition."""
        return self._offsets(topic, _EARLIEST)

    def end_offsets(self, topic: str, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """The offset that the next record will get, per partition: of all, or of these."""
        return self._offsets(topic, _LATEST, partitions)

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """The first offset that is as young as that, per partition; the end where none is."""
        ends = self.end_offsets(topic)  # asked first: what is written meanwhile is then not skipped
        found = self._offsets(topic, timestamp_ms)
        return {partition: end if found.get(partition, -1) < 0 else found[partition] for partition, end in ends.items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group committed; partitions without a commit are missing."""
        found = self._call(self._admin.list_group_offsets, {group: self._partitions(topic)})
        return {tp.partition: at.offset for tp, at in found.get(group, {}).items() if at.offset >= 0}

    def delete_records(self, topic: str, offsets: dict[int, int]) -> dict[int, int]:
        """Delete what lies below these offsets; returns where each log begins now."""
        if not offsets:
            return {}
        wanted = {kafka.TopicPartition(topic, partition): offset for partition, offset in offsets.items()}
        answer = self._call(self._admin.delete_records, wanted, timeout_ms=self._settings.kafka_request_timeout_ms)
        return {tp.partition: result["low_watermark"] for tp, result in answer.items()}

    def cluster_id(self) -> str:
        """The id of the Kafka cluster."""
        return str(self._call(self._admin.describe_cluster)["cluster_id"])

    def identity(self) -> str:
        """What epochs are counted in: cluster and heartbeat topic; see `Admin.identity`."""
        end_s = time.monotonic() + self._timeout_s
        while True:
            # each question may go to another broker, and one that has just started may not know the topic yet: what it
            # says would be taken for another Kafka's
            topic = self._call(self._admin.describe_topics, [self._settings.kafka_heartbeat_topic])[0]
            if topic["error_code"] == _NO_ERROR:
                return f"{self.cluster_id()}/{topic.get('topic_id') or '-'}"
            if time.monotonic() >= end_s:
                raise KafkaConnectionError(f"topic {self._settings.kafka_heartbeat_topic} is not known to Kafka after "
                                           f"{self._timeout_s:g} s")
            time.sleep(RETRY_BACKOFF_MS / 1000)

    def close(self) -> None:
        """Release the connections. Idempotent."""
        if not self.closed:
            self._check()
            self.closed = True
            self._admin.close()

    def _library_objects(self) -> list[Any]:
        return [self._admin]
