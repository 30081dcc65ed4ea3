"""Celery: Redis as broker and for results."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from celery import Celery

from benchmarks.peers.systems import base

app = Celery("peers", broker=base.BROKER_URL, backend=base.RESULT_URL)
app.conf.update(
    task_serializer="json", result_serializer="json", accept_content=["json"], task_default_queue="peers",
    result_expires=base.KEPT_S, task_ignore_result=False, task_track_started=False,
    worker_prefetch_multiplier=4 if base.IO else 64,    # the docs: many short tasks, a large multiplier
    worker_disable_rate_limits=True, worker_send_task_events=False, worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def nap(n: int) -> int:
    time.sleep(base.NAP_S)
    return n


def worker_commands(workers: int) -> list[list[str]]:
    start = [sys.executable, "-m", "celery", "-A", __name__, "worker", "--loglevel", "WARNING", "--without-gossip",
             "--without-mingle", "--without-heartbeat"]
    if base.IO:
        return [[*start, "-P", "threads", "-c", str(base.AT_ONCE), "-n", f"worker{n}"] for n in range(workers)]
    return [[*start, "-P", "prefork", "-c", str(workers)]]


class Client(base.Client):
    """One producer for a batch, as the docs advise; Celery has no call that takes many."""

    def batch(self, first: int, count: int) -> list[Any]:
        with app.producer_pool.acquire(block=True) as producer:
            return [add.apply_async((n, 1), producer=producer) for n in range(first, first + count)]

    def naps(self, count: int) -> list[Any]:
        with app.producer_pool.acquire(block=True) as producer:
            return [nap.apply_async((n,), producer=producer) for n in range(count)]

    def single(self, n: int) -> Any:
        return add.delay(n, 1)

    def wait(self, handle: Any) -> Any:
        return handle.get(timeout=base.LIMIT_S)

    def read(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get(timeout=base.LIMIT_S) for handle in handles]
