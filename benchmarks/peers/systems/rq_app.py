"""RQ with its SimpleWorker, which does not fork for each job."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rq import Queue

from benchmarks.peers.systems import base

CHUNK = 500         # jobs that enqueue_many puts into one pipeline


def add(a: int, b: int) -> int:
    return a + b


def nap(n: int) -> int:
    time.sleep(base.NAP_S)
    return n


def worker_commands(workers: int) -> list[list[str]]:
    rq = str(Path(sys.executable).with_name("rq"))
    return [[rq, "worker-pool", "-q", "-n", str(workers), "-u", base.BROKER_URL, "-w", "rq.worker.SimpleWorker",
             "peers"]]


class Client(base.Client):
    """enqueue_many for batches."""

    def __init__(self) -> None:
        super().__init__()
        self._queue = Queue("peers", connection=self.broker)

    def _many(self, function: Any, arguments: Sequence[tuple[int, ...]]) -> list[Any]:
        jobs: list[Any] = []
        for start in range(0, len(arguments), CHUNK):
            jobs += self._queue.enqueue_many([Queue.prepare_data(function, one, result_ttl=base.KEPT_S)
                                              for one in arguments[start:start + CHUNK]])
        return jobs

    def batch(self, first: int, count: int) -> list[Any]:
        return self._many(add, [(n, 1) for n in range(first, first + count)])

    def naps(self, count: int) -> list[Any]:
        return self._many(nap, [(n,) for n in range(count)])

    def single(self, n: int) -> Any:
        return self._queue.enqueue(add, n, 1, result_ttl=base.KEPT_S)

    def wait(self, handle: Any) -> Any:
        return handle.latest_result(timeout=int(base.LIMIT_S)).return_value

    def ended(self) -> int:
        return int(self.broker.zcard("rq:finished:peers"))

    def read(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.return_value(refresh=True) for handle in handles]
