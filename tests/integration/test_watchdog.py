"""A worker whose Kafka consumer goes deaf gets another; one that has a reason to fetch nothing keeps what it has."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.config import Settings

pytestmark = pytest.mark.integration
TASKS = ("tests.support.poison", "tests.support.recording")


@pytest.fixture(params=["librdkafka", "kafka-python"])
def deaf_settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.replace(transport=request.param, tasks=TASKS, progress_timeout_s=4.0)


def test_a_consumer_that_brings_nothing_more_is_made_anew(deaf_settings: Settings,
                                                          capfd: pytest.CaptureFixture[str]) -> None:
    with QueueUser(deaf_settings) as user, RoleHost(deaf_settings, own=(0, 1)) as host:
        host.start("janitor")
        host.start("worker", "w0", (0, 1))
        done = user.result(user.submit("p.deafen", deaf_settings.kafka_task_topic, 0, partition=1))
        assert done == deaf_settings.transport
        waiting = user.send([user.message("addition", n, 1) for n in range(20)], partition=0)
        assert user.result(user.submit("addition", 1, 2, partition=1)) == 3     # the other partition goes on
        until(lambda: host.slot("w0").lag > 0, "the lag, which the deaf consumer itself does not see")
        assert user.results(waiting, 40) == [n + 1 for n in range(20)]
        until(lambda: host.shared.partitions[0].watermark == 20, "the watermark")
        assert "partitions [0] have records waiting" in capfd.readouterr().err
        assert not host.statuses                    # nobody had to restart the worker
        assert user.result(user.submit("addition", 1, 2, partition=0)) == 3


def test_reasons_to_fetch_nothing_are_no_false_alarm(settings: Settings, tmp_path: Path,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    """A long task with many behind it, and a partition that an operator has paused, for many times the limit."""
    settings = settings.replace(tasks=TASKS, progress_timeout_s=8.0, task_timeout=60.0)
    with QueueUser(settings) as user, RoleHost(settings, own=(0, 1)) as host:
        host.start("janitor")
        host.start("worker", "w0", (0, 1))
        host.shared.partitions[1].paused = 1
        time.sleep(0.3)
        path = str(tmp_path / "history")
        paused = user.submit("addition", 1, 2, partition=1)
        ids = user.send([user.message("recorded", path, n, 10.0 if n == 0 else 0.0) for n in range(2000)], partition=0)
        assert len(user.results(ids, 60)) == 2000
        time.sleep(2.0)
        assert host.slot("w0").waiting_for == 0
        host.shared.partitions[1].paused = 0
        assert user.result(paused) == 3
        assert "made anew" not in capfd.readouterr().err
        assert not host.statuses
