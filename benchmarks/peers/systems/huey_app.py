"""Huey on Redis. A task is taken off the list before it runs: what a worker held when it died is gone."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huey import RedisHuey

from benchmarks.peers.systems import base

huey = RedisHuey("peers", url=base.BROKER_URL, notify_result=True)


@huey.task()
def add(a: int, b: int) -> int:
    return a + b


@huey.task()
def nap(n: int) -> int:
    time.sleep(base.NAP_S)
    return n


def worker_commands(workers: int) -> list[list[str]]:
    start = [str(Path(sys.executable).with_name("huey_consumer")), f"{__name__}.huey", "-q", "-n"]
    if base.IO:
        return [[*start, "-k", "thread", "-w", str(base.AT_ONCE)]] * workers
    return [[*start, "-k", "process", "-w", str(workers)]]


class Client(base.Client):
    """Tasks one by one: there is no call that takes many."""

    def batch(self, first: int, count: int) -> list[Any]:
        return [add(n, 1) for n in range(first, first + count)]

    def naps(self, count: int) -> list[Any]:
        return [nap(n) for n in range(count)]

    def single(self, n: int) -> Any:
        return add(n, 1)

    def wait(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=base.LIMIT_S, preserve=True)

    def ended(self) -> int:
        return int(self.broker.hlen("huey.results.peers"))

    def read(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get(preserve=True) for handle in handles]
