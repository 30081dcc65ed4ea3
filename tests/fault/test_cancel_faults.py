"""Cancels, `expires` and the daemon: handlers that can't be interrupted are killed, wishes outlive deaths and restarts,
and no body begins after a cancel was confirmed. Real processes, a real Kafka, a real Redis."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import settings_for
from tests.support.cancel_handlers import words
from tests.support.daemon import Daemon, wait_for
from tests.support.services import KafkaServer, RedisServer
from yadtq import CancelAnswer, TaskStatus, YADTQClient
from yadtq.config import Settings
from yadtq.errors import TaskCancelled, TaskExpired

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
QUICK = {"num_partitions": 4, "max_workers": 2, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000,
         "tasks": ["tests.support.cancel_handlers"]}
SOON_S = 40
Start = Callable[..., tuple[Daemon, YADTQClient]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    opened: list[Any] = []

    def begin(settings: Settings, **options: Any) -> tuple[Daemon, YADTQClient]:
        client = YADTQClient(4, settings=settings)
        opened.append(client.close)
        daemon = Daemon(settings, tmp_path, **QUICK | {"transport": settings.transport} | options)
        opened.append(daemon.end)
        daemon.start()
        daemon.wait_running(2)
        return daemon, client
    yield begin
    for close in reversed(opened):
        close()


def begun(client: YADTQClient, journal: Path, task: str, *args: object, **options: Any) -> str:
    before = len(words(journal))
    task_id = client.submit_task(task, [str(journal), *args], **options)
    wait_for(lambda: len(words(journal)) > before, SOON_S, f"{task} to begin")
    return task_id


def cancelled(client: YADTQClient, task_id: str) -> None:
    with pytest.raises(TaskCancelled):
        client.get_result(task_id, timeout=SOON_S)


@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
def test_a_handler_that_does_not_end_is_killed_by_the_supervisor(
        start: Start, settings: Settings, journal: Path, transport: str) -> None:
    daemon, client = start(settings.replace(transport=transport))
    for task in ("c.stubborn", "c.async_blocking"):
        task_id = begun(client, journal, task, timeout_s=600)
        assert client.cancel_task(task_id) is CancelAnswer.ASKED
        cancelled(client, task_id)
    assert words(journal).count("begin") == 2                           # neither ran again
    assert "a cancelled task that did not end" in daemon.log.read_text()
    assert client.get_result(client.submit_task("c.quick", [0]), timeout=SOON_S) == "done"


def test_what_holds_the_interpreter_is_ended_as_hung(start: Start, settings: Settings, journal: Path) -> None:
    """Nothing of ours runs in a worker meanwhile, its heartbeat neither."""
    _, client = start(settings)
    task_id = begun(client, journal, "c.hold", timeout_s=600)
    assert client.cancel_task(task_id) is CancelAnswer.ASKED
    cancelled(client, task_id)
    assert words(journal) == ["begin"]


def test_a_wish_outlives_the_supervisor_and_redis(
        start: Start, kafka: KafkaServer, own_redis: RedisServer, topic_prefix: str, tmp_path: Path,
        journal: Path) -> None:
    daemon, client = start(settings_for(kafka, own_redis, topic_prefix, tmp_path))
    task_id = begun(client, journal, "c.stubborn", grace_s=300, timeout_s=600)
    assert client.cancel_task(task_id) is CancelAnswer.ASKED
    time.sleep(2.5)                                                     # until Redis has it on disk
    daemon.kill()
    own_redis.kill()
    own_redis.start()
    daemon.start()
    cancelled(client, task_id)
    assert words(journal).count("begin") == 1


def test_a_cancel_ends_the_retries(start: Start, settings: Settings, journal: Path) -> None:
    """It fails when it is cancelled already: CANCELLED, not RETRYING; and one that waits for its retry ends at once."""
    _, client = start(settings, worker_threads=2)
    task_id = begun(client, journal, "c.failing", 1.5, timeout_s=600)
    assert client.cancel_task(task_id) is CancelAnswer.ASKED
    cancelled(client, task_id)
    waiting = client.submit_task("c.failing", [str(journal), 0.0], retry_backoff_s=60)
    wait_for(lambda: client.get_task_status(waiting) is TaskStatus.RETRYING, SOON_S, "the first attempt to fail")
    assert client.cancel_task(waiting) is CancelAnswer.CONFIRMED
    cancelled(client, waiting)
    time.sleep(1)
    assert words(journal) == ["begin", "begin"]


def test_a_scheduled_task_ends_at_once(start: Start, settings: Settings, journal: Path) -> None:
    _, client = start(settings)
    ids = [client.submit_task("c.begin", [str(journal)], delay_s=3, group="later") for _ in range(20)]
    report = client.cancel_tasks(group="later")
    assert (report.confirmed, report.asked) == (20, 0)
    cancelled(client, ids[0])
    time.sleep(4)
    assert words(journal) == []


def test_no_body_begins_after_a_confirmed_cancel(start: Start, settings: Settings, journal: Path) -> None:
    """Thousands of short tasks, cancelled while workers take them: what was confirmed never began, the rest has run."""
    _, client = start(settings)
    ids = client.submit_tasks([{"task": "c.begin", "args": [str(journal)], "group": "hammer"} for _ in range(6000)])
    answers: dict[str, CancelAnswer] = {}

    def hammer(part: list[str]) -> None:
        for place in range(0, len(part), 20):
            answers.update(client.cancel_tasks(part[place:place + 20], with_ids=True).answers)

    half = [ids[start_at::3] for start_at in (2, 1)]                    # two thirds of them, from two threads
    threads = [threading.Thread(target=hammer, args=(part[::-1],)) for part in half]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    ends = client.get_results(ids, timeout=90, return_exceptions=True)
    began = words(journal)
    confirmed = {one for one, answer in answers.items() if answer is CancelAnswer.CONFIRMED}
    assert len(began) == len(set(began))
    assert not confirmed & set(began)
    assert confirmed, "the workers were faster than all cancels: nothing was tried"
    for task_id, end in zip(ids, ends, strict=True):
        if task_id in confirmed:
            assert isinstance(end, TaskCancelled), end
        elif not isinstance(end, TaskCancelled):
            assert end == "done"
            assert task_id in set(began)
    assert client.count_tasks(group="hammer")[TaskStatus.SUCCESS] == sum(end == "done" for end in ends)


def test_expires_holds_while_the_workers_are_down(start: Start, settings: Settings, journal: Path) -> None:
    """Not begun in time is never begun: behind others, while no daemon runs, and when it is due too late."""
    daemon, client = start(settings)
    daemon.end()
    late = [client.submit_task("c.begin", [str(journal)], delay_s=0.3, expires_s=0.3)]      # counted from its due time
    late += [client.submit_task("c.begin", [str(journal)], expires_s=0.5, group="late") for _ in range(20)]
    in_time = client.submit_task("c.begin", [str(journal)], expires_s=600)
    time.sleep(1)
    daemon.start()
    assert client.get_result(in_time, timeout=SOON_S) == "done"
    for end in client.get_results(late, timeout=SOON_S, return_exceptions=True):
        assert isinstance(end, TaskExpired), end
    assert words(journal) == [in_time]


def test_a_retry_that_comes_too_late_is_expired(start: Start, settings: Settings, journal: Path) -> None:
    _, client = start(settings)
    task_id = client.submit_task("c.failing", [str(journal), 0.0], retry_backoff_s=30, expires_s=2)
    end = client.get_results([task_id], timeout=SOON_S, return_exceptions=True)[0]
    assert client.get_task_status(task_id) is TaskStatus.FAILED, end
    assert words(journal) == ["begin"]
