"""taskiq on Kafka with Redis results. Offsets are committed by time, whatever became of the tasks."""
from __future__ import annotations

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.partitioner import DefaultPartitioner
from kafka.admin import NewTopic
from taskiq_aio_kafka import AioKafkaBroker

from benchmarks.peers.systems import base, taskiq_worker

broker = taskiq_worker.with_results(AioKafkaBroker(
    base.KAFKA, kafka_topic=NewTopic(name=base.TOPIC, num_partitions=4, replication_factor=1)))
# Both classes are aiokafka's own: with kafka-python 3 the defaults that taskiq-aio-kafka 1.0 takes from there fail.
broker.configure_producer(acks="all", linger_ms=0 if base.ONE_BY_ONE else 5, partitioner=DefaultPartitioner())
broker.configure_consumer(group_id=base.TOPIC, auto_offset_reset="earliest",
                          partition_assignment_strategy=(RoundRobinPartitionAssignor,))
add, nap = taskiq_worker.declare(broker)


def worker_commands(workers: int) -> list[list[str]]:
    return taskiq_worker.worker_commands(__name__, workers)


class Client(taskiq_worker.TaskiqClient):
    """On this broker."""

    queue = broker
    tasks = add, nap
