"""Dramatiq: Redis as broker and for results. It delivers at least once by default."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.systems import base

broker = RedisBroker(url=base.BROKER_URL)
broker.add_middleware(Results(backend=RedisBackend(url=base.RESULT_URL), store_results=True,
                              result_ttl=base.KEPT_S * 1000))
dramatiq.set_broker(broker)


@dramatiq.actor
def add(a: int, b: int) -> int:
    return a + b


@dramatiq.actor
def nap(n: int) -> int:
    time.sleep(base.NAP_S)
    return n


def worker_commands(workers: int) -> list[list[str]]:
    threads = base.AT_ONCE if base.IO else 8
    return [[sys.executable, "-m", "dramatiq", "-p", str(workers), "-t", str(threads), __name__]]


class Client(base.Client):
    """Messages one by one: `group.run` is the same loop."""

    def batch(self, first: int, count: int) -> list[Any]:
        return [add.send(n, 1) for n in range(first, first + count)]

    def naps(self, count: int) -> list[Any]:
        return [nap.send(n) for n in range(count)]

    def single(self, n: int) -> Any:
        return add.send(n, 1)

    def wait(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=int(base.LIMIT_S * 1000))

    def read(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get_result() for handle in handles]
