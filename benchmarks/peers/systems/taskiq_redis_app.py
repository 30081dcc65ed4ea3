"""taskiq on a Redis stream, its acknowledging broker."""
from __future__ import annotations

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.systems import base, taskiq_worker

broker = RedisStreamBroker(base.BROKER_URL, queue_name="peers", consumer_id="0").with_result_backend(
    RedisAsyncResultBackend(base.RESULT_URL, result_ex_time=base.KEPT_S, serializer=ORJSONSerializer())
).with_serializer(ORJSONSerializer())
add, nap = taskiq_worker.declare(broker)


def worker_commands(workers: int) -> list[list[str]]:
    return taskiq_worker.worker_commands(__name__, workers)


class Client(taskiq_worker.TaskiqClient):
    """On this broker."""

    queue = broker
    tasks = add, nap
