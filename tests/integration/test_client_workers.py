"""Workers' health as clients see it: read from real heartbeats on a real Kafka, which the test sends."""
from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.conftest import settings_for
from yadtq import YADTQClient
from yadtq.config import Settings
from yadtq.heartbeat import Heartbeat, encode_heartbeat
from yadtq.monitor import WorkerChange
from yadtq.transport import open_producer

pytestmark = pytest.mark.integration


class Beating:
    """Sends heartbeats of workers that don't exist."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.kafka_heartbeat_topic
        self._producer = open_producer(settings)
        self._seq = 0

    def __enter__(self) -> Beating:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close(5)

    def beat(self, worker: str, **fields: object) -> None:
        self._seq += 1
        given = {"state": "RUNNING", "pid": 7, "epoch": 1, "interval_s": 0.2, "expires_after_s": 1.0} | fields
        beat = Heartbeat(worker_id=worker, host="h", sent_ms=int(time.time() * 1000), seq=self._seq, **given)
        self._producer.send(self._topic, 0, encode_heartbeat(beat), worker.encode())
        assert self._producer.flush(10) == 0

    def garbage(self) -> None:
        self._producer.send(self._topic, 0, b"no heartbeat", None)
        assert self._producer.flush(10) == 0


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def test_health_from_heartbeats(settings):
    with YADTQClient(settings=settings) as client, Beating(settings) as workers:
        assert client.get_all_workers_health() == []
        workers.beat("h/w10", partitions=[2, 3], lag=12, done=5, failed=1, version="0.1.0")
        workers.garbage()
        workers.beat("h/w2", partitions=[1], state="STARTING")
        workers.beat("h/w2", partitions=[1], task="addition", task_id="x", task_since_ms=5, expires_after_s=30.0)
        two, ten = client.get_all_workers_health()
        assert (two.worker_id, two.state) == ("h/w2", "RUNNING")
        assert (two.task, two.task_id, two.task_since_ms) == ("addition", "x", 5)
        assert (ten.partitions, ten.lag, ten.done, ten.failed, ten.host, ten.pid) == ((2, 3), 12, 5, 1, "h", 7)
        assert 0 <= ten.age_s < 10
        time.sleep(1.1)
        two, ten = client.get_all_workers_health()
        assert (two.expired, ten.expired) == (False, True)
        assert ten.age_s > 1.0
        workers.beat("h/w10", state="STOPPED")
        assert [one.state for one in client.get_all_workers_health()] == ["RUNNING", "STOPPED"]
        with YADTQClient(settings=settings) as other:       # finds the beats by their time
            assert [one.worker_id for one in other.get_all_workers_health()] == ["h/w2", "h/w10"]
            time.sleep(0.3)
            assert other.get_all_workers_health(window_s=0.2)[0].worker_id == "h/w2"    # not expired: 30 s


def test_looking_is_quick_with_many_heartbeats(settings):
    with YADTQClient(settings=settings) as client, Beating(settings) as workers:
        for n in range(3000):
            workers._producer.send(settings.kafka_heartbeat_topic, 0, encode_heartbeat(Heartbeat(
                worker_id=f"h/w{n % 50}", host="h", pid=1, sent_ms=int(time.time() * 1000), interval_s=5.0,
                expires_after_s=15.0)))
        assert workers._producer.flush(20) == 0
        assert len(client.get_all_workers_health()) == 50
        started = time.monotonic()
        assert len(client.get_all_workers_health()) == 50
        assert time.monotonic() - started < 1.0             # only what is new is read


def test_the_monitor_tells_of_changes(settings):
    told: list[WorkerChange] = []

    def kinds() -> list[tuple[str, str | None]]:
        return [(one.kind.value, one.worker and one.worker.worker_id) for one in told]

    with YADTQClient(settings=settings) as client, Beating(settings) as workers:
        workers.beat("h/w0", expires_after_s=60.0)
        with client.monitor_workers(told.append, interval_s=0.1) as monitor:
            assert [one.worker_id for one in monitor.workers] == ["h/w0"]
            workers.beat("h/w1", expires_after_s=1.0)
            wait_for(lambda: ("EXPIRED", "h/w1") in kinds())
            workers.beat("h/w1", expires_after_s=60.0)
            wait_for(lambda: ("RECOVERED", "h/w1") in kinds())
            workers.beat("h/w1", expires_after_s=60.0, pid=8, epoch=9)
            wait_for(lambda: ("RESTARTED", "h/w1") in kinds())
            workers.beat("h/w1", expires_after_s=60.0, pid=8, epoch=9, state="STOPPED")
            wait_for(lambda: ("STOPPED", "h/w1") in kinds())
        count = len(told)
        workers.beat("h/w0", state="STOPPED")
        time.sleep(0.5)
        assert len(told) == count                           # stopped means stopped
    assert kinds() == [("STARTED", "h/w1"), ("EXPIRED", "h/w1"), ("RECOVERED", "h/w1"), ("RESTARTED", "h/w1"),
                       ("STOPPED", "h/w1")]


def test_a_callback_that_fails_does_not_end_the_watch(settings):
    told: list[str] = []

    def fail(change: WorkerChange) -> None:
        told.append(change.kind.value)
        raise RuntimeError("the application's own")

    with YADTQClient(settings=settings) as client, Beating(settings) as workers, \
            client.monitor_workers(fail, interval_s=0.1):
        workers.beat("h/w0", expires_after_s=60.0)
        wait_for(lambda: len(told) == 1)
        workers.beat("h/w1", expires_after_s=60.0)
        wait_for(lambda: len(told) == 2)


@pytest.mark.fault
def test_an_outage_of_kafka_is_one_change_and_kills_nobody(own_kafka, redis_server, topic_prefix, tmp_path):
    settings = settings_for(own_kafka, redis_server, topic_prefix, tmp_path)
    told: list[WorkerChange] = []
    with YADTQClient(settings=settings, connect_timeout_s=5) as client, Beating(settings) as workers:
        for name in ("h/w0", "h/w1", "h/w2"):
            workers.beat(name, expires_after_s=4.0)
        with client.monitor_workers(told.append, interval_s=0.2):
            own_kafka.kill()
            wait_for(lambda: len(told) > 0, 40)
            time.sleep(3)
            own_kafka.restart()
            wait_for(lambda: len(told) > 1, 30)
            for name in ("h/w0", "h/w1", "h/w2"):
                workers.beat(name, expires_after_s=60.0)
            time.sleep(1)
    assert [one.kind.value for one in told] == ["OUTAGE", "OUTAGE_OVER"]
