"""The client on a real Kafka and a real Redis; the worker's side is played by the test.

Submitting, waiting, looking and clearing, on both transports; what happens around an outage stands in
test_client_faults.py.
"""
from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from tests.support.played_worker import PlayedWorker
from yadtq import TaskStatus, YADTQClient
from yadtq.cancelling import CancelAnswer
from yadtq.config import Settings
from yadtq.errors import (
    BatchRefused,
    ClientClosed,
    ConfigurationError,
    PayloadTooLarge,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TooFewPartitions,
)
from yadtq.task import decode_message
from yadtq.transport import open_admin, open_consumer

pytestmark = pytest.mark.integration


@pytest.fixture(params=["librdkafka", "kafka-python"])
def either(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.replace(transport=request.param)


@pytest.fixture
def client(settings: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(settings=settings) as one:
        yield one


def records_of(settings: Settings, count: int) -> list:
    """The records of the task topic, all partitions."""
    admin, consumer = open_admin(settings), open_consumer(settings)
    try:
        consumer.assign(settings.kafka_task_topic, admin.begin_offsets(settings.kafka_task_topic))
        found: list = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            found += consumer.poll(1000, 0.5)
        return found
    finally:
        consumer.close()
        admin.close()


def test_tasks_go_out_and_results_come_back(either):
    with YADTQClient(settings=either) as client, PlayedWorker(either):
        task_id = client.submit_task("addition", [1, 2])
        assert client.get_result(task_id, timeout=20) == 3
        record = client.get_task(task_id)
        assert (record.status, record.task) == (TaskStatus.SUCCESS, "addition")
        assert (record.attempt, record.worker) == (0, "played/w0")
        assert record.submitted_ms <= record.ended_ms
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(2500)])
        assert len(set(ids)) == 2500
        assert client.get_results(ids, timeout=60) == [n + 1 for n in range(2500)]
        assert client.get_results(ids[::-1] + ids[:1], timeout=20)[0] == 2500       # ended before we asked


def test_large_results_are_read_and_large_batches_are_cut(client, settings):
    with PlayedWorker(settings):
        text = "x" * 300_000
        ids = client.submit_tasks([{"task": "echo", "args": [text]}] * 5)
        assert client.get_results(ids, timeout=30) == [text] * 5
        assert client.get_result(ids[0], timeout=5) == text


def test_a_failure_carries_code_message_and_the_workers_traceback(client, settings):
    with PlayedWorker(settings):
        task_id = client.submit_task("fail", ["the reason"])
        with pytest.raises(TaskFailed, match="the reason") as failed:
            client.get_result(task_id, timeout=20)
        error = failed.value
        assert (error.code, error.error_type, error.task_id) == ("TASK_FAILED", "ValueError", task_id)
        shown = "".join(traceback.format_exception(error))
        assert "In the worker" in shown
        assert "played_worker.py" in shown
        assert client.get_task(task_id).error.message == "the reason"
        values = client.get_results([task_id, client.submit_task("addition", [1])], timeout=20, return_exceptions=True)
        assert isinstance(values[0], TaskFailed)
        assert values[1] == 1
        with pytest.raises(TaskFailed):
            client.get_results([task_id], timeout=20)


def test_waiting_ends_with_its_own_error(client, settings):
    task_id = client.submit_task("addition", [1, 2])
    started = time.monotonic()
    with pytest.raises(ResultTimeout, match="it goes on"):
        client.get_result(task_id, timeout=0.3)
    with pytest.raises(ResultTimeout):
        client.get_results([task_id], timeout=0.1)
    with pytest.raises(ResultTimeout):
        list(client.as_completed([task_id], timeout=0.1))
    assert time.monotonic() - started < 5
    with pytest.raises(TaskNotFound):
        client.get_result("0198c5d2-9f6a-7b3c-8d4e-5f6071829304", timeout=5)
    with pytest.raises(TaskNotFound):
        client.get_task_status("0198c5d2-9f6a-7b3c-8d4e-5f6071829304")
    assert client.get_task_status(task_id) is TaskStatus.QUEUED
    with PlayedWorker(settings):
        assert client.get_result(task_id, timeout=20) == 3


def test_as_completed_gives_them_as_they_end(client, settings):
    with PlayedWorker(settings):
        slow, quick = client.submit_task("sleep", [1.0], key="a"), client.submit_task("sleep", [0.01], key="b")
        assert {one.task_id for one in client.as_completed([slow, quick], timeout=30)} == {slow, quick}


def test_a_task_that_runs_is_shown_as_processing(client, settings):
    with PlayedWorker(settings):
        task_id = client.submit_task("sleep", [2])
        deadline = time.monotonic() + 20
        while client.get_task_status(task_id) is not TaskStatus.PROCESSING:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.cancel_task(task_id) is CancelAnswer.ASKED
        client.get_result(task_id, timeout=20)


def test_partitions_round_robin_and_by_key(client, settings):
    client.submit_tasks([{"task": "addition", "args": [n]} for n in range(40)])
    client.submit_tasks([{"task": "addition", "args": [n], "key": "same"} for n in range(10)])
    records = records_of(settings, 50)
    plain = [one.partition for one in records if one.key is None]
    assert sorted(plain) == sorted([0, 1, 2, 3] * 10)
    keyed = [one for one in records if one.key == b"same"]
    assert len({one.partition for one in keyed}) == 1
    assert [decode_message(one.value).args for one in keyed] == sorted(decode_message(one.value).args for one in keyed)


def test_a_batch_is_all_or_nothing_unless_told_otherwise(client):
    entries = [{"task": "addition", "args": [1]}, {"task": "addition", "args": [object()]}]
    with pytest.raises(BatchRefused):
        client.submit_tasks(entries)
    assert sum(client.count_tasks().values()) == 0
    with pytest.raises(BatchRefused) as refused:
        client.submit_tasks(entries, partial=True)
    assert client.get_task_status(refused.value.ids[0]) is TaskStatus.QUEUED
    assert sorted(refused.value.refused) == [1]


def test_a_repeated_submission_keeps_its_partition_and_runs_once(client, settings):
    with PlayedWorker(settings) as worker:
        for _ in range(3):
            client.submit_task("addition", [1, 1], task_id="order-17")
        assert client.get_result("order-17", timeout=20) == 2
        records = records_of(settings, 3)
        assert len(records) == 3
        assert len({one.partition for one in records}) == 1
    assert worker.ran == ["order-17"]


def test_cancelled_before_it_starts(client, settings):
    task_id = client.submit_task("addition", [1, 2])
    told: list[BaseException] = []

    def wait() -> None:
        try:
            client.get_result(task_id, timeout=20)
        except TaskCancelled as cancelled:
            told.append(cancelled)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    started = time.monotonic()
    assert client.cancel_task(task_id) is CancelAnswer.CONFIRMED
    waiting.join(10)
    assert told
    assert time.monotonic() - started < 2                   # pushed, not found by the next look
    assert client.cancel_task(task_id) is CancelAnswer.ENDED


def test_listing_by_status_type_and_time(client, settings):
    with PlayedWorker(settings):
        good = client.submit_tasks([{"task": "addition", "args": [n]} for n in range(60)])
        client.get_results(good, timeout=20)
        between = time.time()
        time.sleep(0.01)
        bad = client.submit_tasks([{"task": "fail", "args": [str(n)]} for n in range(15)])
        client.get_results(bad, timeout=20, return_exceptions=True)
    waiting = client.submit_task("addition", [0])
    assert [one.id for one in client.get_all_tasks(page_size=9, newest_first=False)] == [*good, *bad, waiting]
    assert [one.id for one in client.get_tasks_by_status(TaskStatus.FAILED, page_size=4)] == bad[::-1]
    assert [one.id for one in client.get_tasks_by_status("FAILED", task="addition")] == []
    assert {one.id for one in client.get_all_tasks(task="addition", until=between)} == set(good)
    assert {one.id for one in client.get_all_tasks(task=["fail", "addition"], since=between)} == {*bad, waiting}
    counts = client.count_tasks()
    assert (counts[TaskStatus.SUCCESS], counts[TaskStatus.FAILED], counts[TaskStatus.QUEUED]) == (60, 15, 1)


def test_a_group_is_found_among_others(client, settings):
    ids = client.submit_tasks([{"task": "addition", "args": [n, 1], "group": "import-17"} for n in range(20)])
    client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(20)])
    assert client.count_tasks(group="import-17")[TaskStatus.QUEUED] == 20
    with PlayedWorker(settings):
        client.get_results(ids, timeout=30)
    assert sorted(r.id for r in client.get_tasks_by_status(TaskStatus.SUCCESS, group="import-17")) == sorted(ids)
    assert list(client.get_all_tasks(group="import-17", task="echo")) == []


def test_clearing_while_a_worker_runs(client, settings):
    with PlayedWorker(settings):
        client.get_results(client.submit_tasks([{"task": "addition", "args": [n]} for n in range(100)]), timeout=20)
        assert client.clear_all_tasks() == 100
        assert sum(client.count_tasks().values()) == 0
        assert client.get_result(client.submit_task("addition", [4, 4]), timeout=20) == 8
    queued = client.submit_tasks([{"task": "addition", "args": [n]} for n in range(1200)])
    with YADTQClient(settings=settings) as other:
        assert other.clear_all_tasks() == 1201
    with pytest.raises(TaskNotFound):
        client.get_result(queued[0], timeout=5)
    admin = open_admin(settings)
    assert admin.begin_offsets(settings.kafka_task_topic) == admin.end_offsets(settings.kafka_task_topic)
    admin.close()
    # The first client's clear numbers are stale now: answered CLEARED, it stamps anew, and produces again.
    with PlayedWorker(settings):
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(50)])
        assert client.get_results(ids, timeout=20) == [n + 1 for n in range(50)]


def test_who_waits_for_a_cleared_task_is_told(client):
    task_id = client.submit_task("addition", [1])
    timer = threading.Timer(0.3, client.clear_all_tasks)
    timer.start()
    started = time.monotonic()
    with pytest.raises(TaskNotFound, match="cleared"):
        client.get_result(task_id, timeout=20)
    assert time.monotonic() - started < 5
    timer.join()


def test_many_threads_share_one_client(client, settings):
    failures: list[BaseException] = []

    def use(n: int) -> None:
        try:
            for k in range(25):
                assert client.get_result(client.submit_task("addition", [n, k]), timeout=30) == n + k
        except BaseException as error:
            failures.append(error)

    with PlayedWorker(settings):
        threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
    assert failures == []


def test_a_forked_child_gets_connections_of_its_own(either):
    with YADTQClient(settings=either) as client, PlayedWorker(either):
        assert client.get_result(client.submit_task("addition", [1]), timeout=20) == 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reader)
                value = client.get_result(client.submit_task("addition", [2, 3]), timeout=20)
                client.close()
                os.write(writer, str(value).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            assert answer.read() == b"5"
        assert os.waitpid(child, 0)[1] == 0
        assert client.get_result(client.submit_task("addition", [4]), timeout=20) == 4      # the parent's go on


def test_partitions_are_created_used_and_grown_only_when_told(settings):
    with YADTQClient(2, settings=settings) as client:
        assert client._connections.kafka.partitions == 2
    with pytest.raises(TooFewPartitions, match="2 partitions"):
        YADTQClient(6, settings=settings)
    with YADTQClient(1, settings=settings) as client:
        assert client._connections.kafka.partitions == 2
    with YADTQClient(6, settings=settings, grow_partitions=True) as client:
        assert client._connections.kafka.partitions == 6


def test_options_are_keywords_and_mistakes_are_told():
    client = YADTQClient(connect=False, redis_host="nowhere", submit_timeout_s=1.5)
    assert (client.settings.redis_host, client.settings.submit_timeout_s) == ("nowhere", 1.5)
    client.close()
    with pytest.raises(ConfigurationError, match="redis_port"):
        YADTQClient(connect=False, redis_prt=1)
    with pytest.raises(ConfigurationError, match="not both"):
        YADTQClient(settings=Settings(), config="x.toml")


def test_a_closed_client_says_so(settings):
    client = YADTQClient(settings=settings)
    task_id = client.submit_task("addition", [1])
    told: list[BaseException] = []

    def wait() -> None:
        try:
            client.get_result(task_id, timeout=20)
        except ClientClosed as closed:
            told.append(closed)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    started = time.monotonic()
    assert client.close() == 0
    assert time.monotonic() - started < 3
    waiting.join(10)
    assert told
    with pytest.raises(ClientClosed):
        client.submit_task("addition", [1])
    client.close()


FORKING = """
import os, sys
from yadtq import YADTQClient
client = YADTQClient(config=sys.argv[1], transport=sys.argv[2])
task_id = client.submit_task("addition", [1])
client.get_all_workers_health()
child = os.fork()
if child == 0:
    if sys.argv[3] == "used":
        client.submit_task("addition", [2])
    sys.exit(7)                                             # the interpreter's ordinary end, finalizers and all
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
client.submit_task("addition", [3])                         # and an end without close()
"""


@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
@pytest.mark.parametrize("child", ["used", "unused"])
def test_processes_end_in_the_ordinary_way(settings, tmp_path, transport, child):
    config = tmp_path / "yadtq.toml"
    names = ("kafka_servers", "kafka_task_topic", "kafka_heartbeat_topic", "kafka_dead_letter_topic",
             "kafka_delayed_topic", "redis_host")
    config.write_text("".join(f'{name} = "{getattr(settings, name)}"\n' for name in names)
                      + f"redis_port = {settings.redis_port}\n")
    subprocess.run([sys.executable, "-c", FORKING, str(config), transport, child], check=True, timeout=40)


def test_what_kafka_refuses_for_good_is_told_and_withdrawn(client, settings):
    from kafka.admin import ConfigResource, ConfigResourceType
    text = "x" * 200_000
    admin = open_admin(settings)
    admin._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.kafka_task_topic,
                                               {"max.message.bytes": "100000"})])
    admin.close()
    deadline = time.monotonic() + 20                        # the broker takes a moment to heed a new setting
    refusal: PayloadTooLarge | None = None
    while refusal is None and time.monotonic() < deadline:
        client.clear_all_tasks()
        try:
            client.submit_task("echo", [text], task_id="large")
        except PayloadTooLarge as error:
            refusal = error
    assert refusal is not None
    assert client.get_task_status("large") is TaskStatus.CANCELLED
    with pytest.raises(BatchRefused) as refused:
        client.submit_tasks([{"task": "addition", "args": [1]}, {"task": "echo", "args": [text]}])
    assert sorted(refused.value.refused) == [1]
    assert client.get_task_status(refused.value.ids[0]) is TaskStatus.QUEUED
