"""Wall clocks that jump by a day, on worker and client: nothing hangs, nothing is lost, dates alone go wrong."""
from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq import YADTQClient
from yadtq.config import Settings
from yadtq.errors import TaskExpired, TaskSubmissionTimeout
from yadtq.task import new_task_id
from yadtqd.exits import Exit

pytestmark = pytest.mark.integration
DAY_S = 86_400.0


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100, heartbeat_interval=0.5)


@pytest.fixture
def client(quick: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(settings=quick) as client:
        yield client


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The clock of this process."""
    real_s, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real_s() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_the_worker_s(quick: Settings, client: YADTQClient, ahead_s: float) -> None:
    with RoleHost(quick, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        client.get_result(client.submit_task("t.clock", [ahead_s]), timeout=30)
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(200)])
        assert client.get_results(ids, timeout=30) == list(range(1, 201))
        assert client.get_result(client.submit_task("t.sleep", [0.5]), timeout=30) == "slept"
        timed = client.submit_task("addition", [1, 2], expires_s=3600)
        if ahead_s > 0:
            with pytest.raises(TaskExpired):
                client.get_result(timed, timeout=30)
        else:
            assert client.get_result(timed, timeout=30) == 3
        until(lambda: sum(host.shared.partitions[p].watermark for p in range(4)) == 203, "all may be committed", 30)
        client.get_result(client.submit_task("t.clock", [0]), timeout=30)
        assert client.get_result(client.submit_task("addition", [2, 2]), timeout=30) == 4
        host.kill("w0", signal.SIGTERM)
        assert host.status("w0", 30) == Exit.OK


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_the_client_s(quick: Settings, client: YADTQClient, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    with RoleHost(quick, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        before = client.submit_task("t.sleep", [1])
        jump(monkeypatch, ahead_s)
        assert client.get_result(before, timeout=30) == "slept"
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(200)])
        assert client.get_results(ids, timeout=30) == list(range(1, 201))
        assert len(list(client.get_all_tasks())) == 201
        assert new_task_id() > before, "ids still rise"
        client.get_all_workers_health()
        timed = client.submit_task("addition", [1, 2], expires_s=3600)
        if ahead_s < 0:
            with pytest.raises(TaskExpired):
                client.get_result(timed, timeout=30)
        else:
            assert client.get_result(timed, timeout=30) == 3


def test_a_jump_within_a_submission_is_told_and_the_task_runs(quick: Settings, client: YADTQClient,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = client._stamp

    def jumping(*turn: int | None) -> object:
        made = stamp(*turn)
        jump(monkeypatch, 2 * 3600)
        return made
    monkeypatch.setattr(client, "_stamp", jumping)
    with pytest.raises(TaskSubmissionTimeout) as caught:
        client.submit_task("addition", [1, 2])
    (task_id,) = caught.value.task_ids
    with RoleHost(quick, own=(0, 1, 2, 3)) as host, QueueUser(quick) as user:
        host.start("worker", "w0", (0, 1, 2, 3))
        assert user.result(task_id, 30) == 3
