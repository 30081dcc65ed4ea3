"""A client and a worker in one thread of one process: the real code of both, on a real Redis, in batches of fixed size.

What it does for a given number of tasks is the same each time: no other thread takes part, no batch depends on how fast
the machine is. That is what benchmarks.cost counts. Kafka is the in-memory transport; nothing else is replaced. Never
a measure of speed: benchmarks.peers and benchmarks.cpu_per_task measure the processes that users run.
"""
from __future__ import annotations

import time
from contextvars import copy_context
from typing import Any

from yadtq import YADTQClient
from yadtq.config import Settings
from yadtq.transport.memory import broker_of
from yadtqd import processor, registry, result_writer
from yadtqd.child import ChildContext
from yadtqd.shared import Shared, boottime_ns
from yadtqd.worker import Worker

BATCH = 1000        # tasks submitted, claimed, run and recorded together: a chunk of the client, a claim of a worker
PARTITIONS = 4
NEVER_NS = 3_600_000_000_000


class OneProcess:
    """Use as a context; `settings` names the Redis, which must be empty."""

    def __init__(self, redis_host: str, redis_port: int, name: str) -> None:
        self._patience_ns, self._lay_ns = result_writer.PATIENCE_NS, processor.LAY_NS
        result_writer.PATIENCE_NS, processor.LAY_NS = (NEVER_NS, NEVER_NS), NEVER_NS    # nothing happens by time
        self._settings = Settings(
            transport="memory", kafka_servers=f"{name}:1", redis_host=redis_host, redis_port=redis_port,
            num_partitions=PARTITIONS, durability="off", host_name="one-process", log_level="WARNING")
        self.client = YADTQClient(settings=self._settings)
        shared = Shared.create(n_slots=1, n_partitions=PARTITIONS)
        shared.lease_ns = boottime_ns() + NEVER_NS
        for partition in range(PARTITIONS):
            shared.partitions[partition].owned = 1
        context = ChildContext(self._settings, "worker", "w0", shared.slot(0), shared, tuple(range(PARTITIONS)))
        self._worker = worker = Worker(context)
        worker._registry = registry.load()
        worker._connect()
        worker._assemble()
        worker._writer.patience_ns = NEVER_NS
        worker._consumer.start_at(worker._positions)
        worker._consumer._window = lambda: 4 * BATCH        # not by how long tasks take

    def __enter__(self) -> OneProcess:
        return self

    def __exit__(self, *_: object) -> None:
        result_writer.PATIENCE_NS, processor.LAY_NS = self._patience_ns, self._lay_ns
        self._worker._transport.close()
        self._worker._producer.close(1)
        self._worker._backend.close()
        self.client.close()

    def submit(self, first: int = 0) -> list[str]:
        """A batch of additions (n, 1), n from `first` on; their ids."""
        return self.client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(first, first + BATCH)])

    def work(self) -> None:
        """Fetch, claim, run, record and settle what was submitted, as a worker does: its watermark is at the end."""
        copy_context().run(self._work)  # a worker notes in this thread's context what it runs: not for who comes after

    def _work(self) -> None:
        worker = self._worker
        processor, consumer = worker._processor, worker._consumer
        while consumer._ledger.open < BATCH:
            consumer._round()
        processor._drain_until = time.monotonic() + 60      # `run` returns when nothing that is claimed is left
        processor.run()
        processor._drain_until = 0.0
        worker._bookkeeper.commit(time.monotonic())

    @property
    def bytes_sent(self) -> int:
        """Bytes of the records of a last batch, keys and values."""
        records = [record for log in broker_of(self._settings).topics[self._settings.kafka_task_topic]
                   for record in log.records[-BATCH // PARTITIONS:]]
        return sum(len(record.value) + len(record.key or b"") for record in records)

    def submit_and_work(self) -> list[str]:
        """Both; the ids."""
        ids = self.submit()
        self.work()
        return ids

    def results(self, ids: list[str]) -> list[Any]:
        """The results, which are there."""
        return self.client.get_results(ids, timeout=30)
