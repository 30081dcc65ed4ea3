"""arq on Redis."""
from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import arq
from arq.connections import RedisSettings
from arq.jobs import ResultNotFound

from benchmarks.peers.systems import base
from benchmarks.peers.systems.aio import AioClient

REDIS = RedisSettings(port=base.REDIS_PORT, database=0)
POLL_S = 0.001      # Job.result asks so often; its default is 0.5 s


async def add(_: dict[str, Any], a: int, b: int) -> int:
    return a + b


async def nap(_: dict[str, Any], n: int) -> int:
    await asyncio.sleep(base.NAP_S)
    return n


class WorkerSettings:
    """As `arq` reads them."""

    functions = (add, nap)
    redis_settings = REDIS
    log_results = False
    max_jobs = base.AT_ONCE if base.IO else 100
    poll_delay = 0.01
    keep_result = base.KEPT_S


def worker_commands(workers: int) -> list[list[str]]:
    return [[str(Path(sys.executable).with_name("arq")), f"{__name__}.WorkerSettings"]] * workers


class Client(AioClient):
    """One coroutine a job: there is no call that takes many."""

    calls = 50      # it takes a connection for each
    _sent = 0

    async def open(self) -> None:
        self._pool = await arq.create_pool(REDIS)

    async def shut(self) -> None:
        await self._pool.aclose()

    async def submit(self, n: int) -> Any:
        self._sent += 1
        return await self._pool.enqueue_job("add", n, 1)

    async def nap(self, n: int) -> Any:
        self._sent += 1
        return await self._pool.enqueue_job("nap", n)

    async def result(self, handle: Any) -> Any:
        while True:
            try:
                return await handle.result(timeout=base.LIMIT_S, poll_delay=POLL_S)
            except ResultNotFound:      # it looks for result and job one after the other, and misses what ends between
                continue

    async def stored(self, handle: Any) -> Any:
        return (await handle.result_info()).result

    def ended(self) -> int:
        return self._sent - int(self.broker.zcard("arq:queue"))     # a job leaves the queue as its result is stored
