"""streaQ on Redis streams."""
from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from streaq import Worker

from benchmarks.peers.systems import base
from benchmarks.peers.systems.aio import AioClient

CHUNK = 500
READ_AT_ONCE = 50   # each call of `result` subscribes to a channel, even when the result is there

worker: Any = Worker(redis_url=base.BROKER_URL, queue_name="peers", concurrency=base.AT_ONCE if base.IO else 100)


@worker.task(ttl=base.KEPT_S)
async def add(a: int, b: int) -> int:
    return a + b


@worker.task(ttl=base.KEPT_S)
async def nap(n: int) -> int:
    await asyncio.sleep(base.NAP_S)
    return n


def worker_commands(workers: int) -> list[list[str]]:
    return [[sys.executable, "-m", "streaq", "run", f"{__name__}:worker", "-w", str(workers)]]


class Client(AioClient):
    """enqueue_many for batches."""

    calls = READ_AT_ONCE

    async def open(self) -> None:
        await worker.__aenter__()

    def close(self) -> None:
        """Nothing: its context may only be left by the coroutine that entered it, and the process ends anyway."""

    async def _many(self, function: Any, arguments: Sequence[tuple[int, ...]]) -> list[Any]:
        tasks: list[Any] = []
        for start in range(0, len(arguments), CHUNK):
            chunk = [function.enqueue(*one) for one in arguments[start:start + CHUNK]]
            await worker.enqueue_many(chunk)
            tasks += chunk
        return tasks

    def batch(self, first: int, count: int) -> list[Any]:
        return self.run(self._many(add, [(n, 1) for n in range(first, first + count)]))

    def naps(self, count: int) -> list[Any]:
        return self.run(self._many(nap, [(n,) for n in range(count)]))

    async def submit(self, n: int) -> Any:
        return await add.enqueue(n, 1)

    async def result(self, handle: Any) -> Any:
        return (await handle.result(base.LIMIT_S)).result

    def ended(self) -> int:
        return int(self.broker.zcard(worker._results_set))
