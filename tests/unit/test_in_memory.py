"""yadtq.testing: the real client on a queue in memory, as applications use it in their own tests."""
from __future__ import annotations

import asyncio
import threading
import time

import pytest

from yadtq import TaskStatus, current_task, task
from yadtq.cancelling import CancelAnswer
from yadtq.errors import (
    BacklogFull,
    BatchRefused,
    ClientClosed,
    InvalidTask,
    InvalidTaskType,
    KafkaConnectionError,
    PayloadTooLarge,
    ResultNotEncodable,
    ResultTimeout,
    Retry,
    TaskArgumentError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskNotRegistered,
    TaskSubmissionTimeout,
)
from yadtq.testing import AsyncInMemoryYADTQ, InMemoryYADTQ
from yadtq.transport.memory import broker_of

attempts: list[int] = []


@task("in_memory.int")
def in_memory_int(text: str) -> int:
    return int(text)


@task("in_memory.double")
def double(x: int) -> int:
    return 2 * x


@task("in_memory.later")
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@task("in_memory.flaky", max_retries=2, retry_on=[OSError])
def flaky(failures: int) -> int:
    attempts.append(failures)
    if len(attempts) <= failures:
        raise OSError(f"attempt {len(attempts)}")
    return len(attempts)


@task("in_memory.patient")
def patient(failures: int) -> int:
    attempts.append(failures)
    if len(attempts) <= failures:
        raise Retry(f"attempt {len(attempts)}", delay_s=60)
    return len(attempts)


@task("in_memory.noted")
def noted() -> None:
    attempts.append("noted")


@task("in_memory.bad_value")
def bad_value() -> object:
    return object()


@pytest.fixture(params=[False, True], ids=["thread", "inline"])
def client(request):
    attempts.clear()
    with InMemoryYADTQ(inline=request.param) as one:
        yield one


def test_submit_and_result(client):
    assert client.get_result(client.submit_task(double, [21]), timeout=5) == 42
    assert client.get_result(client.submit_task("in_memory.later", kwargs={"x": 1}), timeout=5) == 2
    ids = client.submit_tasks([{"task": double, "args": [n]} for n in range(300)])
    assert client.get_results(ids, timeout=10) == [2 * n for n in range(300)]
    assert {outcome.result() for outcome in client.as_completed(ids[:3], timeout=5)} == {0, 2, 4}
    record = client.get_task(ids[0])
    assert (record.status, record.task, record.worker, record.has_result) == (TaskStatus.SUCCESS, "in_memory.double",
                                                                              "memory/w0", True)


def test_errors_are_the_real_ones(client):
    with pytest.raises(TaskFailed, match="invalid literal") as failed:
        client.get_result(client.submit_task(in_memory_int, ["x"]), timeout=5)
    assert failed.value.error_type == "ValueError"
    assert "in_memory_int" in failed.value.remote_traceback
    assert "In the worker" in failed.value.__notes__[0]
    with pytest.raises(TaskArgumentError, match="too many positional arguments"):
        client.get_result(client.submit_task(double, [1, 2]), timeout=5)
    with pytest.raises(TaskNotRegistered, match=r"did you mean 'in_memory\.double'"):
        client.get_result(client.submit_task("in_memory.doubel", [1]), timeout=5)
    with pytest.raises(TaskFailed) as unencodable:
        client.get_result(client.submit_task(bad_value), timeout=5)
    assert unencodable.value.code == ResultNotEncodable.code
    with pytest.raises(TaskNotFound):
        client.get_result("0198c5d2-9f6a-7b3c-8d4e-5f6071829304", timeout=5)


def test_retries(client):
    assert client.get_result(client.submit_task(flaky, [2]), timeout=5) == 3
    attempts.clear()
    task_id = client.submit_task(flaky, [5], max_retries=1)
    with pytest.raises(TaskFailed, match="attempt 2"):
        client.get_result(task_id, timeout=5)
    record = client.get_task(task_id)
    assert record.attempt == 1
    assert record.error.given_up
    assert [(one.n, one.error_type, one.message) for one in record.attempts] == [
        (0, "OSError", "attempt 1"), (1, "OSError", "attempt 2")]


def test_a_handler_may_ask_for_a_retry_and_argument_errors_are_none(client):
    assert client.get_result(client.submit_task(patient, [3]), timeout=5) == 4
    attempts.clear()
    task_id = client.submit_task(patient, [10**6])
    with pytest.raises(Retry, match="attempt 101"):
        client.get_result(task_id, timeout=10)
    assert [one.n for one in client.get_task(task_id).attempts] == [*range(10), *range(80, 101)]
    with pytest.raises(TaskArgumentError):
        client.get_result(client.submit_task(double, [], max_retries=3), timeout=5)


def test_retries_of_tasks_with_a_key_stay_in_their_place(client):
    with client.paused():
        ids = client.submit_tasks([{"task": flaky, "args": [2], "key": "k"}, {"task": noted, "key": "k"},
                                   {"task": noted, "key": "k"}])
    client.get_results(ids, timeout=5)
    assert attempts == [2, 2, 2, "noted", "noted"]


def test_paused_tasks_wait_and_can_be_cancelled_and_expire(client):
    with client.paused():
        one, other, expiring = client.submit_task(double, [1]), client.submit_task(double, [2]), \
            client.submit_task(double, [3], expires_s=0.01)
        assert client.get_task_status(one) is TaskStatus.QUEUED
        with pytest.raises(ResultTimeout):
            client.get_result(one, timeout=0.05)
        assert client.cancel_task(one) is CancelAnswer.CONFIRMED
        time.sleep(0.02)
    assert client.get_result(other, timeout=5) == 4
    assert client.cancel_task(other) is CancelAnswer.ENDED
    for task_id, kind in ((one, TaskCancelled), (expiring, TaskExpired)):
        with pytest.raises(kind):
            client.get_result(task_id, timeout=5)
    assert client.cancel_task("never-seen") is CancelAnswer.ASKED
    assert client.count_tasks()[TaskStatus.CANCELLED] == 1


def test_a_repeated_submission_runs_once(client):
    assert client.submit_task(double, [1], task_id="order-1") == client.submit_task(double, [1], task_id="order-1")
    assert client.get_result("order-1", timeout=5) == 2
    assert sum(client.count_tasks().values()) == 1


def test_listing_filters_and_clearing(client):
    ids = client.submit_tasks([{"task": double, "args": [n]} for n in range(25)] + [{"task": "in_memory.unknown"}] * 2)
    client.get_results(ids, timeout=5, return_exceptions=True)
    listed = [record.id for record in client.get_all_tasks(page_size=7)]
    assert listed == sorted(ids, reverse=True)
    assert [one.id for one in client.get_all_tasks(newest_first=False, page_size=7)] == sorted(ids)
    assert {one.id for one in client.get_tasks_by_status(TaskStatus.FAILED)} == set(ids[25:])
    assert len(list(client.get_tasks_by_status({TaskStatus.FAILED, TaskStatus.SUCCESS}, task=double))) == 25
    assert list(client.get_all_tasks(since=time.time() + 60)) == []
    assert client.clear_all_tasks() == 27
    assert list(client.get_all_tasks()) == []
    assert client.get_result(client.submit_task(double, [4]), timeout=5) == 8


def test_a_group_is_found_and_counted(client):
    ids = client.submit_tasks([{"task": double, "args": [n], "group": "import-17"} for n in range(5)])
    other = client.submit_task(in_memory_int, ["7"], group="import-17")
    client.get_results([*ids, other, client.submit_task(double, [1])], timeout=10)
    assert {record.id for record in client.get_all_tasks(group="import-17")} == {*ids, other}
    assert {record.group for record in client.get_all_tasks(group="import-17")} == {"import-17"}
    assert [record.id for record in client.get_all_tasks(group="import-17", task=in_memory_int)] == [other]
    assert client.count_tasks(group="import-17")[TaskStatus.SUCCESS] == 6
    assert client.count_tasks(task=double)[TaskStatus.SUCCESS] == 6
    with pytest.raises(InvalidTask, match="not by both"):
        client.count_tasks(task=double, group="import-17")


def test_cancelling_many(client):
    with client.paused():
        ids = client.submit_tasks([{"task": double, "args": [n], "group": "import-17"} for n in range(5)])
        other = client.submit_task(double, [1])
        assert client.cancel_tasks(group="import-17", dry_run=True).confirmed == 5
        assert client.cancel_tasks(group="import-17", with_ids=True).answers == dict.fromkeys(
            ids, CancelAnswer.CONFIRMED)
    assert client.get_result(other, timeout=5) == 2
    assert {record.status for record in client.get_all_tasks(group="import-17")} == {TaskStatus.CANCELLED}


def test_a_handler_sees_that_it_is_cancelled():
    began = threading.Event()

    def patient() -> None:
        began.set()
        for _ in range(500):
            time.sleep(0.02)
            current_task().raise_if_cancelled()

    with InMemoryYADTQ({"patient": patient, "about": lambda: current_task().name}) as client:
        task_id = client.submit_task("patient")
        assert began.wait(10)
        assert client.cancel_task(task_id) is CancelAnswer.ASKED
        with pytest.raises(TaskCancelled):
            client.get_result(task_id, timeout=10)
        assert client.get_result(client.submit_task("about"), timeout=5) == "about"
    assert (current_task().id, current_task().cancel_requested) == ("", False)


def test_who_waits_for_a_cleared_task_is_told():
    with InMemoryYADTQ() as client, client.paused():
        task_id = client.submit_task(double, [1])
        timer = threading.Timer(0.1, client.clear_all_tasks)
        timer.start()
        with pytest.raises(TaskNotFound, match="cleared"):
            client.get_result(task_id, timeout=10)
        timer.join()


def test_a_batch_is_all_or_nothing_unless_told_otherwise(client):
    entries = [{"task": double, "args": [1]}, {"task": "no good"}, {"task": double, "args": [object()]}]
    with pytest.raises(BatchRefused, match="2 of 3") as refused:
        client.submit_tasks(entries)
    assert sorted(refused.value.refused) == [1, 2]
    assert refused.value.ids == (None, None, None)
    assert sum(client.count_tasks().values()) == 0
    with pytest.raises(BatchRefused) as refused:
        client.submit_tasks(entries, partial=True)
    accepted = refused.value.ids[0]
    assert refused.value.ids[1:] == (None, None)
    assert client.get_result(accepted, timeout=5) == 2
    assert client.submit_tasks([]) == []


def test_payload_limits():
    with InMemoryYADTQ(max_payload_bytes=1000) as client:
        with pytest.raises(PayloadTooLarge):
            client.submit_task(double, ["x" * 1000])
        assert sum(client.count_tasks().values()) == 0


def test_stand_ins_and_what_is_not_declared():
    with InMemoryYADTQ({"billing.charge": lambda amount: f"charged {amount}"}) as client:
        assert client.get_result(client.submit_task("billing.charge", [5]), timeout=5) == "charged 5"
        with pytest.raises(TaskNotRegistered):
            client.get_result(client.submit_task(double, [5]), timeout=5)
    with pytest.raises(InvalidTaskType, match="not declared"):
        InMemoryYADTQ([print])


def test_an_outage_of_the_broker_is_told_with_the_ids_and_repeating_is_harmless():
    with InMemoryYADTQ() as client:
        broker = broker_of(client.settings)
        broker.stop()
        with pytest.raises(TaskSubmissionTimeout, match="may or may not run") as late:
            client.submit_task(double, [5], submit_timeout_s=0.2)
        task_id, = late.value.task_ids
        assert isinstance(late.value.__cause__, KafkaConnectionError)
        broker.start()
        assert client.submit_task(double, [5], task_id=task_id) == task_id
        assert client.get_result(task_id, timeout=5) == 10
        assert sum(client.count_tasks().values()) == 1


def test_a_large_batch_in_an_outage_says_what_is_unknown_and_what_was_not_sent():
    with InMemoryYADTQ() as client:
        broker_of(client.settings).stop()
        with pytest.raises(TaskSubmissionTimeout) as late:
            client.submit_tasks([{"task": double, "args": [n]} for n in range(20_000)], submit_timeout_s=0.2)
        error = late.value
        assert len(error.ids) == 20_000
        assert set(error.task_ids) | set(error.not_sent) == set(error.ids)
        assert not set(error.task_ids) & set(error.not_sent)
        assert error.not_sent == error.ids[-len(error.not_sent):]
        broker_of(client.settings).start()
        again = client.submit_tasks([{"task": double, "args": [n], "task_id": one} for n, one in enumerate(error.ids)])
        assert client.get_results(again, timeout=60) == [2 * n for n in range(20_000)]


def test_a_backlog_that_stays_full_is_told_and_nothing_was_sent():
    with InMemoryYADTQ(max_in_flight=10) as client:
        broker_of(client.settings).stop()
        with pytest.raises(BacklogFull):
            client.submit_tasks([{"task": double, "args": [n]} for n in range(11)], submit_timeout_s=0.1)
        assert sum(client.count_tasks().values()) == 0
        broker_of(client.settings).start()


def test_health_and_closing():
    client = InMemoryYADTQ()
    worker, = client.get_all_workers_health()
    assert (worker.worker_id, worker.partitions, worker.expired) == ("memory/w0", (0, 1, 2, 3), False)
    client.close()
    assert client.close() == 0
    for call in (lambda: client.submit_task(double, [1]), lambda: client.get_result("x"), client.count_tasks,
                 lambda: client.submit_tasks([]), client.get_all_tasks, client.get_all_workers_health):
        with pytest.raises(ClientClosed):
            call()


def test_a_handler_that_raises_exit_does_not_end_the_worker():
    def leave() -> None:
        raise SystemExit(3)

    with InMemoryYADTQ({"leave": leave, "ok": lambda: "ok"}) as client:
        with pytest.raises(TaskFailed):
            client.get_result(client.submit_task("leave"), timeout=5)
        assert client.get_result(client.submit_task("ok"), timeout=5) == "ok"


def test_asyncio_front():
    async def use() -> None:
        async with AsyncInMemoryYADTQ() as client:
            ids = await asyncio.gather(*(client.submit_task(double, [n]) for n in range(200)))
            results = await asyncio.gather(*(client.get_result(one, timeout=5) for one in ids))
            assert results == [2 * n for n in range(200)]
            outcomes = [outcome async for outcome in client.as_completed(ids[:5], timeout=5)]
            assert sorted(outcome.result() for outcome in outcomes) == [0, 2, 4, 6, 8]
            assert len([record async for record in client.get_all_tasks(page_size=30)]) == 200
            mixed = await asyncio.gather(client.submit_task("no good"), client.submit_task(double, [1], task_id="same"),
                                         client.submit_task(double, [1], task_id="same"), return_exceptions=True)
            assert [type(mixed[0]).__name__, *mixed[1:]] == ["InvalidTask", "same", "same"]
            with client.paused():
                waiting = await client.submit_task(double, [1])
                with pytest.raises(ResultTimeout):
                    await client.get_result(waiting, timeout=0.05)
                task_ = asyncio.ensure_future(client.get_result(waiting))
                await asyncio.sleep(0.05)
                task_.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task_
            assert await client.get_result(waiting, timeout=5) == 2
            assert await client.get_results([], timeout=5) == []
            assert await client.clear_all_tasks() == 202
        with pytest.raises(ClientClosed):
            await client.submit_task(double, [1])

    asyncio.run(use())
