"""YADTQ with its default guarantees: every record acknowledged by all replicas, every task claimed, one result each.

`addition` is the task type that ships, which checks its operands besides adding them. A batch is over when every result
is in the client's hands; of the others it is asked only that the results are stored.
"""
from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.systems import base
from yadtq import TaskStatus, YADTQClient
from yadtq.config import Settings

PARTITIONS = 4


def _settings() -> Settings:
    topic = base.TOPIC
    return Settings(
        kafka_servers=base.KAFKA, redis_port=base.REDIS_PORT, transport=os.environ.get("PEERS_TRANSPORT", "librdkafka"),
        num_partitions=PARTITIONS, kafka_task_topic=topic, kafka_heartbeat_topic=f"{topic}_beats",
        kafka_dead_letter_topic=f"{topic}_dead", kafka_delayed_topic=f"{topic}_delayed", kafka_group=topic)


def worker_commands(workers: int) -> list[list[str]]:
    """The daemon, with a configuration file in the working folder of the run."""
    settings, folder = _settings(), Path(os.environ["PEERS_FOLDER"])
    names = ("kafka_servers", "redis_port", "transport", "num_partitions", "kafka_task_topic", "kafka_heartbeat_topic",
             "kafka_dead_letter_topic", "kafka_delayed_topic", "kafka_group")
    values = {name: getattr(settings, name) for name in names}
    values |= {"host_name": "peers", "max_workers": workers, "control_socket": str(folder / "yadtqd.sock"),
               "pid_file": str(folder / "yadtqd.pid"), "tasks": ["benchmarks.peers.systems.yadtq_tasks"]}
    if base.IO:
        values["worker_threads"] = base.AT_ONCE
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".toml", delete=False) as file:
        file.writelines(f"{name} = {value!r}\n" for name, value in values.items())     # strings, ints, lists of strings
    return [[sys.executable, "-m", "yadtqd.main", "--config", file.name]]


class Client(base.Client):
    """submit_tasks and get_results; submit_task and get_result for single ones."""

    def __init__(self) -> None:
        super().__init__()
        self._client = YADTQClient(settings=_settings())

    def batch(self, first: int, count: int) -> list[Any]:
        return self._client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(first, first + count)])

    def naps(self, count: int) -> list[Any]:
        return self._client.submit_tasks([{"task": "nap", "args": [n]} for n in range(count)])

    def batch_to_end(self, submit: Callable[[], list[Any]], count: int) -> tuple[list[Any], float, float]:
        begun = time.perf_counter()
        handles = submit()
        submitted = time.perf_counter()
        self._client.get_results(handles, timeout=base.LIMIT_S)
        return handles, submitted - begun, time.perf_counter() - begun

    def single(self, n: int) -> Any:
        return self._client.submit_task("addition", args=[n, 1])

    def wait(self, handle: Any) -> Any:
        return self._client.get_result(handle, timeout=base.LIMIT_S)

    def ended(self) -> int:
        return self._client.count_tasks()[TaskStatus.SUCCESS]

    def read(self, handles: Sequence[Any]) -> list[Any]:
        return self._client.get_results(handles, timeout=base.LIMIT_S)

    def close(self) -> None:
        self._client.close()
