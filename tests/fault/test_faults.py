"""The first fault suite: real processes, a real Kafka, a real Redis, and what goes wrong with them.

Each test submits work, breaks something while it runs, and then asks the history (tests/support/recorded.py) whether
the promises held. Run on both transports.
"""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import settings_for
from tests.support.daemon import Daemon, alive, wait_for
from tests.support.recorded import History, broken_promises
from tests.support.services import KafkaServer, RedisServer
from yadtq import TaskStatus, YADTQClient
from yadtq.errors import TaskHardTimeout, TaskTimeout, YADTQError

if TYPE_CHECKING:
    from yadtq.config import Settings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
QUICK = {"num_partitions": 4, "max_workers": 2, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000}
Start = Callable[..., tuple[Daemon, YADTQClient]]


@pytest.fixture(params=["librdkafka", "kafka-python"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(tmp_path: Path, transport: str) -> Iterator[Start]:
    """Start a daemon and a client on the given settings; both end with the test."""
    opened: list[Any] = []

    def begin(settings: Settings, **options: Any) -> tuple[Daemon, YADTQClient]:
        client = YADTQClient(4, settings=settings.replace(transport=transport))
        opened.append(client.close)
        daemon = Daemon(settings, tmp_path, **QUICK | {"transport": transport} | options)
        opened.append(daemon.end)
        daemon.start()
        daemon.wait_running(2)
        return daemon, client
    yield begin
    for close in reversed(opened):
        close()


class Load:
    """Recorded tasks under way, and the promises about them."""

    def __init__(self, client: YADTQClient, folder: Path, count: int, seconds: float = 0.0) -> None:
        self.client, self.path, self.tokens = client, folder / "history", list(range(count))
        args = [[str(self.path), token, seconds] for token in self.tokens]
        self.ids = client.submit_tasks([{"task": "recorded", "args": a} for a in args])

    def wait_started(self, count: int) -> None:
        wait_for(lambda: len(self.history().starts) >= count, 60, f"{count} tasks started")

    def history(self) -> History:
        return History.read(self.path)

    def check(self, faults: int, timeout: float = 90) -> History:
        first = dict(zip(self.tokens, self.client.get_results(self.ids, timeout=timeout), strict=True))
        time.sleep(1.0)     # room for a zombie to do harm
        later = dict(zip(self.tokens, self.client.get_results(self.ids, timeout=timeout), strict=True))
        history = self.history()
        assert broken_promises(history, first, later, self.tokens, faults=faults) == []
        assert {self.client.get_task_status(i) for i in self.ids[::50]} == {TaskStatus.SUCCESS}
        return history


def busy(daemon: Daemon) -> dict[str, Any]:
    """A worker that runs a task now."""
    def found() -> dict[str, Any] | None:
        return next((w for w in daemon.workers() if w["task"]), None)
    worker: dict[str, Any] = wait_for(found, 20, "a busy worker")
    return worker


def replaced(daemon: Daemon, victim: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """The worker that took the victim's place and consumes."""
    def successor() -> dict[str, Any] | None:
        return next((w for w in daemon.workers() if w["name"] == victim["name"] and w["pid"] != victim["pid"]
                     and w["state"] == "RUNNING"), None)
    found: dict[str, Any] = wait_for(successor, limit_s, f"{victim['name']} replaced\n{daemon.tail()}")
    return found


def test_worker_killed_while_a_thousand_tasks_run(settings: Settings, start: Start, tmp_path: Path) -> None:
    daemon, client = start(settings)
    load = Load(client, tmp_path, 1000, seconds=0.004)
    load.wait_started(100)
    victim = busy(daemon)
    os.kill(victim["pid"], signal.SIGKILL)
    killed_at = time.monotonic()
    replaced(daemon, victim, 5)
    took_s = time.monotonic() - killed_at
    history = load.check(faults=1)
    print(f"replaced in {took_s * 1e3:.0f} ms, {history.run_again} of 1000 tasks started again")
    assert history.run_again <= 4, "only what ran, or had ended within milliseconds of the kill, may start again"


def test_supervisor_killed_leaves_no_orphan_and_goes_on(settings: Settings, start: Start, tmp_path: Path) -> None:
    daemon, client = start(settings)
    load = Load(client, tmp_path, 1000, seconds=0.004)
    load.wait_started(100)
    family = daemon.family()
    assert len(family) >= 3
    daemon.kill()
    wait_for(lambda: not any(alive(pid) for pid in family), 2, "all children gone with the supervisor")
    daemon.start()
    daemon.wait_running(2)
    load.check(faults=1)


@pytest.mark.parametrize("hard", [False, True], ids=["stopped", "killed"])
def test_redis_stopped_and_started(kafka: KafkaServer, own_redis: RedisServer, topic_prefix: str, start: Start,
                                   tmp_path: Path, hard: bool) -> None:
    _, client = start(settings_for(kafka, own_redis, topic_prefix, tmp_path))
    load = Load(client, tmp_path, 1000, seconds=0.004)
    load.wait_started(100)
    own_redis.kill() if hard else own_redis.stop()
    time.sleep(2)
    own_redis.start()
    history = load.check(faults=1)
    print(f"{history.run_again} of 1000 tasks started again")


@pytest.mark.parametrize("hard", [False, True], ids=["stopped", "killed"])
def test_kafka_stopped_and_started(own_kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str, start: Start,
                                   tmp_path: Path, hard: bool) -> None:
    _, client = start(settings_for(own_kafka, redis_server, topic_prefix, tmp_path))
    load = Load(client, tmp_path, 1000, seconds=0.004)
    load.wait_started(100)
    own_kafka.kill() if hard else own_kafka.stop()
    time.sleep(2)
    own_kafka.start()
    load.check(faults=1)
    again = client.submit_task("addition", args=[1, 2])
    assert client.get_result(again, timeout=30) == 3


def test_worker_frozen_is_replaced_and_harmless_when_it_thaws(settings: Settings, start: Start, tmp_path: Path) -> None:
    daemon, client = start(settings)
    load = Load(client, tmp_path, 500, seconds=0.004)
    load.wait_started(50)
    victim = busy(daemon)
    os.kill(victim["pid"], signal.SIGSTOP)
    replaced(daemon, victim, 10)
    assert not alive(victim["pid"])
    load.check(faults=1)


def test_soft_and_hard_deadline(settings: Settings, start: Start, tmp_path: Path) -> None:
    daemon, client = start(settings, task_timeout=1, task_timeout_grace_s=1)
    pids = {w["pid"] for w in daemon.workers()}
    path = str(tmp_path / "history")
    soft = client.submit_task("recorded", args=[path, 1, 30])
    with pytest.raises(TaskTimeout):
        client.get_result(soft, timeout=20)
    hard = client.submit_task("stubborn", args=[path, 2, 30])
    with pytest.raises(TaskHardTimeout) as caught:
        client.get_result(hard, timeout=20)
    assert caught.value.code == "TASK_HARD_TIMEOUT"
    assert client.get_task_status(hard) is TaskStatus.FAILED
    assert History.read(Path(path)).starts == {1: 1, 2: 1}, "a task past its deadline is not run again"
    daemon.wait_running(2)
    assert {w["pid"] for w in daemon.workers()} != pids
    assert client.get_result(client.submit_task("addition", args=[1, 2]), timeout=20) == 3


def test_a_deadly_task_ends_and_its_neighbours_succeed(settings: Settings, start: Start, tmp_path: Path) -> None:
    _, client = start(settings, max_crashes=2)
    load = Load(client, tmp_path, 100, seconds=0.01)
    poison = client.submit_task("deadly", args=[str(tmp_path / "poison"), 1])
    with pytest.raises(YADTQError) as caught:
        client.get_result(poison, timeout=60)
    assert caught.value.code == "TASK_CRASHED"
    assert "17" in caught.value.message
    load.check(faults=3)


def test_drain_under_load(settings: Settings, start: Start, tmp_path: Path) -> None:
    daemon, client = start(settings)
    load = Load(client, tmp_path, 1000, seconds=0.01)
    load.wait_started(100)
    begun = time.monotonic()
    assert daemon.end(limit_s=40) == 0
    took_s = time.monotonic() - begun
    history = load.history()
    assert history.starts == history.ends, "what ran has ended"
    assert len(history.ends) < 1000, "the drain came too late to show anything"
    daemon.start()
    daemon.wait_running(2)
    again = load.check(faults=0)
    print(f"drained in {took_s:.1f} s after {len(history.ends)} tasks; {again.run_again} started again")
