"""Delayed tasks from the client to their result, on real Kafka and Redis: SCHEDULED, on time, cancelled, cleared."""
from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.role_host import RoleHost, until
from yadtq import AsyncYADTQClient, CancelAnswer, TaskStatus, YADTQClient
from yadtq.config import Settings
from yadtq.errors import TaskCancelled
from yadtq.transport import ensure_topics, open_admin

pytestmark = pytest.mark.integration


@pytest.fixture(params=["librdkafka", "kafka-python"])
def quick(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100, host_name="a",
                            kafka_session_timeout_ms=6000, transport=request.param)


@pytest.fixture
def client(quick: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(settings=quick) as made:
        yield made


def test_delayed_tasks_from_the_client_to_their_results(quick: Settings, client: YADTQClient) -> None:
    with RoleHost(quick, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        host.start("scheduler")
        begun = time.time()
        ids = client.submit_tasks(
            [{"task": "addition", "args": [n, 1], "delay_s": 0.5 + n / 20} for n in range(40)]
            + [{"task": "addition", "args": [n, 2]} for n in range(40)])
        keyed = client.submit_task("addition", [1, 2], key="customer-7", due=datetime.now(UTC) + timedelta(seconds=2))
        past = client.submit_task("addition", [5, 5], due=begun - 100)
        never = client.submit_task("addition", [7, 7], delay_s=1.5)
        record = client.get_task(never)
        assert record.status is TaskStatus.SCHEDULED
        assert record.due_ms is not None
        assert begun * 1000 + 1400 < record.due_ms
        assert never in {one.id for one in client.get_tasks_by_status(TaskStatus.SCHEDULED)}
        assert client.cancel_task(never) is CancelAnswer.CONFIRMED
        assert client.cancel_task(never) is CancelAnswer.ENDED
        with pytest.raises(TaskCancelled):
            client.get_result(never, timeout=5)
        assert client.get_result(past, timeout=20) == 10
        assert client.get_results(ids, timeout=30) == [n + 1 for n in range(40)] + [n + 2 for n in range(40)]
        assert client.get_result(keyed, timeout=20) == 3
        for n, one in enumerate(ids[:40]):
            record = client.get_task(one)
            assert record.ended_ms is not None
            assert record.ended_ms >= int(begun * 1000) + 500 + n * 50
        time.sleep(1)
        assert client.get_task(never).status is TaskStatus.CANCELLED
        # the message of what was cancelled came in its time and settled it: all levels and partitions are committed
        counts = client.count_tasks()
        assert counts[TaskStatus.SUCCESS] == 82
        assert counts[TaskStatus.CANCELLED] == 1


def test_clearing_takes_what_is_scheduled(quick: Settings, client: YADTQClient) -> None:
    with RoleHost(quick, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        gone = client.submit_tasks([{"task": "addition", "args": [n, 1], "delay_s": 1.2} for n in range(30)])
        assert client.count_tasks()[TaskStatus.SCHEDULED] == 30
        host.start("scheduler")
        assert client.clear_all_tasks() == 30
        admin = open_admin(quick)
        try:
            assert sum(admin.begin_offsets(quick.kafka_delayed_topic).values()) == 30
        finally:
            admin.close()
        kept = client.submit_task("addition", [1, 2], delay_s=1.5)
        assert client.get_result(kept, timeout=20) == 3
        assert [one.id for one in client.get_all_tasks()] == [kept]
        assert not [one for one in gone if one == kept]


def test_asyncio_and_the_command_line(quick: Settings, tmp_path: Path) -> None:
    ensure_topics(quick)
    with RoleHost(quick, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        host.start("scheduler")

        async def main() -> None:
            async with AsyncYADTQClient(settings=quick) as client:
                begun = time.time()
                ids = await asyncio.gather(*(client.submit_task("addition", [n, 1], delay_s=0.5) for n in range(20)))
                assert await client.get_results(ids, timeout=20) == [n + 1 for n in range(20)]
                assert time.time() - begun >= 0.5

        asyncio.run(main())
        config = tmp_path / "yadtq.toml"
        names = ("kafka_servers", "redis_host", "redis_port", "kafka_task_topic", "kafka_heartbeat_topic",
                 "kafka_dead_letter_topic", "kafka_delayed_topic", "transport")
        config.write_text("".join(f"{name} = {json.dumps(getattr(quick, name))}\n" for name in names))

        def cli(*words: str) -> str:
            done = subprocess.run([sys.executable, "-m", "yadtq.cli", "--config", str(config), *words],
                                  capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        assert cli("submit", "addition", "1", "2", "--delay", "1s", "--wait") == "3"
        far = cli("submit", "addition", "1", "2", "--at", "2031-01-31T12:00+00:00")
        shown = json.loads(cli("status", "--json", far))
        assert shown["status"] == "SCHEDULED"
        assert datetime.fromisoformat(shown["due"]) == datetime(2031, 1, 31, 12, tzinfo=UTC)
        assert "due" in cli("tasks", "--status", "SCHEDULED")


def test_the_daemon_keeps_a_scheduler(settings: Settings, tmp_path: Path) -> None:
    """Killed while tasks wait, it is replaced, and `yadtqctl status` has it among the roles."""
    def scheduler(daemon: Daemon) -> dict[str, Any]:
        return next(one for one in daemon.status()["roles"] if one["name"] == "scheduler")

    with Daemon(settings, tmp_path) as daemon, YADTQClient(settings=settings) as client:
        daemon.wait_running()
        wait_for(lambda: scheduler(daemon)["state"] == "RUNNING", 30, "the scheduler runs")
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1], "delay_s": 1 + n / 500} for n in range(1000)])
        victim = scheduler(daemon)["pid"]
        time.sleep(1.5)
        os.kill(victim, signal.SIGKILL)
        assert client.get_results(ids, timeout=40) == [n + 1 for n in range(1000)]
        assert scheduler(daemon)["pid"] != victim
        print(Path(f"/proc/{scheduler(daemon)['pid']}/smaps_rollup").read_text().split("Pss:")[1].split()[0], "KB PSS")
        assert daemon.end() == 0


def test_the_janitor_deletes_what_was_fired(quick: Settings, client: YADTQClient) -> None:
    with RoleHost(quick, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        host.start("scheduler")
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1], "delay_s": 0.2} for n in range(30)])
        assert client.get_results(ids, timeout=20) == [n + 1 for n in range(30)]
        admin = open_admin(quick)
        try:
            ends = admin.end_offsets(quick.kafka_delayed_topic)
            host.start("janitor")
            until(lambda: admin.begin_offsets(quick.kafka_delayed_topic) == ends, "deletion", 30)
        finally:
            admin.close()
