"""What both brokers of taskiq share: the tasks, how its workers are started, its client."""
from __future__ import annotations

import asyncio
import sys
from typing import Any

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend

from benchmarks.peers.systems import base
from benchmarks.peers.systems.aio import AioClient

POLL_S = 0.001      # wait_result asks Redis so often; its default is 0.2 s


def worker_commands(module: str, workers: int) -> list[list[str]]:
    at_once = base.AT_ONCE if base.IO else 100
    return [[sys.executable, "-m", "taskiq", "worker", f"{module}:broker", "-w", str(workers), "--log-level", "WARNING",
             "--max-async-tasks", str(at_once)]]


def with_results(broker: Any) -> Any:
    """The broker with results in Redis, and JSON by orjson for both."""
    results: Any = RedisAsyncResultBackend(base.RESULT_URL, result_ex_time=base.KEPT_S, serializer=ORJSONSerializer())
    return broker.with_result_backend(results).with_serializer(ORJSONSerializer())


def declare(broker: Any) -> tuple[Any, Any]:
    """The two tasks, of one broker."""

    async def add(a: int, b: int) -> int:
        return a + b

    async def nap(n: int) -> int:
        await asyncio.sleep(base.NAP_S)
        return n

    return broker.task(task_name="add")(add), broker.task(task_name="nap")(nap)


class TaskiqClient(AioClient):
    """Tasks by `kiq`, a few hundred coroutines at a time."""

    queue: Any
    tasks: tuple[Any, Any]

    async def open(self) -> None:
        await self.queue.startup()

    async def shut(self) -> None:
        await self.queue.shutdown()

    async def submit(self, n: int) -> Any:
        return await self.tasks[0].kiq(n, 1)

    async def nap(self, n: int) -> Any:
        return await self.tasks[1].kiq(n)

    async def result(self, handle: Any) -> Any:
        return (await handle.wait_result(check_interval=POLL_S, timeout=base.LIMIT_S)).return_value

    async def stored(self, handle: Any) -> Any:
        return (await handle.get_result()).return_value
