"""Delayed submissions without servers: what `delay_s` and `due` mean and refuse, and the queue in memory."""
from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from yadtq import CancelAnswer, TaskStatus
from yadtq.delayed import SHORT, decode_delayed
from yadtq.errors import BatchRefused, InvalidTask, TaskCancelled, TaskExpired
from yadtq.partitioning import Partitioner
from yadtq.submission import Prepared, Preparer, Stamp
from yadtq.testing import AsyncInMemoryYADTQ, InMemoryYADTQ

NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS / 1000
STAMP = Stamp([0] * 16, 4, NOW_MS)


def prepared(**options: Any) -> Prepared:
    return Preparer(100_000, Partitioner()).prepare({"task": "addition", "args": [1, 2]} | options, STAMP)


def due(**options: Any) -> int | None:
    return prepared(**options).message.due_ms


def test_a_delay_or_a_due_time() -> None:
    assert due(delay_s=30) == NOW_MS + 30_000
    assert due(delay_s=0.25) == NOW_MS + 250
    assert due(due=NOW_S + 7.5) == NOW_MS + 7500
    moment = datetime.fromtimestamp(NOW_S + 60, UTC)
    assert due(due=moment) == NOW_MS + 60_000
    assert due(due=moment.astimezone(timezone(timedelta(hours=5)))) == NOW_MS + 60_000
    for at_once in ({}, {"delay_s": None}, {"delay_s": 0}, {"due": NOW_S - 1}, {"due": NOW_S},
                    {"due": moment - timedelta(days=1)}):
        assert due(**at_once) is None


@pytest.mark.parametrize("options", [
    {"delay_s": 1, "due": NOW_S + 1}, {"delay_s": -1}, {"delay_s": float("nan")}, {"delay_s": True}, {"delay_s": "5"},
    {"delay_s": 11 * 366 * 86_400}, {"due": NOW_MS}, {"due": "tomorrow"}, {"due": float("inf")}, {"due": False},
])
def test_what_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask):
        prepared(**options)


def test_a_naive_datetime_is_refused_with_what_to_write() -> None:
    with pytest.raises(InvalidTask, match=r"time zone.*astimezone"):
        prepared(due=datetime(2030, 1, 1, 12, 0))


def test_expiry_counts_from_the_due_time() -> None:
    assert prepared(delay_s=30, expires_s=5).message.expires_ms == NOW_MS + 35_000
    assert prepared(due=NOW_S - 100, expires_s=5).message.expires_ms == NOW_MS + 5000


def test_the_record_that_waits() -> None:
    one = prepared(delay_s=30, key="customer-7")
    level, value, key = one.delayed(NOW_MS)
    waits = decode_delayed(value)
    assert level == 1
    assert key == one.message.id.encode()
    assert (waits.due_ms, waits.partition, waits.key, waits.value) == (NOW_MS + 30_000, one.partition, b"customer-7",
                                                                       one.value)
    assert one.delayed(NOW_MS + 29_500)[0] == SHORT
    assert one.entry().due_ms == NOW_MS + 30_000
    assert decode_delayed(one.stamped(9).delayed(NOW_MS)[1]).value != one.value     # cleared meanwhile: stamped anew


# ---- the queue in memory --------------------------------------------------------------------------------------------
def add(a: int, b: int) -> int:
    return a + b


def test_in_memory_a_delayed_task_is_scheduled_and_runs_in_its_time() -> None:
    with InMemoryYADTQ({"add": add}) as client:
        begun = time.time()
        later, now = client.submit_tasks([{"task": "add", "args": [1, 2], "delay_s": 2.5},
                                          {"task": "add", "args": [3, 4]}])
        assert client.get_result(now, timeout=20) == 7
        record = client.get_task(later)
        assert record.status is TaskStatus.SCHEDULED
        assert record.due_ms is not None
        assert abs(record.due_ms / 1000 - begun - 2.5) < 10
        assert [one.id for one in client.get_tasks_by_status(TaskStatus.SCHEDULED)] == [later]
        assert client.count_tasks()[TaskStatus.SCHEDULED] == 1
        assert client.get_result(later, timeout=20) == 3
        assert time.time() - begun >= 2.5


def test_in_memory_a_scheduled_task_is_cancelled_at_once_and_never_runs() -> None:
    ran = []
    with InMemoryYADTQ({"note": lambda: ran.append(1)}) as client:
        task_id = client.submit_task("note", delay_s=1.0)
        assert client.cancel_task(task_id) is CancelAnswer.CONFIRMED
        with pytest.raises(TaskCancelled):
            client.get_result(task_id, timeout=5)
        time.sleep(1.4)
        assert not ran


def test_in_memory_clearing_takes_scheduled_tasks_too() -> None:
    ran = []
    with InMemoryYADTQ({"note": lambda: ran.append(1)}) as client:
        client.submit_task("note", delay_s=1.0)
        assert client.clear_all_tasks() == 1
        client.submit_task("note", due=time.time() + 0.5)
        time.sleep(1.6)
        assert ran == [1]


def test_in_memory_expiry_counts_from_the_due_time() -> None:
    with InMemoryYADTQ({"add": add}) as client:
        assert client.get_result(client.submit_task("add", [1, 2], delay_s=0.3, expires_s=10), timeout=20) == 3
        with client.paused():
            late = client.submit_task("add", [1, 2], delay_s=0.1, expires_s=0.1)
            time.sleep(0.4)
        with pytest.raises(TaskExpired):
            client.get_result(late, timeout=20)


def test_inline_no_delay_is_waited_for() -> None:
    with InMemoryYADTQ({"add": add}, inline=True) as client:
        assert client.get_result(client.submit_task("add", [1, 2], delay_s=3600), timeout=0) == 3


def test_in_memory_for_asyncio() -> None:
    async def main() -> None:
        async with AsyncInMemoryYADTQ({"add": add}) as client:
            begun = time.time()
            task_id = await client.submit_task("add", [1, 2], due=datetime.now(UTC) + timedelta(seconds=2))
            assert await client.get_task_status(task_id) is TaskStatus.SCHEDULED
            assert await client.get_result(task_id, timeout=20) == 3
            assert time.time() - begun >= 1.99
            with pytest.raises(BatchRefused):
                await client.submit_tasks([{"task": "add", "due": datetime(2030, 1, 1)}])

    asyncio.run(main())
