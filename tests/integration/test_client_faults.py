"""The client while Kafka or Redis is stopped, killed, wiped or was never there: typed errors in time, nothing lost."""
from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.conftest import settings_for
from tests.support.played_worker import PlayedWorker
from tests.support.services import KafkaServer, RedisServer, random_free_port
from yadtq import TaskStatus, YADTQClient
from yadtq.config import Settings
from yadtq.errors import (
    BackendLost,
    KafkaConnectionError,
    RedisConnectionError,
    ResultTimeout,
    TaskSubmissionTimeout,
)

pytestmark = [pytest.mark.integration, pytest.mark.fault]


class Waiting(threading.Thread):
    """Waits for one result in a thread of its own."""

    def __init__(self, client: YADTQClient, task_id: str, timeout: float | None) -> None:
        super().__init__()
        self._client, self._task_id, self._timeout = client, task_id, timeout
        self.value: object = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._client.get_result(self._task_id, self._timeout)
        except BaseException as error:
            self.error = error


@pytest.fixture
def with_own_redis(kafka: KafkaServer, own_redis: RedisServer, topic_prefix: str, tmp_path: Path) -> Settings:
    return settings_for(kafka, own_redis, topic_prefix, tmp_path)


def test_wrong_addresses_are_told_soon(settings):
    nowhere = f"127.0.0.1:{random_free_port()}"
    started = time.monotonic()
    with pytest.raises(RedisConnectionError):
        YADTQClient(settings=settings, redis_port=random_free_port(), connect_timeout_s=1)
    with pytest.raises(KafkaConnectionError, match=nowhere):
        YADTQClient(settings=settings, kafka_servers=nowhere, connect_timeout_s=1)
    assert time.monotonic() - started < 10
    with YADTQClient(settings=settings, kafka_servers=nowhere, connect=False, connect_timeout_s=1) as client:
        assert client.count_tasks()[TaskStatus.QUEUED] == 0                 # needs no Kafka
        with pytest.raises(KafkaConnectionError):
            client.submit_task("addition", [1])
        with pytest.raises(KafkaConnectionError):
            client.get_all_workers_health()
        assert sum(client.count_tasks().values()) == 0


def test_a_result_comes_through_a_restart_of_redis(with_own_redis, own_redis):
    with YADTQClient(settings=with_own_redis) as client:
        task_id = client.submit_task("addition", [1, 2])
        waiting = Waiting(client, task_id, 60)
        time.sleep(1.5)                                     # until the record is on disk
        own_redis.kill()
        time.sleep(0.5)
        own_redis.restart()
        with PlayedWorker(with_own_redis):
            waiting.join(60)
        assert (waiting.value, waiting.error) == (3, None)


def test_a_wiped_redis_is_told_instead_of_waiting_for_ever(with_own_redis, own_redis):
    with YADTQClient(settings=with_own_redis) as client:
        task_id = client.submit_task("addition", [1, 2])
        waiting = Waiting(client, task_id, None)
        time.sleep(0.3)
        own_redis.wipe()
        own_redis.start()
        waiting.join(40)
        assert isinstance(waiting.error, BackendLost)
        with pytest.raises(BackendLost):
            client.get_task_status(task_id)
        with PlayedWorker(with_own_redis):                  # later tasks are none of those that were lost
            assert client.get_result(client.submit_task("addition", [4]), timeout=20) == 4


def test_waiting_while_redis_is_away_ends_in_time_and_says_why(with_own_redis, own_redis):
    with YADTQClient(settings=with_own_redis, connect_timeout_s=2) as client:
        task_id = client.submit_task("addition", [1, 2])
        with pytest.raises(ResultTimeout):
            client.get_result(task_id, timeout=0.1)
        endless = Waiting(client, task_id, None)
        time.sleep(0.2)
        own_redis.kill()
        started = time.monotonic()
        with pytest.raises(RedisConnectionError):
            client.get_result(task_id, timeout=1)
        assert time.monotonic() - started < 4
        endless.join(20)                                    # no time limit, and still not in silence
        assert isinstance(endless.error, RedisConnectionError)
        own_redis.restart()


def test_a_submission_rides_out_a_short_outage_of_redis(with_own_redis, own_redis):
    with YADTQClient(settings=with_own_redis) as client, PlayedWorker(with_own_redis):
        client.get_result(client.submit_task("addition", [1]), timeout=20)
        own_redis.stop()
        timer = threading.Timer(1.0, own_redis.start)
        timer.start()
        task_id = client.submit_task("addition", [1, 2], submit_timeout_s=20)
        timer.join()
        assert client.get_result(task_id, timeout=20) == 3


def test_a_submission_without_redis_is_told_with_its_id_and_its_repetition_is_harmless(with_own_redis, own_redis):
    with YADTQClient(settings=with_own_redis) as client:
        client.submit_task("addition", [0])
        own_redis.stop()
        started = time.monotonic()
        with pytest.raises(TaskSubmissionTimeout) as late:
            client.submit_task("addition", [1, 2], submit_timeout_s=1)
        assert time.monotonic() - started < 6
        assert isinstance(late.value.__cause__, RedisConnectionError)
        task_id, = late.value.task_ids
        own_redis.start()
        with PlayedWorker(with_own_redis) as worker:
            assert client.submit_task("addition", [1, 2], task_id=task_id) == task_id
            assert client.get_result(task_id, timeout=20) == 3
        assert worker.ran.count(task_id) == 1


@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
def test_a_submission_without_kafka_is_told_with_its_ids_and_nothing_is_lost(
        own_kafka, redis_server, topic_prefix, tmp_path, transport):
    settings = settings_for(own_kafka, redis_server, topic_prefix, tmp_path).replace(transport=transport)
    with YADTQClient(settings=settings) as client:
        client.submit_task("addition", [0])
        own_kafka.kill()
        started = time.monotonic()
        with pytest.raises(TaskSubmissionTimeout) as late:
            client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(10)], submit_timeout_s=1)
        assert time.monotonic() - started < 8
        assert isinstance(late.value.__cause__, KafkaConnectionError)
        assert late.value.task_ids == late.value.ids
        assert len(late.value.ids) == 10
        own_kafka.restart()
        again = client.submit_tasks([{"task": "addition", "args": [n, 1], "task_id": one}
                                     for n, one in enumerate(late.value.ids)])
        with PlayedWorker(settings) as worker:
            assert client.get_results(again, timeout=30) == [n + 1 for n in range(10)]
        assert sorted(set(worker.ran)) == sorted(worker.ran)


def test_closing_during_an_outage_keeps_to_its_time(own_kafka, redis_server, topic_prefix, tmp_path):
    client = YADTQClient(settings=settings_for(own_kafka, redis_server, topic_prefix, tmp_path))
    client.submit_task("addition", [0])
    own_kafka.kill()
    with pytest.raises(TaskSubmissionTimeout):
        client.submit_task("addition", [1], submit_timeout_s=0.5)
    started = time.monotonic()
    assert client.close(timeout=1) == 1
    assert time.monotonic() - started < 6
