"""Retries from end to end, scheduler included, while workers are killed: none is lost, none goes beyond its limit.

Each attempt leaves a line in a journal that survives SIGKILL. Without faults the count is exact; a kill may add one run
of what ran, and never an attempt. Run on both transports.
"""
from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_for
from yadtq import TaskStatus, YADTQClient
from yadtq.config import Settings
from yadtq.errors import TaskFailed

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
QUICK = {"num_partitions": 4, "max_workers": 2, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000,
         "tasks": ["tests.support.handlers"]}


@pytest.fixture(params=["librdkafka", "kafka-python"])
def installation(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
                 ) -> Iterator[tuple[Daemon, YADTQClient]]:
    transport = request.param
    client = YADTQClient(4, settings=settings.replace(transport=transport))
    daemon = Daemon(settings, tmp_path, **QUICK | {"transport": transport})
    try:
        daemon.start()
        daemon.wait_running(2)
        yield daemon, client
    finally:
        daemon.end()
        client.close()


def runs(journal: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in journal.read_text().splitlines()) if journal.exists() else Counter()


def test_counts_are_exact_without_a_fault(installation: tuple[Daemon, YADTQClient], tmp_path: Path) -> None:
    _, client = installation
    journal = tmp_path / "journal"
    ids = client.submit_tasks([{"task": "t.flaky", "args": [str(journal), n % 4, f"t{n}"], "retry_backoff_s": 0.2,
                                "key": f"k{n}" if n % 2 else None} for n in range(40)])
    assert client.get_results(ids, timeout=90) == [f"t{n}" for n in range(40)]
    assert runs(journal) == {f"t{n}": n % 4 + 1 for n in range(40)}
    for n, task_id in enumerate(ids):
        assert [one.n for one in client.get_task(task_id).attempts] == list(range(n % 4 + 1))


def test_workers_are_killed_again_and_again(installation: tuple[Daemon, YADTQClient], tmp_path: Path) -> None:
    daemon, client = installation
    journal = tmp_path / "journal"
    good = client.submit_tasks([{"task": "t.flaky", "args": [str(journal), 2, f"t{n}"], "retry_backoff_s": 0.5,
                                 "key": f"k{n}" if n % 3 == 0 else None} for n in range(60)])
    bad = client.submit_tasks([{"task": "t.raise", "args": [f"b{n}"], "max_retries": 2, "retry_backoff_s": 0.5,
                                "key": f"b{n}" if n % 3 == 0 else None} for n in range(30)])
    kills = 0
    until = time.monotonic() + 6
    while time.monotonic() < until:
        for worker in daemon.workers():
            if worker["pid"] and worker["state"] == "RUNNING" and kills < 6:
                os.kill(worker["pid"], signal.SIGKILL)
                kills += 1
                break
        time.sleep(0.9)
    assert kills >= 3
    outcomes = client.get_results([*good, *bad], timeout=120, return_exceptions=True)
    assert outcomes[:60] == [f"t{n}" for n in range(60)]
    assert all(isinstance(one, TaskFailed) and one.error_type == "ValueError" for one in outcomes[60:])
    counted = runs(journal)
    assert all(counted[f"t{n}"] >= 3 for n in range(60))
    assert sum(counted.values()) <= 60 * 3 + 20 * kills
    for task_id in (*good, *bad):
        record = client.get_task(task_id)
        assert record.attempt <= 2, "no attempt beyond the limit"
        assert [one.n for one in record.attempts] == list(range(record.attempt + 1)), "and none is missing"
    assert set(bad) <= {letter.id for letter in client.dead_letters()}
    wait_for(lambda: client.count_tasks()[TaskStatus.RETRYING] == 0, 10, "nothing waits any more")
