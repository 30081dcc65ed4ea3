"""taskiq on a Redis stream, its acknowledging broker."""
from __future__ import annotations

from taskiq_redis import RedisStreamBroker

from benchmarks.peers.systems import base, taskiq_worker

broker = taskiq_worker.with_results(RedisStreamBroker(base.BROKER_URL, queue_name="peers", consumer_id="0"))
add, nap = taskiq_worker.declare(broker)


def worker_commands(workers: int) -> list[list[str]]:
    return taskiq_worker.worker_commands(__name__, workers)


class Client(taskiq_worker.TaskiqClient):
    """On this broker."""

    queue = broker
    tasks = add, nap
