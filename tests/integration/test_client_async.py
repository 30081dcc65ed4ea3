"""AsyncYADTQClient on a real Kafka and a real Redis: the loop is never blocked, and who waits holds no thread."""
from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.support.played_worker import PlayedWorker
from yadtq import AsyncYADTQClient, TaskStatus
from yadtq.cancelling import CancelAnswer
from yadtq.errors import (
    BatchRefused,
    ClientClosed,
    RedisConnectionError,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
)

pytestmark = pytest.mark.integration


async def longest_gap_s(stop: asyncio.Event) -> float:
    """How long the loop was held up at most."""
    longest, last = 0.0, time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
def test_a_thousand_coroutines(settings, transport):
    chosen = settings.replace(transport=transport)

    async def use() -> None:
        async with AsyncYADTQClient(settings=chosen) as client:
            ids = await asyncio.gather(*(client.submit_task("addition", [n, 1]) for n in range(1000)))
            results = asyncio.gather(*(client.get_result(one, timeout=60) for one in ids))
            await asyncio.sleep(0.3)
            assert threading.active_count() < 25            # a thousand wait, and hold no thread
            with PlayedWorker(chosen):
                assert await results == [n + 1 for n in range(1000)]
                batch = await client.submit_tasks([{"task": "addition", "args": [n]} for n in range(500)])
                assert await client.get_results(batch, timeout=60) == list(range(500))
                assert {one.result() async for one in client.as_completed(batch[:9], timeout=20)} == set(range(9))

    asyncio.run(use())


def test_the_loop_goes_on_while_calls_wait(settings):
    async def use() -> None:
        async with AsyncYADTQClient(settings=settings) as client:
            await client.submit_task("addition", [0])       # connections are made
            stop = asyncio.Event()
            gap = asyncio.ensure_future(longest_gap_s(stop))
            waiting = await client.submit_task("addition", [1])
            for _ in range(3):
                with pytest.raises(ResultTimeout):
                    await client.get_result(waiting, timeout=0.2)
            await asyncio.gather(client.count_tasks(), client.get_task(waiting), client.get_all_workers_health())
            stop.set()
            assert await gap < 0.5                          # a busy machine; a blocking call takes as long as it waits

    asyncio.run(use())


def test_every_method(settings):
    async def use() -> None:
        async with AsyncYADTQClient(settings=settings) as client:
            with PlayedWorker(settings):
                failed = await client.submit_task("fail", ["why"])
                with pytest.raises(TaskFailed, match="why"):
                    await client.get_result(failed, timeout=20)
                large = await client.submit_task("echo", ["x" * 200_000])
                assert await client.get_result(large, timeout=20) == "x" * 200_000
                values = await client.get_results([failed, large], timeout=20, return_exceptions=True)
                assert isinstance(values[0], TaskFailed)
            assert await client.get_task_status(large) is TaskStatus.SUCCESS
            assert (await client.get_task(failed)).error.message == "why"
            assert [one.id async for one in client.get_all_tasks(page_size=1)] == [large, failed]
            assert [one.id async for one in client.get_tasks_by_status(TaskStatus.FAILED)] == [failed]
            with pytest.raises(BatchRefused):
                await client.submit_tasks([{"task": "addition"}, {"task": ""}])
            with pytest.raises(TaskNotFound):
                await client.get_result("0198c5d2-9f6a-7b3c-8d4e-5f6071829304", timeout=5)
            waiting = await client.submit_task("addition", [1])
            result = asyncio.ensure_future(client.get_result(waiting, timeout=20))
            await asyncio.sleep(0.2)
            assert await client.cancel_task(waiting) is CancelAnswer.CONFIRMED
            with pytest.raises(TaskCancelled):
                await result
            changes: list[str] = []

            async def told(change: object) -> None:
                changes.append(str(change))

            async with await client.monitor_workers(told, interval_s=0.1) as monitor:
                assert monitor.workers == []
            assert (await client.count_tasks())[TaskStatus.CANCELLED] == 1
            assert await client.clear_all_tasks() == 3
            last = await client.submit_task("addition", [1])
            abandoned = asyncio.ensure_future(client.get_result(last))
            await asyncio.sleep(0.2)
        with pytest.raises(ClientClosed):
            await abandoned
        with pytest.raises(ClientClosed):
            await client.count_tasks()

    asyncio.run(use())


def test_a_wrong_address_is_told_when_entered(settings):
    async def use() -> None:
        with pytest.raises(RedisConnectionError):
            async with AsyncYADTQClient(settings=settings, redis_port=1, connect_timeout_s=0.5):
                pass

    asyncio.run(use())
